-- name: live_bytes
-- The heap that the live rows need: 24 bytes of header, 4 of line pointer and the columns' average widths each, 8-aligned.
SELECT c.reltuples::bigint,
       (c.reltuples * (28 + coalesce((
         SELECT sum(s.avg_width * (1 - s.null_frac)) FROM pg_stats AS s
         WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND NOT s.inherited
       ), 0) + 4))::bigint
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s
