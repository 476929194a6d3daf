-- name: facts
SELECT CASE WHEN %(whole_server)s
         THEN (SELECT sum(pg_database_size(oid)) FROM pg_database WHERE has_database_privilege(oid, 'CONNECT'))
         ELSE pg_database_size(current_database())
       END::bigint,
       current_setting('default_transaction_read_only') = 'on',
       pg_is_in_recovery(),
       current_setting('server_version_num')::int

-- name: table_size
SELECT pg_relation_size(c.oid) + pg_relation_size(c.oid, 'vm') + pg_relation_size(c.oid, 'fsm'),
       pg_indexes_size(c.oid),
       coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0),
       -- The counters follow every commit, but a crash of the server sets them to nothing; then the planner's figure is better.
       CASE WHEN c.reltuples <= 0 OR coalesce(t.last_vacuum, t.last_autovacuum, t.last_analyze, t.last_autoanalyze) IS NOT NULL
         THEN coalesce(t.n_live_tup, 0)
         ELSE c.reltuples::bigint
       END
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_tables t ON t.relid = c.oid
WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text AND c.relkind = 'r'

-- name: place
SELECT pg_postmaster_start_time(),
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
       EXISTS (
         SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'tierkeeper' AND c.relname = 'tier'
       )

-- name: roles
SELECT role, id FROM tierkeeper.tier ORDER BY role
