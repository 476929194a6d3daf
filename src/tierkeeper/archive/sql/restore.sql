-- name: read_from_text
-- Of these types those that are, in binary too, the text that they are written as: enums, and what reads it as `text` does.
SELECT asked.type
FROM unnest(%(types)s::text[]) AS asked(type)
JOIN pg_type t ON t.oid = to_regtype(asked.type)
JOIN pg_proc p ON p.oid = t.typreceive
JOIN pg_language l ON l.oid = p.prolang
WHERE l.lanname = 'internal' AND (p.prosrc = 'textrecv' OR p.prosrc = 'enum_recv')
