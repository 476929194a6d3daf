-- name: conflicts
SELECT key FROM tierkeeper.conflict WHERE schema_name = %(schema)s AND table_name = %(table)s ORDER BY key

-- name: conflict_there
SELECT to_regclass('tierkeeper.conflict') IS NOT NULL

-- name: conflict_tables
SELECT DISTINCT n.nspname::text, t.relname::text
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
JOIN tierkeeper.conflict AS c ON c.schema_name = wanted.schema AND c.table_name = wanted.name
JOIN pg_namespace AS n ON n.nspname = wanted.schema
JOIN pg_class AS t ON t.relnamespace = n.oid AND t.relname = wanted.name

-- name: conflicts_standing
SELECT key FROM tierkeeper.conflict AS c
WHERE schema_name = {schema} AND table_name = {name} AND EXISTS (SELECT FROM {table} AS t WHERE {same})
ORDER BY key

-- name: conflict_note
INSERT INTO tierkeeper.conflict (schema_name, table_name, key)
VALUES (%(schema)s, %(table)s, %(key)s::jsonb)
ON CONFLICT (schema_name, table_name, key) DO UPDATE SET core_gone_at = NULL WHERE conflict.core_gone_at IS NOT NULL

-- name: conflict_noted
SELECT key::text FROM tierkeeper.conflict WHERE schema_name = {schema} AND table_name = {name}

-- name: conflict_here_gone
DELETE FROM tierkeeper.conflict AS c
WHERE schema_name = {schema} AND table_name = {name} AND NOT EXISTS (SELECT FROM {table} AS t WHERE {same})

-- name: conflict_core_gone
UPDATE tierkeeper.conflict
SET core_gone_at = CASE WHEN NOT key = ANY (%(present)s::jsonb[]) THEN coalesce(core_gone_at, clock_timestamp()) END
WHERE schema_name = %(schema)s AND table_name = %(table)s

-- name: conflict_over
DELETE FROM tierkeeper.conflict
WHERE schema_name = %(schema)s AND table_name = %(table)s
  AND core_gone_at < clock_timestamp() - make_interval(secs => %(seconds)s)
