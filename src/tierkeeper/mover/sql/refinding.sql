-- name: staging
CREATE TEMP TABLE {staged} ON COMMIT DROP AS SELECT {columns} FROM {table} LIMIT 0

-- name: found
CREATE TEMP TABLE {found} ON COMMIT DROP AS
SELECT t.tableoid AS heap, t.ctid AS place, {equal} AS equal, jsonb_build_array({key}) AS key
FROM {staged} AS s JOIN {table} AS t ON {same}

-- name: count
-- Beside them the rows of the same ages here that may be the batch's as well.
SELECT count(*) FILTER (WHERE equal),
       jsonb_agg(key) FILTER (WHERE NOT equal),
       (SELECT count(*) FROM {table} AS t WHERE {near} AND (t.tableoid, t.ctid) NOT IN (SELECT heap, place FROM {found}))
FROM {found}

-- name: among
(tableoid, ctid) IN (SELECT heap, place FROM {found} WHERE equal)

-- name: delete
DELETE FROM {table} WHERE {condition}

-- name: undone
UPDATE tierkeeper.ledger SET state = 'undone', settled_at = clock_timestamp() WHERE batch = %(batch)s AND state IN ('open', 'copied')

-- name: settled
UPDATE tierkeeper.ledger SET rows = {rows} WHERE batch = {batch}
