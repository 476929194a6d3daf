-- name: toasted
-- A numeric is never large.
SELECT n.nspname::text, c.relname::text, a.attname::text, pg_relation_size(c.reltoastrelid)
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[])) AND a.attnum > 0 AND NOT a.attisdropped AND a.attlen = -1 AND a.atttypid <> 'numeric'::regtype
  AND c.reltoastrelid <> 0 AND pg_relation_size(c.reltoastrelid) > 0
ORDER BY a.attrelid, a.attnum

-- name: too_wide
-- What follows a CASE's condition is unpacked for those rows alone that it holds for.
SELECT {key}, {sure} + {unpacked} FROM ONLY {table} AS t
WHERE {eligible} AND CASE WHEN {most} > {limit} THEN {sure} + {unpacked} > {limit} ELSE false END
LIMIT 1
