-- name: ledger_open
INSERT INTO tierkeeper.ledger (
    batch, source, origin, schema_name, table_name, age, cutoff, predicate, part_schema, part_name, state
)
VALUES (
    %(batch)s, %(source)s, %(origin)s, %(schema)s, %(table)s, %(age)s, %(cutoff)s, %(predicate)s, %(part_schema)s, %(part_name)s,
    'open'
)
ON CONFLICT (batch) DO NOTHING

-- name: ledger_copied
UPDATE tierkeeper.ledger
SET state = 'copied', rows = %(rows)s, bytes = %(bytes)s, fingerprint = %(fingerprint)s, digest = %(digest)s,
    min_age = %(min_age)s, max_age = %(max_age)s, copy_xid = pg_current_xact_id(), copied_at = clock_timestamp()
WHERE batch = %(batch)s AND state = 'open'

-- name: bundle
SELECT bundle FROM tierkeeper.bundle WHERE batch = %(batch)s

-- name: bundle_note
INSERT INTO tierkeeper.bundle (batch, bundle) VALUES (%(batch)s, %(bundle)s) ON CONFLICT (batch) DO NOTHING

-- name: ledger_tied
-- The batch with those of its bundle, locked in one order, so that two who settle them never wait for each other.
SELECT batch FROM tierkeeper.ledger
WHERE batch = %(batch)s OR batch IN (
    SELECT b.batch FROM tierkeeper.bundle AS own JOIN tierkeeper.bundle AS b ON b.bundle = own.bundle WHERE own.batch = %(batch)s)
ORDER BY seq FOR UPDATE

-- name: ledger_done
UPDATE tierkeeper.ledger SET state = 'done', settled_at = clock_timestamp()
WHERE batch = ANY (%(batches)s) AND state = 'copied'

-- name: ledger_undone
UPDATE tierkeeper.ledger SET state = 'undone', settled_at = clock_timestamp()
WHERE batch = ANY (%(batches)s) AND state = ANY (%(states)s)

-- name: ledger_row
SELECT l.batch, l.source, l.schema_name, l.table_name, l.age, l.cutoff, l.predicate, l.part_schema, l.part_name,
       l.seq, l.state, l.rows, l.fingerprint, l.min_age, l.max_age, l.bytes, b.bundle
FROM tierkeeper.ledger AS l LEFT JOIN tierkeeper.bundle AS b ON b.batch = l.batch
WHERE l.batch = %(batch)s

-- name: ledger_unsettled
-- Of a table, and all that is tied to a batch of it.
SELECT l.batch, l.source, l.schema_name, l.table_name, l.age, l.cutoff, l.predicate, l.part_schema, l.part_name,
       l.seq, l.state, l.rows, l.fingerprint, l.min_age, l.max_age, l.bytes, b.bundle
FROM tierkeeper.ledger AS l LEFT JOIN tierkeeper.bundle AS b ON b.batch = l.batch
WHERE l.state IN ('open', 'copied')
  AND (%(table)s::text IS NULL OR (l.schema_name = %(schema)s AND l.table_name = %(table)s) OR b.bundle IN (
    SELECT other.bundle FROM tierkeeper.bundle AS other JOIN tierkeeper.ledger AS of_table ON of_table.batch = other.batch
    WHERE of_table.schema_name = %(schema)s AND of_table.table_name = %(table)s AND of_table.state IN ('open', 'copied')))
ORDER BY l.seq

-- name: ledger_forget
UPDATE tierkeeper.ledger SET state = 'forgotten', settled_at = clock_timestamp()
WHERE state = 'done' AND settled_at < clock_timestamp() - make_interval(secs => %(seconds)s)

-- name: ledger_droppable
SELECT batch FROM tierkeeper.ledger
WHERE batch = ANY (%(settled)s)
  AND (state = 'undone' OR (state = 'forgotten' AND settled_at < clock_timestamp() - make_interval(secs => %(seconds)s)))

-- name: ledger_resting
SELECT state, count(*) FROM tierkeeper.ledger
WHERE schema_name = %(schema)s AND table_name = %(table)s AND state IN ('open', 'copied', 'done')
GROUP BY state ORDER BY state

-- name: chain_start
INSERT INTO tierkeeper.chain DEFAULT VALUES ON CONFLICT DO NOTHING

-- name: chain_head
SELECT position, manifest FROM tierkeeper.chain FOR UPDATE

-- name: chain_end
SELECT manifest FROM tierkeeper.chain

-- name: chain_at
SELECT c.position,
       (SELECT manifest FROM tierkeeper.segment WHERE position = 1),
       c.manifest,
       (SELECT manifest FROM tierkeeper.segment WHERE position = %(position)s)
FROM tierkeeper.chain AS c

-- name: chain_advance
UPDATE tierkeeper.chain SET position = %(position)s, manifest = %(manifest)s WHERE position = %(position)s - 1

-- name: segment_insert
INSERT INTO tierkeeper.segment (
    id, batch, source, schema_name, table_name, age, state, position, previous, manifest, key_object, sha256, bytes, rows,
    min_age, max_age, key_id, schema_hash, created_at
) VALUES (
    %(id)s, %(batch)s, %(source)s, %(schema_name)s, %(table_name)s, %(age)s, 'copied', %(position)s, %(previous)s, %(manifest)s,
    %(key_object)s, %(sha256)s, %(bytes)s, %(rows)s, %(min_age)s, %(max_age)s, %(key_id)s, %(schema_hash)s, %(created_at)s
)

-- name: is_known
SELECT EXISTS (SELECT FROM tierkeeper.segment) OR EXISTS (SELECT FROM tierkeeper.ledger)

-- name: ledger_reenter
INSERT INTO tierkeeper.ledger (
    batch, source, schema_name, table_name, age, cutoff, predicate, state, rows, bytes, digest, min_age, max_age, settled_at
) VALUES (
    %(batch)s, %(source)s, %(schema_name)s, %(table_name)s, %(age)s, %(cutoff)s, '', %(ledger)s, %(rows)s, %(bytes)s, %(digest)s,
    %(min_age)s, %(max_age)s, clock_timestamp()
)

-- name: segment_reenter
UPDATE tierkeeper.segment
SET state = %(state)s, commit_object = %(commit_object)s, removal_object = %(removal_object)s
WHERE id = %(id)s

-- name: chain_set
UPDATE tierkeeper.chain SET position = %(position)s, manifest = %(manifest)s

-- name: segment_sealed
UPDATE tierkeeper.segment SET state = 'sealed' WHERE batch = ANY (%(batches)s) AND state = 'copied'

-- name: segment_undone
UPDATE tierkeeper.segment SET state = 'undone' WHERE batch = ANY (%(batches)s) AND state = 'copied'
RETURNING sha256, key_object

-- name: segment_committed
UPDATE tierkeeper.segment SET commit_object = %(commit_object)s WHERE id = %(segment)s AND commit_object IS NULL

-- name: segment_verified
UPDATE tierkeeper.segment SET verified_at = clock_timestamp() WHERE id = ANY (%(segments)s)

-- name: segments
SELECT id, batch, source, schema_name, table_name, age, state, position, previous, manifest, key_object, sha256, bytes, rows,
       min_age, max_age, key_id, schema_hash, created_at, commit_object, removal_object,
       verified_at
FROM tierkeeper.segment
WHERE state = ANY (%(states)s)
  AND (%(table)s::text IS NULL OR (schema_name = %(schema)s AND table_name = %(table)s))
  AND (%(segment)s::uuid IS NULL OR id = %(segment)s)
ORDER BY position

-- name: listed
-- Those with no least age hold ages before the year 1, or nothing: they come first.
SELECT id::text, schema_name, table_name, rows, bytes, min_age, max_age, state, verified_at
FROM tierkeeper.segment
WHERE state IN ('copied', 'sealed', 'unsure')
  AND (%(table)s::text IS NULL OR (schema_name = %(schema)s AND table_name = %(table)s))
ORDER BY schema_name, table_name, min_age NULLS FIRST, position

-- name: uncommitted
SELECT id, batch, source, schema_name, table_name, age, state, position, previous, manifest, key_object, sha256, bytes, rows,
       min_age, max_age, key_id, schema_hash, created_at, commit_object, removal_object,
       verified_at
FROM tierkeeper.segment
WHERE state = 'sealed' AND commit_object IS NULL AND id NOT IN (SELECT by FROM tierkeeper.replaced)
ORDER BY position

-- name: scan_segments
SELECT s.id::text, s.batch, l.state, s.rows, s.min_age, s.max_age, s.age,
       extract(epoch FROM clock_timestamp() - l.settled_at)::float8, pg_is_in_recovery()
FROM tierkeeper.segment AS s
JOIN tierkeeper.ledger AS l ON l.batch = s.batch
WHERE s.schema_name = %(schema)s AND s.table_name = %(table)s AND s.state IN ('copied', 'sealed')
ORDER BY s.position

-- name: segments_of
SELECT id::text FROM tierkeeper.segment WHERE batch = ANY (%(batches)s::uuid[]) AND state NOT IN ('undone', 'removed') ORDER BY position

-- name: rows_by_table
SELECT schema_name, table_name, sum(rows)::bigint FROM tierkeeper.segment WHERE state = 'sealed' GROUP BY 1, 2

-- name: is_set_up
SELECT to_regclass('tierkeeper.segment') IS NOT NULL

-- name: held_by_table
SELECT schema_name, table_name, count(*)::int, sum(rows)::bigint, sum(bytes)::bigint
FROM tierkeeper.segment WHERE state = 'sealed' GROUP BY 1, 2

-- name: reading
-- A segment is read back whole when it is written, too.
SELECT count(*), count(*) FILTER (WHERE verified_at IS NULL), min(verified_at), min(coalesce(verified_at, created_at)), min(created_at)
FROM tierkeeper.segment
WHERE state NOT IN ('undone', 'removed')

-- name: stalest
SELECT id::text, schema_name, table_name, rows, bytes, min_age, max_age, state, verified_at, created_at
FROM tierkeeper.segment
WHERE state IN ('copied', 'sealed', 'unsure')
ORDER BY coalesce(verified_at, created_at), position
LIMIT %(limit)s

-- name: sealed
SELECT count(*) FROM tierkeeper.segment WHERE state = 'sealed'

-- name: keys_used
SELECT key_id, count(*) FROM tierkeeper.segment WHERE state NOT IN ('undone', 'removed') GROUP BY key_id ORDER BY key_id

-- name: drill_note
INSERT INTO tierkeeper.drill (at, ok, segments, restored, rows, seconds, wrong)
VALUES (%(at)s, %(ok)s, %(segments)s, %(restored)s, %(rows)s, %(seconds)s, %(wrong)s)

-- name: drill_last
SELECT at, ok, segments, restored, wrong FROM tierkeeper.drill ORDER BY at DESC LIMIT 1

-- name: newest
SELECT key_id, manifest FROM tierkeeper.segment WHERE state <> 'undone' ORDER BY position DESC LIMIT 1

-- name: wrapping_insert
INSERT INTO tierkeeper.wrapping (object, segment, recipient) VALUES (%(key_object)s, %(id)s, %(recipient)s)
ON CONFLICT (object) DO NOTHING

-- name: wrapped_for_others
SELECT s.id, s.batch, s.source, s.schema_name, s.table_name, s.age, s.state, s.position, s.previous, s.manifest, s.key_object,
       s.sha256, s.bytes, s.rows, s.min_age, s.max_age, s.key_id, s.schema_hash, s.created_at, s.commit_object,
       s.removal_object, s.verified_at
FROM tierkeeper.segment AS s
LEFT JOIN tierkeeper.wrapping AS w ON w.object = s.key_object
WHERE s.state NOT IN ('undone', 'removed') AND w.recipient IS DISTINCT FROM %(recipient)s
ORDER BY s.position

-- name: wrapped_to
-- What a rebuild found no key for is wrapped to nobody.
SELECT s.key_id, w.recipient, count(*)
FROM tierkeeper.segment AS s JOIN tierkeeper.wrapping AS w ON w.object = s.key_object
WHERE s.state NOT IN ('undone', 'removed') AND w.recipient <> '' AND (%(segment)s::uuid IS NULL OR s.id = %(segment)s)
GROUP BY s.key_id, w.recipient ORDER BY s.key_id, w.recipient

-- name: rewrapped
UPDATE tierkeeper.segment SET key_object = %(new)s WHERE id = %(segment)s AND key_object = %(old)s

-- name: wrapping_replaced
DELETE FROM tierkeeper.wrapping WHERE object = %(old)s

-- name: outlive
INSERT INTO tierkeeper.outlived (object) SELECT unnest(%(objects)s::text[]) ON CONFLICT (object) DO NOTHING

-- name: outlived
SELECT object, since < clock_timestamp() - make_interval(secs => %(seconds)s) FROM tierkeeper.outlived ORDER BY object

-- name: old_wrappings
-- Keys that a rotation has replaced, of segments that count still.
SELECT count(*) FROM tierkeeper.outlived
WHERE object LIKE 'key/%%' AND object NOT IN (SELECT key_object FROM tierkeeper.segment WHERE state IN ('removed', 'undone'))

-- name: gone
DELETE FROM tierkeeper.outlived WHERE object = %(object)s

-- name: now
SELECT clock_timestamp()

-- name: older_than
-- Nothing about them is in flight: they are committed, and their batches forgotten.
SELECT s.id, s.batch, s.source, s.schema_name, s.table_name, s.age, s.state, s.position, s.previous, s.manifest, s.key_object,
       s.sha256, s.bytes, s.rows, s.min_age, s.max_age, s.key_id, s.schema_hash, s.created_at, s.commit_object,
       s.removal_object, s.verified_at
FROM tierkeeper.segment AS s
JOIN tierkeeper.ledger AS l ON l.batch = s.batch
WHERE s.state = 'sealed' AND s.commit_object IS NOT NULL AND l.state = 'forgotten'
  AND s.schema_name = %(schema)s AND s.table_name = %(table)s AND s.max_age < %(cutoff)s
ORDER BY s.position

-- name: segment_left
UPDATE tierkeeper.segment SET state = 'removed'
WHERE id = %(segment)s AND state = 'sealed' AND commit_object IS NOT NULL
  AND batch IN (SELECT batch FROM tierkeeper.ledger WHERE state = 'forgotten')

-- name: left_said
UPDATE tierkeeper.segment SET removal_object = %(said)s WHERE id = %(segment)s AND state = 'removed' AND removal_object IS NULL
RETURNING sha256, key_object
