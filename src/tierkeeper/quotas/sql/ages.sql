-- name: ages
-- What the planner knows of an age column: bounds between which equally many rows lie, and the values that are frequent apart.
-- Of a table with partitions or children it knows the whole; of what was never analyzed nothing.
SELECT DISTINCT ON (s.schemaname, s.tablename)
       s.schemaname::text, s.tablename::text, s.null_frac::float8,
       (SELECT array_agg(extract(epoch FROM b)::float8 ORDER BY b)
        FROM unnest(s.histogram_bounds::text::timestamptz[]) AS b WHERE isfinite(b)),
       (SELECT array_agg(extract(epoch FROM v)::float8 ORDER BY n)
        FROM unnest(s.most_common_vals::text::timestamptz[]) WITH ORDINALITY AS u (v, n)),
       s.most_common_freqs::float8[]
FROM pg_stats AS s
WHERE (s.schemaname, s.tablename, s.attname) IN
      (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[], %(columns)s::name[]))
ORDER BY s.schemaname, s.tablename, s.inherited DESC
