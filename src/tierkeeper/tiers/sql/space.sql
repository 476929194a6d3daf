-- name: closed
-- Relations that nobody may open, or only behind one who waits for that: asking for their size would mean waiting, too. They
-- count as large as when they were last vacuumed or analysed. Without `at_once` nobody looks, and everything is waited for.
closed (oid) AS MATERIALIZED (
  SELECT relation FROM pg_locks
  WHERE %(at_once)s AND locktype = 'relation' AND mode = 'AccessExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()
    AND database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
)

-- name: tree
tree (root, oid) AS (
  SELECT c.oid, c.oid
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))
    AND c.relkind = ANY (%(kinds)s::"char"[])
  UNION
  SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
)

-- name: table_size
-- The tables with the partitions and children that hold rows of them, which have the bytes.
WITH RECURSIVE {closed}, {tree}
SELECT rn.nspname::text, r.relname::text,
       coalesce(sum(s.heap), 0)::bigint, coalesce(sum(s.indexes), 0)::bigint, coalesce(sum(s.toast), 0)::bigint,
       -- The counters follow every commit, but a crash of the server sets them to nothing; then the planner's figure is better.
       sum(CASE
         WHEN c.relkind = 'p' THEN 0
         WHEN c.reltuples <= 0
           OR coalesce(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid),
                       pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) IS NOT NULL
         -- What a session adds right before its ANALYZE is counted twice, and stays so till the next one: no more rows than fit.
         THEN CASE WHEN counted.rows > 1.2 * counted.by_pages THEN least(counted.rows, (
                SELECT greatest(counted.by_pages, counted.pages * (page.bytes::float8 - 24)
                         / (28 + sum(st.avg_width * (1 - st.null_frac))))
                FROM pg_stats AS st WHERE st.schemaname = cn.nspname AND st.tablename = c.relname AND NOT st.inherited
              ))::bigint ELSE counted.rows END
         ELSE c.reltuples::bigint
       END)::bigint,
       bool_or(s.closed)
FROM tree
JOIN pg_class c ON c.oid = tree.oid AND c.relkind IN ('r', 'p', 'm')
JOIN pg_class r ON r.oid = tree.root
JOIN pg_namespace rn ON rn.oid = r.relnamespace
JOIN pg_namespace cn ON cn.oid = c.relnamespace
CROSS JOIN current_setting('block_size') AS page (bytes)
CROSS JOIN LATERAL (
  SELECT sum(one.bytes) FILTER (WHERE one.kind = 'heap') AS heap, sum(one.bytes) FILTER (WHERE one.kind = 'toast') AS toast,
         sum(one.bytes) FILTER (WHERE one.kind = 'index') AS indexes, bool_or(one.closed) AS closed
  FROM (
    SELECT of.kind, of.oid IN (TABLE closed) AS closed,
           CASE WHEN of.oid IN (TABLE closed) THEN of.relpages * page.bytes::bigint
                WHEN of.kind <> 'heap' THEN pg_table_size(of.oid)
                ELSE pg_relation_size(of.oid) + pg_relation_size(of.oid, 'vm') + pg_relation_size(of.oid, 'fsm')
           END AS bytes
    FROM (
      SELECT 'heap', c.oid, c.relpages
      UNION ALL
      SELECT 'index', i.oid, i.relpages FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid
      UNION ALL
      SELECT 'toast', t.oid, t.relpages FROM pg_class AS t WHERE t.oid = c.reltoastrelid
      UNION ALL
      SELECT 'toast', i.oid, i.relpages
      FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid WHERE x.indrelid = nullif(c.reltoastrelid, 0)
    ) AS of (kind, oid, relpages)
  ) AS one
) AS s
CROSS JOIN LATERAL (
  SELECT p.pages, coalesce(pg_stat_get_live_tuples(c.oid), 0) AS rows, c.reltuples / nullif(c.relpages, 0) * p.pages AS by_pages
  FROM (SELECT s.heap::float8 / page.bytes::int) AS p (pages)
) AS counted
GROUP BY tree.root, rn.nspname, r.relname

-- name: heap
-- After a VACUUM no deleted rows are left but those that an old snapshot still sees. What a row takes in the heap: 24 bytes of
-- header, 4 of line pointer and the columns' average widths, 8-aligned. Of a table that VACUUM could not have, only the
-- counters know what was deleted.
WITH {closed}
SELECT n.nspname::text, c.relname::text,
       CASE WHEN c.oid IN (TABLE closed) THEN c.relpages ELSE pg_relation_size(c.oid) / current_setting('block_size')::int END,
       CASE WHEN %(locked)s THEN pg_stat_get_live_tuples(c.oid) ELSE greatest(c.reltuples, 0)::bigint END,
       CASE WHEN %(locked)s THEN 0 ELSE coalesce(pg_stat_get_dead_tuples(c.oid), 0) END,
       (28 + coalesce((
         SELECT sum(s.avg_width * (1 - s.null_frac)) FROM pg_stats AS s
         WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND NOT s.inherited
       ), 0) + 4)::float8,
       coalesce(CASE WHEN c.reltoastrelid IN (TABLE closed) THEN 0 ELSE pg_relation_size(nullif(c.reltoastrelid, 0)) END, 0),
       coalesce((SELECT greatest(t.reltuples, 0)::bigint FROM pg_class AS t WHERE t.oid = c.reltoastrelid), 0),
       (SELECT coalesce(sum(pg_table_size(x.indexrelid)), 0)::bigint FROM pg_index AS x
        WHERE x.indrelid = c.oid AND x.indexrelid NOT IN (TABLE closed)),
       coalesce(substring(array_to_string(c.reloptions, ',') FROM 'fillfactor=(\d+)')::float8, 100) / 100
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))

-- name: indexes
-- A btree's entry: 8 bytes of header, 4 of line pointer, a null bitmap where there are nulls, the columns' widths, 8-aligned; a
-- variable one is on average half a step longer. Columns of an expression have their statistics under the index's own name.
-- Which indexes are asked about is settled first, and statistics are looked up by names: else all of them are gone through for
-- each index that there is.
WITH {closed}, these AS MATERIALIZED (
  SELECT n.nspname, c.oid AS table_oid, c.relname, i.oid, i.relname AS index_name, i.relpages, i.reltuples, i.reloptions, a.amname,
         x.indkey, x.indisunique, x.indisexclusion, x.indisvalid, x.indisready
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_index AS x ON x.indrelid = c.oid
  JOIN pg_class AS i ON i.oid = x.indexrelid
  JOIN pg_am AS a ON a.oid = i.relam
  WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))
)
SELECT t.nspname::text, t.relname::text,
       t.index_name::text,
       CASE WHEN t.oid IN (TABLE closed) THEN t.relpages * current_setting('block_size')::bigint ELSE pg_relation_size(t.oid) END,
       greatest(t.reltuples, 0)::bigint,
       CASE WHEN t.amname = 'btree' AND w.known THEN 12 + w.nulls + 8 * ceil((w.bytes + w.padding) / 8) END::float8,
       coalesce(substring(array_to_string(t.reloptions, ',') FROM 'fillfactor=(\d+)')::float8, 90) / 100,
       NOT t.indisunique,
       CASE WHEN t.indisexclusion THEN 'an exclusion constraint''s index cannot be rebuilt beside itself'
            WHEN NOT t.indisvalid OR NOT t.indisready THEN 'it is invalid: REINDEX it or drop it'
       END
FROM these AS t
CROSS JOIN LATERAL (
  SELECT bool_and(s.avg_width IS NOT NULL) AS known, sum(s.avg_width * (1 - s.null_frac)) AS bytes,
         max(CASE WHEN s.null_frac > 0 THEN 8 ELSE 0 END) AS nulls, max(CASE WHEN k.attlen < 0 THEN 4 ELSE 0 END) AS padding
  FROM pg_attribute AS k
  LEFT JOIN pg_attribute AS own ON own.attrelid = t.table_oid AND own.attnum = t.indkey[k.attnum - 1] AND own.attnum > 0
  LEFT JOIN LATERAL (
    SELECT s.avg_width, s.null_frac FROM pg_stats AS s
    WHERE NOT s.inherited AND s.schemaname = t.nspname
      AND s.tablename = CASE WHEN own.attnum IS NULL THEN t.index_name ELSE t.relname END
      AND s.attname = CASE WHEN own.attnum IS NULL THEN k.attname ELSE own.attname END
    LIMIT 1
  ) AS s ON true
  WHERE k.attrelid = t.oid AND k.attnum > 0
) AS w
ORDER BY 4, 3

-- name: heaps
-- The heaps of the tables that are named, and of the largest others, each with the table whose rows it has: itself, or what it is
-- a partition or a child of. Which are the largest the catalog says well enough; of what was never vacuumed it says nothing.
WITH RECURSIVE {closed}, named (oid) AS (
  SELECT c.oid
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[])) AND c.relkind IN ('r', 'p', 'm')
), tree (root, oid) AS (
  SELECT c.oid, c.oid
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('tierkeeper', 'tierkeeper_jobs', 'pg_catalog', 'information_schema', 'pg_toast')
    AND (c.oid IN (TABLE named) OR NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid))
  UNION
  SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
), weighed (root, pages) AS (
  SELECT tree.root,
         sum(CASE WHEN c.relpages > 0 OR c.relkind = 'p' OR c.oid IN (TABLE closed) THEN c.relpages
                  ELSE pg_relation_size(c.oid) / current_setting('block_size')::int END
             + coalesce((SELECT t.relpages FROM pg_class AS t WHERE t.oid = c.reltoastrelid), 0)
             + coalesce((SELECT sum(x.relpages) FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid), 0))
  FROM tree JOIN pg_class AS c ON c.oid = tree.oid
  GROUP BY tree.root
), chosen (root) AS (
  SELECT root FROM weighed WHERE root IN (TABLE named)
  UNION ALL
  (SELECT root FROM weighed WHERE root NOT IN (TABLE named) AND pages > 0 ORDER BY pages DESC, root LIMIT %(others)s)
)
SELECT rn.nspname::text, r.relname::text, n.nspname::text, c.relname::text, c.relkind = 'p'
FROM chosen
JOIN tree USING (root)
JOIN pg_class AS r ON r.oid = chosen.root JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
JOIN pg_class AS c ON c.oid = tree.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm')

-- name: counters
-- What has been done to the tables since the statistics were reset: rows read by scans and by indexes, rows written, pages found in
-- the server's memory and not; and the deleted rows that no VACUUM has met yet. A partition that is dropped takes its share along.
-- A scan of an index alone fetches no row: where indexes gave more entries than rows were fetched by them, those count.
WITH RECURSIVE {tree}
SELECT rn.nspname::text, r.relname::text, count(*) FILTER (WHERE c.relkind <> 'p'),
       coalesce(sum(pg_stat_get_tuples_returned(c.oid)), 0)::bigint,
       coalesce(sum(greatest(pg_stat_get_tuples_fetched(c.oid) + i.fetched, i.entries)), 0)::bigint,
       coalesce(sum(pg_stat_get_tuples_inserted(c.oid)), 0)::bigint,
       coalesce(sum(pg_stat_get_tuples_updated(c.oid)), 0)::bigint,
       coalesce(sum(pg_stat_get_tuples_deleted(c.oid)), 0)::bigint,
       coalesce(sum(pg_stat_get_blocks_hit(c.oid) + i.hit + t.hit), 0)::bigint,
       coalesce(sum(pg_stat_get_blocks_fetched(c.oid) - pg_stat_get_blocks_hit(c.oid) + i.missed + t.missed), 0)::bigint,
       coalesce(sum(pg_stat_get_dead_tuples(c.oid)), 0)::bigint
FROM tree
JOIN pg_class AS c ON c.oid = tree.oid AND c.relkind IN ('r', 'p', 'm')
JOIN pg_class AS r ON r.oid = tree.root JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
CROSS JOIN LATERAL (
  SELECT coalesce(sum(pg_stat_get_tuples_fetched(x.indexrelid)), 0) AS fetched,
         coalesce(sum(pg_stat_get_tuples_returned(x.indexrelid)), 0) AS entries,
         coalesce(sum(pg_stat_get_blocks_hit(x.indexrelid)), 0) AS hit,
         coalesce(sum(pg_stat_get_blocks_fetched(x.indexrelid) - pg_stat_get_blocks_hit(x.indexrelid)), 0) AS missed
  FROM pg_index AS x WHERE x.indrelid = c.oid
) AS i
CROSS JOIN LATERAL (
  SELECT coalesce(sum(pg_stat_get_blocks_hit(s.oid)), 0) AS hit,
         coalesce(sum(pg_stat_get_blocks_fetched(s.oid) - pg_stat_get_blocks_hit(s.oid)), 0) AS missed
  FROM (
    SELECT nullif(c.reltoastrelid, 0)
    UNION ALL
    SELECT x.indexrelid FROM pg_index AS x WHERE x.indrelid = nullif(c.reltoastrelid, 0)
  ) AS s (oid)
) AS t
GROUP BY tree.root, rn.nspname, r.relname

-- name: beside
-- What of the database is none of the application's: the system catalogs, without large objects, and tierkeeper's own schemas.
WITH {closed}
SELECT coalesce(sum(s.bytes) FILTER (WHERE n.nspname NOT IN ('tierkeeper', 'tierkeeper_jobs')), 0)::bigint,
       coalesce(sum(s.bytes) FILTER (WHERE n.nspname IN ('tierkeeper', 'tierkeeper_jobs')), 0)::bigint
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
  SELECT CASE WHEN c.oid IN (TABLE closed) OR c.reltoastrelid IN (TABLE closed)
           THEN c.relpages * current_setting('block_size')::bigint ELSE pg_table_size(c.oid) END
) AS s (bytes)
WHERE n.nspname IN ('pg_catalog', 'information_schema', 'tierkeeper', 'tierkeeper_jobs') AND c.relkind IN ('r', 'm', 'i') AND NOT c.relisshared
  AND c.relname NOT LIKE 'pg\_largeobject%%'
