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

-- name: arrivals
SELECT coalesce(max(l.seq), 0), coalesce(bool_or(l.state IN ('open', 'copied')), false),
       coalesce(max(l.seq), 0) > coalesce((
         SELECT max(substr(c.thawed, length('mirrored ') + 1)::bigint) FROM tierkeeper.compared AS c
         WHERE c.schema_name = %(schema)s AND c.table_name = %(table)s AND starts_with(c.thawed, 'mirrored ')
       ), 0)
FROM tierkeeper.ledger AS l
WHERE l.schema_name = %(schema)s AND l.table_name = %(table)s AND l.state <> 'undone'

-- name: mirrored_before
DELETE FROM tierkeeper.compared WHERE schema_name = %(schema)s AND table_name = %(table)s AND starts_with(thawed, 'mirrored ')

-- name: mirrored
INSERT INTO tierkeeper.compared (schema_name, table_name, id, thawed)
VALUES (%(schema)s, %(table)s, gen_random_uuid(), 'mirrored ' || %(newest)s::bigint)
