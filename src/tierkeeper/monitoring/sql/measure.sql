-- name: server
-- Rows that scans of the database's tables read, its catalogs' among them, and rows that were written.
SELECT clock_timestamp(), CASE WHEN %(apart)s THEN pg_database_size(current_database()) END,
       d.tup_returned, d.tup_inserted + d.tup_updated + d.tup_deleted, d.blks_hit, d.blks_read, d.stats_reset,
       has_function_privilege('pg_ls_waldir()', 'EXECUTE')
FROM pg_stat_database AS d WHERE d.datname = current_database()

-- name: wal
SELECT sum(size)::bigint FROM pg_ls_waldir()

-- name: slots
-- What each keeps from being removed: one that is lost keeps nothing, and one that has never been read has no place yet.
SELECT slot_name::text, slot_type, active, wal_status, temporary,
       CASE WHEN restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost' THEN greatest(0,
         CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
              ELSE pg_current_wal_lsn() END - restart_lsn)::bigint END
FROM pg_replication_slots ORDER BY 6 DESC NULLS LAST, 1

-- name: statements_where
-- Where pg_stat_statements has its view, and what it calls its times: that changed with Postgres 13.
SELECT n.nspname::text,
       EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'total_exec_time' AND NOT a.attisdropped)
FROM pg_extension AS e
JOIN pg_namespace AS n ON n.oid = e.extnamespace
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements' AND c.relkind = 'v'
WHERE e.extname = 'pg_stat_statements' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')

-- name: statements
-- Of other users' statements a role without pg_read_all_stats sees no text, and they have no id.
SELECT left(query, 4000), calls, {seconds} / 1000, rows
FROM {view}
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL
ORDER BY {seconds} DESC
LIMIT %(limit)s
