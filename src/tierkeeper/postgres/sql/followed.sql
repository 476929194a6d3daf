-- name: followed_there
SELECT to_regclass('tierkeeper.followed') IS NOT NULL

-- name: followed
SELECT f.schema_name, f.table_name, f.relation::bigint, f.number::int, f.column_name, f.type, f.former
FROM tierkeeper.followed f
JOIN unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
  ON f.schema_name = wanted.schema AND f.table_name = wanted.name
ORDER BY f.schema_name, f.table_name, f.number
