-- name: role
-- What a node says of itself: whether it replays another's log, how far its log reaches, its timeline, its database system,
-- and the timeline of the log that it receives, which only a member of pg_read_all_stats is told.
-- A primary's timeline is that of the log it writes: the control file learns of a promotion only at the next checkpoint.
SELECT pg_catalog.pg_is_in_recovery(),
  CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN coalesce(pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_last_wal_receive_lsn(), '0/0')
    ELSE pg_catalog.pg_current_wal_lsn() END - '0/0'::pg_catalog.pg_lsn,
  CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), f.received_tli)::bigint
    ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END,
  (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
  f.received_tli::bigint
FROM (SELECT (SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver()) AS received_tli) AS f

-- name: role_without_control
-- The same where the role may not read the control file.
SELECT pg_catalog.pg_is_in_recovery(),
  CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN coalesce(pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_last_wal_receive_lsn(), '0/0')
    ELSE pg_catalog.pg_current_wal_lsn() END - '0/0'::pg_catalog.pg_lsn,
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
    ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END,
  NULL::text, NULL::bigint
