-- name: delete
{name} AS (DELETE FROM ONLY {table} WHERE {predicate} RETURNING ctid, xmin)

-- name: deleted
SELECT {place}, count(*), {fingerprint}::text, pg_relation_filenode({regclass}::regclass)::bigint FROM {name}

-- name: reaching
-- Rows outside of the bundle that refer to rows in it.
FROM (SELECT {columns} FROM {children} WHERE {outside}) AS child
JOIN (SELECT * FROM ONLY {parent} WHERE {inside}) AS parent ON {meets}

-- name: seeds
SELECT ctid::text FROM ONLY {table} WHERE {within}

-- name: weigh
SELECT coalesce(sum({sizes}), 0)::bigint FROM ONLY {table} WHERE {places}

-- name: weigh_columns
SELECT count(*), {sizes} FROM ONLY {table} WHERE {places}

-- name: look
-- The table has no other name here: the user's own condition may call it by its own.
SELECT ctid::text, CASE WHEN ({may_leave}) IS NOT TRUE THEN {young} {pinned} END FROM ONLY {table} WHERE {places}

-- name: kept
WHEN NOT ({others}) THEN {why}

-- name: pinned
WHEN EXISTS (SELECT FROM {children} AS tierkeeper_child WHERE {meets}) THEN {why}

-- name: parents_of
SELECT child.ctid::text, parent.ctid::text
FROM {children} AS child JOIN ONLY {parent} AS parent ON {meets}
WHERE child.{places}

-- name: children_of
SELECT child.ctid::text, parent.ctid::text
FROM {children} AS child JOIN ONLY {parent} AS parent ON {meets}
WHERE parent.{places}
