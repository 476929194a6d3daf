-- name: statistics
-- Plain tables whose statistics are young enough. Of a partitioned one the plan names every partition, which is long to send.
SELECT n.nspname, c.relname
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS asked (schema, name)
JOIN pg_namespace AS n ON n.nspname = asked.schema
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = asked.name
JOIN pg_stat_all_tables AS s ON s.relid = c.oid
WHERE c.relkind = 'r' AND NOT c.relhassubclass AND c.reltuples >= 0
  AND (s.last_analyze IS NOT NULL OR s.last_autoanalyze IS NOT NULL)
  AND s.n_mod_since_analyze <= %(stale)s * greatest(c.reltuples, 1)
