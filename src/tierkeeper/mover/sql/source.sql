-- name: marker_open
INSERT INTO tierkeeper.marker (batch, seq, destination, schema_name, table_name, state)
VALUES (%(batch)s, %(seq)s, %(destination)s, %(schema)s, %(table)s, 'open')

-- name: bundle_note
INSERT INTO tierkeeper.bundle (batch, bundle) VALUES (%(batch)s, %(bundle)s)

-- name: marker_change
-- The markers of a bundle change together, locked in one order, so that two who change them never wait for each other.
WITH wanted AS MATERIALIZED (
    SELECT batch FROM tierkeeper.marker
    WHERE state = 'open' AND (batch = %(batch)s OR batch IN (
        SELECT b.batch FROM tierkeeper.bundle AS own JOIN tierkeeper.bundle AS b ON b.bundle = own.bundle WHERE own.batch = %(batch)s))
    ORDER BY batch FOR UPDATE
)
UPDATE tierkeeper.marker AS m SET state = %(to)s, settled_at = clock_timestamp()
FROM wanted WHERE m.batch = wanted.batch

-- name: marker_state
SELECT state FROM tierkeeper.marker WHERE batch = %(batch)s

-- name: markers_open
SELECT batch FROM tierkeeper.marker
WHERE state = 'open' AND destination = %(destination)s AND schema_name = %(schema)s AND table_name = %(table)s

-- name: markers_settled
SELECT batch, state FROM tierkeeper.marker WHERE state IN ('moved', 'aborted') AND destination = %(destination)s ORDER BY seq

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
-- Ages before the year 1 are no dates in Python; a filter on age only saves time, so there it is left out.
SELECT count(*), {fingerprint}::text,
       CASE WHEN min({age}) >= '0001-01-02' THEN min({age})::timestamptz END,
       CASE WHEN max({age}) >= '0001-01-02' THEN max({age})::timestamptz END,
       pg_relation_filenode({regclass}::regclass)::bigint,
       (SELECT count(*) FROM tierkeeper.ledger
        WHERE schema_name = {schema} AND table_name = {name} AND state IN ('copied', 'done'))
FROM ONLY {table} WHERE {predicate}

-- name: pieces
-- The heap in pieces of {step} pages: for each that holds rows of the selection its first page, their number, their bytes
-- and what the widest of them may have.
SELECT piece.page, found.rows, {step} * block.bytes + found.toasted_bytes, found.widest
FROM (SELECT current_setting('block_size')::bigint) AS block (bytes)
CROSS JOIN LATERAL generate_series(0, pg_relation_size({regclass}::regclass) / block.bytes - 1, {step}) AS piece (page)
CROSS JOIN LATERAL (
    SELECT count(*), {toasted}::bigint, max({widest})
    FROM ONLY {table}
    WHERE ctid >= ('(' || piece.page || ',0)')::tid AND ctid < ('(' || piece.page + {step} || ',0)')::tid AND {eligible}
) AS found (rows, toasted_bytes, widest)
WHERE found.rows > 0
ORDER BY piece.page

-- name: next_bound
-- No column is given a name here: one of the key's may have it.
SELECT {columns}, count(*) OVER ()
FROM (SELECT {names} FROM {table} WHERE {here} AND {eligible} ORDER BY {order} LIMIT {limit}) AS page
ORDER BY {backwards} LIMIT 1

-- name: weigh
SELECT count(*), {sizes}
FROM (SELECT {names} FROM {table} WHERE {here} AND {eligible} {first}) AS page

-- name: left
SELECT count(*) FROM ONLY {table} WHERE {predicate}

-- name: fitness
SELECT pg_is_in_recovery(),
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'DELETE')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: keys_here
SELECT given.key::text FROM unnest({keys}::jsonb[]) AS given (key)
WHERE EXISTS (SELECT FROM {table} AS t WHERE {same})

-- name: is_part
-- Whether the one holds rows of the other. A partition that is being detached does no more.
WITH RECURSIVE above (oid) AS (
    SELECT {part}::regclass::oid
    UNION
    SELECT i.inhparent FROM above JOIN pg_inherits AS i ON i.inhrelid = above.oid AND NOT i.inhdetachpending
)
SELECT {table}::regclass::oid IN (SELECT oid FROM above)

-- name: stays
-- Each row is counted once, by the first reason that holds.
SELECT count(*) FILTER (WHERE {age} IS NULL),
       count(*) FILTER (WHERE NOT isfinite({age})),
       count(*) FILTER (WHERE isfinite({age}) AND NOT {old}),
       count(*) FILTER (WHERE isfinite({age}) AND {old} AND ({condition}) IS NOT TRUE)
FROM {table}

-- name: resting_rows
SELECT coalesce(sum(rows), 0)::bigint FROM tierkeeper.ledger
WHERE schema_name = %(schema)s AND table_name = %(table)s
  AND (state = 'copied' OR (state = 'done' AND settled_at > clock_timestamp() - make_interval(secs => greatest(%(seconds)s, reader_seconds))))

-- name: referred_to
SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = {}::regclass)
