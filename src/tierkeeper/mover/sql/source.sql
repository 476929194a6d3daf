-- name: marker_open
INSERT INTO tierkeeper.marker (batch, seq, destination, schema_name, table_name, state)
VALUES ({batch}, {seq}, {destination}, {schema}, {table}, 'open')

-- name: say
-- Core's word that rows of the table may leave; Main knows of no such horizon. Asked for first: an INSERT would wait for a horizon
-- that is being recorded.
INSERT INTO tierkeeper.horizon (schema_name, table_name, id, key_columns, heaps, since, writer, timeline)
SELECT {schema}, {table}, gen_random_uuid(), '{{}}', '{{}}', pg_current_xact_id(), pg_current_xact_id(), ''
WHERE NOT EXISTS (SELECT FROM tierkeeper.horizon WHERE schema_name = {schema} AND table_name = {table})
ON CONFLICT DO NOTHING

-- name: bundle_note
INSERT INTO tierkeeper.bundle (batch, bundle) VALUES ({batch}, {bundle})

-- name: marker_change
-- The markers of a bundle change together, locked in one order, so that two who change them never wait for each other.
WITH wanted AS MATERIALIZED (
    SELECT batch FROM tierkeeper.marker
    WHERE state = 'open' AND (batch = {batch} OR batch IN (
        SELECT b.batch FROM tierkeeper.bundle AS own JOIN tierkeeper.bundle AS b ON b.bundle = own.bundle WHERE own.batch = {batch}))
    ORDER BY batch FOR UPDATE
)
UPDATE tierkeeper.marker AS m SET state = {to}, settled_at = clock_timestamp()
FROM wanted WHERE m.batch = wanted.batch

-- name: marker_state
SELECT state FROM tierkeeper.marker WHERE batch = %(batch)s

-- name: markers
SELECT batch, state, schema_name, table_name FROM tierkeeper.marker WHERE destination = %(destination)s ORDER BY seq

-- name: arriving
SELECT DISTINCT schema_name, table_name FROM tierkeeper.ledger WHERE state IN ('open', 'copied', 'done')

-- name: markers_drop
DELETE FROM tierkeeper.marker
WHERE batch = ANY (%(batches)s) AND state IN ('moved', 'aborted') AND destination = %(destination)s
  AND (state = 'aborted' OR seq < (SELECT max(seq) FROM tierkeeper.marker WHERE destination = %(destination)s AND state = 'moved'))

-- name: bundles_drop
-- A tier that rows leave may be one that others come to: what its ledger knows stays.
DELETE FROM tierkeeper.bundle AS b
WHERE NOT EXISTS (SELECT FROM tierkeeper.marker AS m WHERE m.batch = b.batch)
  AND NOT EXISTS (SELECT FROM tierkeeper.ledger AS l WHERE l.batch = b.batch)

-- name: extent
-- Ages before the year 1 are no dates in Python, nor are those behind the year 9999, and NULL is in no range: a filter on age
-- only saves time, so there it is left out.
SELECT count(*), {fingerprint}::text,
       CASE WHEN count({age}) = count(*) AND min({age}) >= '0001-01-02' AND min({age}) < '9999-12-31' THEN min({age})::timestamptz END,
       CASE WHEN count({age}) = count(*) AND max({age}) >= '0001-01-02' AND max({age}) < '9999-12-31' THEN max({age})::timestamptz END,
       pg_relation_filenode({regclass}::regclass)::bigint,
       (SELECT count(*) FROM tierkeeper.ledger
        WHERE schema_name = {schema} AND table_name = {name} AND state IN ('copied', 'done'))
FROM ONLY {table} WHERE {predicate}

-- name: left
SELECT count(*) FROM ONLY {table} WHERE {predicate}

-- name: keys_here
SELECT given.key::text FROM unnest({keys}::jsonb[]) AS given (key)
WHERE EXISTS (SELECT FROM {table} AS t WHERE {same})

-- name: doubled
SELECT {keys} FROM ({rows}) AS kept GROUP BY {key} HAVING count(*) > 1

-- name: are_parts
-- Whether each of the heaps holds rows of the table. A partition that is being detached does no more.
WITH RECURSIVE tree (oid) AS (
    SELECT {table}::regclass::oid
    UNION
    SELECT i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
)
SELECT {heaps}::oid[] <@ ARRAY(SELECT oid FROM tree)

-- name: stays
-- Each row is counted once, by the first reason that holds.
SELECT count(*) FILTER (WHERE {age} IS NULL),
       count(*) FILTER (WHERE NOT isfinite({age})),
       count(*) FILTER (WHERE isfinite({age}) AND NOT {old}),
       count(*) FILTER (WHERE isfinite({age}) AND {old} AND {held}),
       count(*) FILTER (WHERE isfinite({age}) AND {old} AND NOT {held} AND ({condition}) IS NOT TRUE)
FROM {table}

-- name: resting_rows
SELECT coalesce(sum(rows), 0)::bigint FROM tierkeeper.ledger
WHERE schema_name = %(schema)s AND table_name = %(table)s
  AND (state = 'copied' OR (state = 'done' AND settled_at > clock_timestamp() - make_interval(secs => greatest(%(seconds)s, reader_seconds))))

-- name: leaving
-- Names the tables whose rows the transaction takes away to their guards, which let them go.
SELECT set_config('tierkeeper.leaving', array_to_string(ARRAY[{heaps}]::oid[], ','), true)

-- name: interfered
-- Whether a delete would do more than take rows away, or something else: by a foreign key or a rule; and whether triggers fire.
SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = {regclass}::regclass)
    OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = {regclass}::regclass AND ev_type = '4' AND ev_enabled IN ('O', 'A')),
       ({fires})

-- name: fires
-- Whether a trigger of the user's is there for DELETE.
SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {regclass}::regclass AND NOT tgisinternal AND tgtype & 8 <> 0
               AND tgenabled IN ('O', 'A') AND tgname NOT LIKE 'tierkeeper\_%')

-- name: written
-- Rows that this transaction, or a part of it (whose number is greater), has written and not taken away again: its snapshot
-- shows no others as young. What is older by half a turn of the numbers has a great negative age.
SELECT count(*) FROM ONLY {table} WHERE age(xmin) BETWEEN -1000000 AND age(pg_current_xact_id()::xid)

-- name: versions
SELECT count(*), {fingerprint}::text, pg_relation_filenode({regclass}::regclass)::bigint FROM ONLY {table} WHERE {predicate}

-- name: delete
DELETE FROM ONLY {table} WHERE {predicate}
