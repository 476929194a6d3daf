-- name: there
SELECT n.nspname::text, c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[])) AND c.relkind IN ('r', 'p')
ORDER BY 1, 2

-- name: undone
UPDATE tierkeeper.ledger SET state = 'undone', settled_at = clock_timestamp() WHERE batch = ANY (%(batches)s) AND state = 'copied'

-- name: in_flight
-- The writers of other copies in flight, whoever sent them: their rows are theirs.
SELECT copy_xid::xid::text FROM tierkeeper.ledger
WHERE schema_name = %(schema)s AND table_name = %(table)s AND state = 'copied' AND batch <> ALL (%(batches)s)

-- name: arriving
SELECT EXISTS (SELECT FROM tierkeeper.ledger WHERE schema_name = %(schema)s AND table_name = %(table)s AND state = 'copied')

-- name: staging
CREATE TEMP TABLE {staged} ON COMMIT DROP AS SELECT {columns} FROM {table} LIMIT 0

-- name: finding
CREATE TEMP TABLE {found} (heap oid, place tid, equal boolean, near boolean, key jsonb) ON COMMIT DROP

-- name: find
-- A key is kept where it may be told alone: with many long ones this table would be as large as the copy.
INSERT INTO {found}
SELECT heap, place, equal, near, CASE WHEN NOT equal THEN key END
FROM (
    SELECT t.tableoid AS heap, t.ctid AS place, {equal} AS equal, (SELECT {near} FROM (SELECT t.*) AS it) AS near,
           jsonb_build_array({key}) AS key
    FROM {staged} AS s JOIN {table} AS t ON {same}
    WHERE {own}
) AS met

-- name: emptied
TRUNCATE {staged}

-- name: count
-- Beside them the rows of the same ages here that may be the batches' as well.
SELECT count(*) FILTER (WHERE equal),
       jsonb_agg(jsonb_build_array(key, near)) FILTER (WHERE NOT equal),
       (SELECT count(*) FROM {table} AS t
        WHERE {near} AND {own} AND NOT EXISTS (SELECT FROM {found} AS f WHERE f.heap = t.tableoid AND f.place = t.ctid))
FROM {found}

-- name: among
(tableoid, ctid) IN (SELECT heap, place FROM {found} WHERE equal)

-- name: delete
DELETE FROM {table} WHERE {condition}

-- name: settled
UPDATE tierkeeper.ledger SET rows = CASE WHEN batch = {first} THEN {rows} ELSE -1 END WHERE batch IN ({batches})
