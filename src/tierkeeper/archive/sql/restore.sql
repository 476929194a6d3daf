-- name: read_from_text
-- Of these types those that are, in binary too, the text that they are written as: enums, and what reads it as `text` does.
SELECT asked.schema, asked.name
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS asked (schema, name)
JOIN pg_namespace AS n ON n.nspname = asked.schema
JOIN pg_type AS t ON t.typnamespace = n.oid AND t.typname = asked.name
JOIN pg_proc AS p ON p.oid = t.typreceive
JOIN pg_language AS l ON l.oid = p.prolang
WHERE l.lanname = 'internal' AND p.prosrc IN ('textrecv', 'enum_recv')
