-- name: ledger_open
INSERT INTO tierkeeper.ledger (
    batch, source, origin, schema_name, table_name, age, cutoff, predicate, part_schema, part_name, state, reader_seconds
)
VALUES (
    %(batch)s, %(source)s, %(origin)s, %(schema)s, %(table)s, %(age)s, %(cutoff)s, %(predicate)s, %(part_schema)s, %(part_name)s,
    'open', %(reader_seconds)s
)
RETURNING seq

-- name: ledger_copied
UPDATE tierkeeper.ledger
SET state = 'copied', copy_xid = pg_current_xact_id(), rows = %(rows)s, fingerprint = %(fingerprint)s,
    min_age = %(min_age)s, max_age = %(max_age)s, copied_at = clock_timestamp()
WHERE batch = %(batch)s AND state = 'open'

-- name: ledger_proven
-- With the table as it is, the heaps in it that have the rows, and the files that they are in.
WITH held AS MATERIALIZED (SELECT DISTINCT heap FROM ({heaps}) AS held (heap))
UPDATE tierkeeper.ledger
SET digest = {digest}, bytes = {bytes}, relation = {regclass}::regclass,
    heaps = ARRAY(SELECT heap FROM held ORDER BY heap),
    files = ARRAY(SELECT pg_relation_filenode(heap) FROM held ORDER BY heap)
WHERE batch = {batch} AND state = 'copied'

-- name: heap
SELECT {regclass}::regclass::oid

-- name: heaps
SELECT tableoid FROM {table} WHERE {own}

-- name: bundle_note
INSERT INTO tierkeeper.bundle (batch, bundle) VALUES (%(batch)s, %(bundle)s)

-- name: ledger_finish
UPDATE tierkeeper.ledger SET state = 'done', settled_at = clock_timestamp() WHERE batch = ANY (%(batches)s) AND state = 'copied'

-- name: ledger_family
-- The batch with those of its bundle; a bundle's in the order of their opening, which is parents first.
SELECT l.batch FROM tierkeeper.ledger AS l
WHERE l.batch = %(batch)s OR l.batch IN (
    SELECT b.batch FROM tierkeeper.bundle AS own JOIN tierkeeper.bundle AS b ON b.bundle = own.bundle WHERE own.batch = %(batch)s)
ORDER BY l.seq

-- name: ledger_tied
-- Those of the batch's bundle that are in flight, and whether their tables are still there.
SELECT l.batch, l.schema_name, l.table_name, to_regclass(format('%%I.%%I', l.schema_name, l.table_name)) IS NOT NULL
FROM tierkeeper.ledger AS l
WHERE l.state IN ('open', 'copied') AND (l.batch = %(batch)s OR l.batch IN (
    SELECT b.batch FROM tierkeeper.bundle AS own JOIN tierkeeper.bundle AS b ON b.bundle = own.bundle WHERE own.batch = %(batch)s))
ORDER BY l.seq

-- name: ledger_undo
UPDATE tierkeeper.ledger SET state = 'undone', settled_at = clock_timestamp()
WHERE batch = %(batch)s AND state IN ('open', 'copied')
RETURNING batch, rows, copy_xid::xid, min_age, max_age, age, schema_name, table_name

-- name: ledger_withdraw
UPDATE tierkeeper.ledger SET state = 'undone', settled_at = clock_timestamp() WHERE batch = ANY (%(batches)s) AND state = 'open'

-- name: ledger_state
SELECT state FROM tierkeeper.ledger WHERE batch = %(batch)s

-- name: ledger_unsettled
SELECT l.batch, l.source, l.schema_name, l.table_name, l.age, l.cutoff, l.predicate,
       l.part_schema, l.part_name, l.seq, l.state, l.rows, l.fingerprint,
       l.min_age, l.max_age, l.bytes, b.bundle
FROM tierkeeper.ledger AS l LEFT JOIN tierkeeper.bundle AS b ON b.batch = l.batch
WHERE l.state IN ('open', 'copied') AND l.source = %(source)s
  AND (%(table)s::text IS NULL OR (l.schema_name = %(schema)s AND l.table_name = %(table)s) OR b.bundle IN (
    SELECT other.bundle FROM tierkeeper.bundle AS other JOIN tierkeeper.ledger AS of_table ON of_table.batch = other.batch
    WHERE of_table.schema_name = %(schema)s AND of_table.table_name = %(table)s AND of_table.state IN ('open', 'copied')))
ORDER BY l.seq

-- name: ledger_forget
UPDATE tierkeeper.ledger SET state = 'forgotten', settled_at = clock_timestamp()
WHERE state = 'done' AND source = %(source)s
  AND settled_at < clock_timestamp() - make_interval(secs => greatest(%(seconds)s, reader_seconds))

-- name: ledger_droppable
SELECT batch FROM tierkeeper.ledger
WHERE batch = ANY (%(settled)s)
  AND (state = 'undone'
       OR (state = 'forgotten' AND settled_at < clock_timestamp() - make_interval(secs => greatest(%(seconds)s, reader_seconds))))

-- name: ledger_resting
SELECT state, count(*) FROM tierkeeper.ledger
WHERE schema_name = %(schema)s AND table_name = %(table)s AND state IN ('open', 'copied', 'done')
GROUP BY state ORDER BY state

-- name: ledger_ahead
SELECT make_interval(secs => extract(epoch FROM max(settled_at) - clock_timestamp())::bigint)::text FROM tierkeeper.ledger
WHERE schema_name = %(schema)s AND table_name = %(table)s AND state = 'done' AND settled_at > clock_timestamp() + interval '1 second'

-- name: copy_lsn
SELECT pg_current_wal_lsn()

-- name: older_snapshots
-- A mover's own transactions (they share MOVER_LOCK) answer to no reader; a parallel worker's are its leader's.
WITH held AS MATERIALIZED (SELECT * FROM pg_locks WHERE locktype IN ('virtualxid', 'advisory') AND granted)
SELECT l.pid, l.virtualtransaction
FROM held AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock'
  AND l.pid <> pg_backend_pid()
  AND a.datname = current_database()
  AND NOT EXISTS (
    SELECT FROM held AS m
    WHERE m.locktype = 'advisory' AND m.classid = %(class)s AND m.objid = %(object)s AND m.objsubid = 2
      AND (m.virtualtransaction = l.virtualtransaction OR m.pid = a.leader_pid)
  )
  AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS v WHERE v.pid = l.pid)
  AND a.backend_xmin IS NOT NULL
  AND age(a.backend_xmin) >= (SELECT min(age(copy_xid::xid)) FROM tierkeeper.ledger WHERE batch = ANY (%(batches)s))

-- name: own_rows
COPY (SELECT {columns} FROM {table} WHERE {own}) TO STDOUT {options}

-- name: own
xmin = pg_current_xact_id()::xid AND {near}

-- name: undo_rows
{name} AS (DELETE FROM {table} WHERE {own} RETURNING 1)

-- name: keys_staging
CREATE TEMP TABLE {staging} ON COMMIT DROP AS SELECT {keys} FROM {table} LIMIT 0

-- name: among_keys
ctid = ANY (ARRAY(SELECT t.ctid FROM {staging} AS s JOIN {table} AS t ON {same}))

-- name: keys_taken
SELECT EXISTS (SELECT FROM tierkeeper.ledger AS l WHERE l.state = 'copied' AND l.copy_xid::xid = t.xmin), {keys}
FROM {staging} AS s JOIN {table} AS t ON {same}
