-- name: server
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn,
       pg_size_bytes(current_setting('max_wal_size')),
       pg_size_bytes(current_setting('wal_segment_size')),
       current_setting('full_page_writes')::boolean,
       current_setting('data_checksums')::boolean OR current_setting('wal_log_hints')::boolean,
       current_setting('wal_level') = 'logical',
       CASE WHEN current_setting('max_slot_wal_keep_size') <> '-1' THEN pg_size_bytes(current_setting('max_slot_wal_keep_size')) END,
       current_setting('archive_mode') <> 'off',
       (SELECT last_archived_wal FROM pg_stat_archiver),
       has_function_privilege('pg_control_checkpoint()', 'EXECUTE'),
       coalesce((SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = 'pg_checkpoint'), false)

-- name: redo
SELECT redo_lsn - '0/0'::pg_lsn FROM pg_control_checkpoint()

-- name: slots
SELECT slot_name, active, restart_lsn - '0/0'::pg_lsn FROM pg_replication_slots
WHERE restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost'

-- name: table
-- With the partitions and the inheriting tables that hold its rows.
WITH RECURSIVE tree (root, oid) AS (
  SELECT c.oid, c.oid
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))
  UNION
  SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid
)
SELECT (SELECT n.nspname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = tree.root),
       (SELECT c.relname::text FROM pg_class AS c WHERE c.oid = tree.root),
       coalesce(sum(pg_relation_size(c.oid)), 0)::bigint,
       coalesce(sum(pg_total_relation_size(nullif(c.reltoastrelid, 0))), 0)::bigint,
       coalesce(sum(pg_indexes_size(c.oid)), 0)::bigint,
       coalesce(max((SELECT count(*) FROM pg_index AS i WHERE i.indrelid = c.oid)), 1),
       -- As the planner does: as many rows on a page as when they were last counted, on the pages that there are.
       coalesce(sum(CASE WHEN c.reltuples > 0 AND c.relpages > 0
         THEN (c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::int))::bigint
         ELSE greatest(pg_stat_get_live_tuples(c.oid), 0)
       END), 0)::bigint,
       coalesce((array_agg(c.relreplident ORDER BY c.relreplident = 'f' DESC))[1], 'd'),
       -- By column, for each of the heaps.
       array_agg((
         SELECT jsonb_object_agg(s.attname, abs(s.correlation)) FROM pg_stats AS s
         WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.correlation IS NOT NULL AND NOT s.inherited
       ))
FROM tree
JOIN pg_class AS c ON c.oid = tree.oid AND c.relkind <> 'p'
JOIN pg_namespace AS n ON n.oid = c.relnamespace
GROUP BY tree.root

-- name: sample
-- 28 bytes of header and line pointer, and 4 that alignment takes on average.
SELECT avg(size)::float8, avg(key)::float8
FROM (SELECT 32 + {columns} AS size, {key} AS key FROM {table} {sample} WHERE {eligible} LIMIT {limit}) AS sampled
