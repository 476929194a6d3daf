-- name: references
SELECT n.nspname, c.relname
FROM pg_constraint AS f
JOIN pg_class AS c ON c.oid = f.confrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS own ON own.oid = f.conrelid
JOIN pg_namespace AS own_schema ON own_schema.oid = own.relnamespace
WHERE f.contype = 'f' AND own_schema.nspname = %(schema)s AND own.relname = %(table)s

-- name: upsert
INSERT INTO {table} AS t ({columns})
SELECT {columns} FROM {staging}
ON CONFLICT ({key}) {action}
