-- name: read
SELECT version, state::text FROM tierkeeper.alert WHERE name = %(name)s

-- name: begin
INSERT INTO tierkeeper.alert (name, version, state) VALUES (%(name)s, 1, %(state)s::jsonb)
ON CONFLICT (name) DO NOTHING
RETURNING version

-- name: change
UPDATE tierkeeper.alert SET version = version + 1, state = %(state)s::jsonb, changed_at = clock_timestamp()
WHERE name = %(name)s AND version = %(version)s
RETURNING version

-- name: readable
-- Tables of the user's that this role may read, the largest first: they are likeliest to have a row.
SELECT n.nspname::text, c.relname::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tierkeeper', 'tierkeeper_jobs') AND n.nspname NOT LIKE 'pg\_%%'
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
ORDER BY c.relpages DESC, n.nspname, c.relname
LIMIT %(limit)s

-- name: bound
SELECT set_config('statement_timeout', %(milliseconds)s, true)

-- name: one_row
SELECT t.tableoid::bigint FROM {table} AS t LIMIT 1
