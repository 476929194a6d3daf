-- name: row_bytes
-- Live rows, deleted rows that an old snapshot still sees (after a VACUUM no others are left), and what a row takes in the heap:
-- 24 bytes of header, 4 of line pointer and the columns' average widths each, 8-aligned.
SELECT c.reltuples::bigint,
       coalesce(pg_stat_get_dead_tuples(c.oid), 0),
       (28 + coalesce((
         SELECT sum(s.avg_width * (1 - s.null_frac)) FROM pg_stats AS s
         WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND NOT s.inherited
       ), 0) + 4)::float8
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: largest
-- The application's largest tables, with their indexes.
SELECT n.nspname::text, c.relname::text, pg_total_relation_size(c.oid)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('tierkeeper', 'pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 3 DESC, 1, 2
LIMIT 20
