-- name: standbys
-- Who may be promoted, connected or away with a slot, and whether it lacks what was written before `lsn`. Logical decoding has a
-- database and a logical slot; a base backup that is still being taken ends behind the copy. Where the role may not see a
-- walsender's state its slot tells how far it is.
WITH slots AS MATERIALIZED (SELECT * FROM pg_replication_slots),
senders AS MATERIALIZED (
  SELECT r.pid, r.application_name, r.client_addr, r.state, r.flush_lsn, a.datid
  FROM pg_stat_replication AS r JOIN pg_stat_activity AS a ON a.pid = r.pid
)
SELECT w.pid, CASE WHEN NOT s.temporary THEN s.slot_name END::text,
       concat_ws(' at ', w.application_name, host(w.client_addr)),
       coalesce(coalesce(w.flush_lsn, s.restart_lsn) < %(lsn)s::pg_lsn, true)
FROM senders AS w LEFT JOIN slots AS s ON s.active_pid = w.pid
WHERE s.slot_type IS DISTINCT FROM 'logical'
  AND (w.datid IS NULL OR w.state IN ('catchup', 'streaming', 'stopping'))
  AND w.state IS DISTINCT FROM 'backup' AND w.application_name IS DISTINCT FROM 'pg_basebackup'
  AND NOT coalesce(s.temporary AND s.slot_name LIKE 'pg\_basebackup\_%%', false)
UNION ALL
SELECT NULL, slot_name::text, '', coalesce(restart_lsn < %(lsn)s::pg_lsn, true)
FROM slots
WHERE slot_type = 'physical' AND NOT temporary AND (restart_lsn IS NOT NULL OR wal_status = 'lost')
  AND NOT EXISTS (SELECT FROM senders AS w WHERE w.pid = active_pid)
