-- name: standing
SELECT
    pg_is_in_recovery() AS replica,
    (CASE
        WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
        ELSE pg_current_wal_lsn()
    END - '0/0'::pg_lsn)::bigint AS position,
    CASE
        WHEN pg_is_in_recovery() THEN 0
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
    END AS timeline;
