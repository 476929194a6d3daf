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
       current_setting('server_version_num')::int,
       -- Whose confirmation no commit here gets, though it waits for it. What the role may not see of a walsender may be one.
       (SELECT names FROM current_setting('synchronous_standby_names') AS s (names)
        WHERE names <> ''
          AND (SELECT count(*) FROM pg_stat_replication WHERE coalesce(sync_state IN ('sync', 'quorum'), true))
            < coalesce(substring(names FROM '(?i)^\s*(?:(?:FIRST|ANY)\s+)?(\d+)\s*\(')::int, 1))

-- name: place
SELECT pg_postmaster_start_time(),
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
       EXISTS (
         SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'tierkeeper' AND c.relname = 'tier'
       )

-- name: roles
SELECT role, id FROM tierkeeper.tier ORDER BY role

-- name: identity
SELECT id FROM tierkeeper.tier WHERE role = %(role)s

-- name: origin
SELECT origin FROM tierkeeper.ledger
WHERE source = %(source)s AND schema_name = %(schema)s AND table_name = %(table)s AND origin IS NOT NULL AND state <> 'undone'
ORDER BY seq DESC LIMIT 1

-- name: origins
-- Where anything is in flight the mover looks first: a person must tell what became of it.
SELECT DISTINCT ON (schema_name, table_name) schema_name, table_name, origin FROM tierkeeper.ledger
WHERE source = %(source)s AND origin IS NOT NULL AND state <> 'undone'
  AND (schema_name, table_name) NOT IN (SELECT schema_name, table_name FROM tierkeeper.ledger WHERE state IN ('open', 'copied'))
ORDER BY schema_name, table_name, seq DESC

-- name: departed
-- Tables of which rows have come to Main since a mirror found that none of theirs was left there.
SELECT l.schema_name, l.table_name
FROM tierkeeper.ledger AS l
WHERE l.state IN ('copied', 'done', 'forgotten')
  AND (%(all)s OR (l.schema_name, l.table_name) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[])))
  AND l.seq > coalesce((
    SELECT max(substr(c.thawed, length('mirrored ') + 1)::bigint) FROM tierkeeper.compared AS c
    WHERE c.schema_name = l.schema_name AND c.table_name = l.table_name AND starts_with(c.thawed, 'mirrored ')
  ), 0)
GROUP BY l.schema_name, l.table_name
ORDER BY l.schema_name, l.table_name

-- name: any_row
SELECT EXISTS (SELECT FROM {table})

-- name: give_back
UPDATE tierkeeper.tier SET id = {id} WHERE role = {role}

-- name: forget_marker
DELETE FROM tierkeeper.marker WHERE batch = {batch}

-- name: handed
SELECT batch, destination FROM tierkeeper.marker WHERE state = 'moved'

-- name: unknown
SELECT asked.batch, pg_is_in_recovery() FROM unnest(%(batches)s::uuid[]) AS asked (batch)
WHERE NOT EXISTS (
  SELECT FROM tierkeeper.ledger AS l WHERE l.batch = asked.batch AND l.state IN ('copied', 'done', 'forgotten')
)

-- name: displaced
-- A part that is none of the table's any more counts as replaced: through the table nobody sees its rows.
WITH RECURSIVE asked AS (
  SELECT batch, schema_name, table_name, relation, heaps, files,
         to_regclass(format('%%I.%%I', schema_name, table_name))::oid AS now
  FROM tierkeeper.ledger WHERE batch = ANY (%(batches)s) AND relation IS NOT NULL
), tree (batch, oid) AS (
  SELECT batch, now FROM asked
  UNION
  SELECT t.batch, i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid AND NOT i.inhdetachpending
), looked AS (
  SELECT a.schema_name, a.table_name,
         a.now IS DISTINCT FROM a.relation
           OR EXISTS (SELECT FROM unnest(a.heaps) AS h (oid) WHERE h.oid NOT IN (SELECT t.oid FROM tree AS t WHERE t.batch = a.batch))
           AS replaced,
         EXISTS (SELECT FROM unnest(a.heaps, a.files) AS h (oid, file) WHERE pg_relation_filenode(h.oid) IS DISTINCT FROM h.file)
           AS rewritten
  FROM asked AS a
)
SELECT schema_name, table_name, replaced FROM looked WHERE replaced OR rewritten

-- name: unguarded
-- Of which heaps the guard does not hold for every session, or was written anew since the copy: it may have been off in between.
-- An age is negative for what is older than half of all transaction ids.
SELECT l.schema_name, l.table_name, h.oid::regclass::text
FROM tierkeeper.ledger AS l CROSS JOIN unnest(l.heaps) AS h (oid)
WHERE l.batch = ANY (%(batches)s) AND NOT EXISTS (
  SELECT FROM pg_trigger AS t
  WHERE t.tgrelid = h.oid AND t.tgfoid = to_regproc('tierkeeper.refuse_copy_in_flight')::oid AND t.tgenabled = 'A'
    AND t.tgtype & 25 = 25 -- for each row, on UPDATE and DELETE
    AND NOT age(t.xmin) BETWEEN 0 AND age(l.copy_xid::xid)
)

-- name: thawed
-- Main's ledger has the segment's id in the place of a predicate.
SELECT predicate::uuid FROM tierkeeper.ledger WHERE source = 'archive' AND state IN ('done', 'forgotten')

-- name: counted_still
SELECT id FROM tierkeeper.segment WHERE id = ANY (%(segments)s) AND state IN ('copied', 'sealed') ORDER BY position LIMIT 1

-- name: not_moved
SELECT batch FROM tierkeeper.marker WHERE destination = 'archive' AND state <> 'moved'

-- name: handed_over
-- Of these batches those that the archive has, and the newest that it has from a Main that is known.
SELECT batch, seq, schema_name, table_name, origin FROM tierkeeper.ledger
WHERE source = 'main' AND state IN ('done', 'forgotten') AND (batch = ANY (%(batches)s) OR seq = (
  SELECT max(seq) FROM tierkeeper.ledger WHERE source = 'main' AND state IN ('done', 'forgotten') AND origin IS NOT NULL))
ORDER BY seq

-- name: newest
WITH here AS (
  SELECT batch, seq, state FROM tierkeeper.marker WHERE destination = %(destination)s
), last AS (
  SELECT batch, seq FROM here WHERE state = 'moved' ORDER BY seq DESC LIMIT 1
)
SELECT (SELECT batch FROM last), coalesce((SELECT seq FROM last), 0), (SELECT id FROM tierkeeper.tier WHERE role = %(role)s),
       coalesce((SELECT max(seq) FROM here), 0)

-- name: bundles
SELECT batch, bundle FROM tierkeeper.bundle

-- name: go_on_at
SELECT setval(pg_get_serial_sequence('tierkeeper.ledger', 'seq'), %(seq)s, false)

-- name: came_from
UPDATE tierkeeper.ledger SET origin = %(origin)s WHERE batch = %(batch)s AND seq = %(seq)s

-- name: unremembered
-- A batch is done there once its marker says that it moved; the newest of these is kept for ever, so that what was handed over
-- after it is not remembered.
SELECT WHERE EXISTS (SELECT FROM tierkeeper.marker AS m WHERE m.batch = %(batch)s AND m.state <> 'moved')
  OR EXISTS (SELECT FROM tierkeeper.tier AS t WHERE t.role = 'main' AND t.id = %(origin)s)
  AND NOT EXISTS (SELECT FROM tierkeeper.marker AS m WHERE m.destination = 'archive' AND m.state = 'moved' AND m.seq >= %(seq)s)

-- name: taken
SELECT batch, seq, schema_name, table_name, origin FROM tierkeeper.ledger
WHERE source = 'core' AND state IN ('done', 'forgotten') ORDER BY seq DESC LIMIT 1

-- name: untold
SELECT WHERE EXISTS (SELECT FROM tierkeeper.tier AS t WHERE t.role = 'core' AND t.id = %(origin)s)
  AND NOT EXISTS (SELECT FROM tierkeeper.marker AS m WHERE m.destination = 'main' AND m.state = 'moved' AND m.seq >= %(seq)s)

-- name: remember
INSERT INTO tierkeeper.marker (batch, seq, destination, schema_name, table_name, state, settled_at)
VALUES ({batch}, {seq}, 'archive', {schema}, {table}, 'moved', now())
ON CONFLICT (batch) DO UPDATE SET state = 'moved', settled_at = now()
