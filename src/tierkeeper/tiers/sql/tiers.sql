-- name: facts
SELECT CASE WHEN %(whole_server)s
         THEN (SELECT sum(pg_database_size(oid)) FROM pg_database WHERE has_database_privilege(oid, 'CONNECT'))
         ELSE pg_database_size(current_database())
       END::bigint,
       -- What a session that begins now would get: one that a pooler has kept may be older than the switch. The catalog has what
       -- was set for the role or the database; where it has nothing, what such a setting once gave this session is stale.
       coalesce(
         (SELECT split_part(setting, '=', 2)
          FROM pg_db_role_setting AS d, unnest(d.setconfig) AS setting
          WHERE d.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
            AND d.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
            AND setting LIKE 'default\_transaction\_read\_only=%%'
          ORDER BY d.setrole <> 0 DESC, d.setdatabase <> 0 DESC
          LIMIT 1),
         (SELECT CASE WHEN source IN ('global', 'database', 'user', 'database user') THEN 'off' ELSE reset_val END
          FROM pg_settings WHERE name = 'default_transaction_read_only')
       )::boolean,
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
