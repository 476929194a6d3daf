-- name: pages
SELECT pg_relation_size(c.oid) / current_setting('block_size')::int
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: move_tail
-- SKIP LOCKED never waits for the application, and holds nothing that it could wait for in a circle.
WITH tail AS MATERIALIZED (
  SELECT ctid FROM ONLY {table} WHERE ctid >= {low}::tid AND ctid < {high}::tid FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE ONLY {table} AS t SET {column} = t.{column}
WHERE t.ctid = ANY (ARRAY (SELECT tail.ctid FROM tail))
RETURNING t.ctid::text

-- name: move_on
UPDATE ONLY {table} AS t SET {column} = t.{column} WHERE t.ctid = ANY ({stayed}::tid[]) RETURNING t.ctid::text

-- name: wal_since
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %(lsn)s::pg_lsn)::bigint

-- name: wal_now
SELECT pg_current_wal_insert_lsn()::text
