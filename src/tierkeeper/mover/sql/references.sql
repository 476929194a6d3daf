-- name: delete
{name} AS (DELETE FROM ONLY {table} WHERE {predicate} RETURNING ctid, xmin)

-- name: deleted
SELECT {place}, count(*), {fingerprint}::text, pg_relation_filenode({regclass}::regclass)::bigint FROM {name}

-- name: reaching
-- Rows outside of the bundle that refer to rows in it.
FROM (SELECT {columns} FROM {children} WHERE {outside}) AS child
JOIN ({inside}) AS parent ON {meets}

-- name: seeds
SELECT {place} FROM {table} WHERE {here} AND {within}

-- name: weigh
SELECT coalesce(sum({sizes}), 0)::bigint FROM ({rows}) AS kept

-- name: weigh_columns
SELECT count(*), {sizes} FROM ({rows}) AS kept

-- name: look
-- The table has no other name here: the user's own condition may call it by its own.
SELECT {place}, CASE WHEN ({may_leave}) IS NOT TRUE THEN {young} {pinned} END FROM ONLY {heap} {named} WHERE {places}

-- name: kept
WHEN NOT ({others}) THEN {why}

-- name: pinned
WHEN EXISTS (SELECT FROM {children} AS tierkeeper_child WHERE {meets}) THEN {why}

-- name: parents_of
SELECT child.{known}, {place} FROM ({children}) AS child JOIN {parents} AS parent ON {meets}

-- name: children_of
SELECT {place}, parent.{known} FROM {children} AS child JOIN ({parents}) AS parent ON {meets}
