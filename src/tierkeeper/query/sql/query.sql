-- name: columns
SELECT n.nspname::text,
       c.relname::text,
       a.attname::text,
       format_type(a.atttypid, a.atttypmod),
       CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' THEN t.typname::text END,
       b.modifier,
       coalesce(
         CASE WHEN l.collprovider = 'd' THEN %(bytewise)s::bool
              ELSE l.collprovider::text = 'b' OR (l.collprovider = 'c' AND to_jsonb(l) ->> 'collcollate' ~ '^(C|POSIX|C\.UTF-?8)$')
         END, false),
       coalesce(l.collisdeterministic, true),
       a.attnum::int,
       c.oid::bigint
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
JOIN pg_namespace n ON n.nspname = wanted.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
CROSS JOIN LATERAL (
  -- A domain's values are its base type's, and to every operator they are nothing else.
  WITH RECURSIVE under (type, modifier, depth) AS (
    SELECT a.atttypid, a.atttypmod, 0
    UNION ALL
    SELECT d.typbasetype, d.typtypmod, u.depth + 1
    FROM under u
    JOIN pg_type d ON d.oid = u.type AND d.typtype = 'd'
  )
  SELECT u.type, u.modifier FROM under u ORDER BY u.depth DESC LIMIT 1
) b
JOIN pg_type t ON t.oid = b.type
LEFT JOIN pg_collation l ON l.oid = a.attcollation
ORDER BY 1, 2, a.attnum

-- name: known
SELECT n.nspname::text, c.relname::text
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
JOIN pg_namespace n ON n.nspname = wanted.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY 1, 2

-- name: rewritten
-- The catalog as of the transaction's snapshot beside the catalog as it is: what a rewrite wrote, older snapshots do not see.
WITH RECURSIVE tree (oid) AS (
  SELECT c.oid
  FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
  JOIN pg_namespace n ON n.nspname = wanted.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
  UNION
  SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
)
SELECT n.nspname::text, c.relname::text
FROM tree
JOIN pg_class c ON c.oid = tree.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relfilenode <> 0 AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode::oid

-- name: reached
WITH RECURSIVE reached (root, oid) AS (
  SELECT c.oid, c.oid
  FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
  JOIN pg_namespace n ON n.nspname = wanted.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
  UNION
  SELECT r.root, further.oid
  FROM reached r
  CROSS JOIN LATERAL (
    SELECT d.refobjid
    FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    WHERE w.ev_class = r.oid
    UNION
    SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = r.oid
  ) AS further (oid)
), above (root, oid) AS (
  SELECT * FROM reached
  UNION
  SELECT a.root, i.inhparent FROM above a JOIN pg_inherits i ON i.inhrelid = a.oid
)
-- What is read through it, and what holds those rows as its own as well: a partition's table, which is told by `is_above`.
SELECT rn.nspname::text, rc.relname::text, n.nspname::text, c.relname::text, NOT EXISTS (
         SELECT FROM reached WHERE (reached.root, reached.oid) = (above.root, above.oid)
       ) AS is_above
FROM above
JOIN pg_class rc ON rc.oid = above.root
JOIN pg_namespace rn ON rn.oid = rc.relnamespace
JOIN pg_class c ON c.oid = above.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE above.root <> above.oid

-- name: functions
-- IMMUTABLE promises that no table is read; C is the language of extensions, which know nothing of the user's tables.
SELECT p.oid::regprocedure::text
FROM pg_proc p
JOIN pg_language l ON l.oid = p.prolang
WHERE p.proname = ANY (%(names)s)
  AND p.provolatile <> 'i'
  AND l.lanname NOT IN ('internal', 'c')
  AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
ORDER BY 1

-- name: database
SELECT current_setting('server_encoding') = 'UTF8',
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'b'
         OR (coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND to_jsonb(d) ->> 'datcollate' ~ '^(C|POSIX|C\.UTF-?8)$')
FROM pg_database d
WHERE d.datname = current_database()

-- name: in_flight
-- One that could be forgotten counts, whatever its source says: a source that was put back knows nothing of it. A standby's clock
-- is not the one that the time was taken from.
SELECT batch, schema_name, table_name, copy_xid::xid::text, origin,
       state = 'done' AND settled_at < clock_timestamp() - make_interval(secs => greatest(%(seconds)s, reader_seconds)),
       pg_is_in_recovery()
FROM tierkeeper.ledger
WHERE state IN ('copied', 'done') AND copy_xid IS NOT NULL

-- name: conflicts
SELECT schema_name, table_name, key::text FROM tierkeeper.conflict
WHERE (schema_name, table_name) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))

-- name: horizons
-- Up to where Core's rows were looked for at Main, where that was said in this very database and on this timeline: a row that
-- came with a dump has another xmin than its writer. What is older than half of the transactions that a row's xmin can tell
-- apart does not count, nor does what lies ahead.
SELECT h.schema_name, h.table_name, h.id::text, h.key_columns, h.heaps::bigint[], h.since::xid::text,
       (SELECT max(seq) FROM tierkeeper.marker WHERE state = 'moved' AND destination = 'main')
FROM tierkeeper.horizon AS h
WHERE h.xmin = h.writer::xid
  AND NOT pg_is_in_recovery()
  AND h.timeline = CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END
  AND pg_snapshot_xmax(pg_current_snapshot())::text::numeric - h.since::text::numeric BETWEEN 0 AND %(oldest)s

-- name: compared
-- Which of them Main knows, and has had nothing from the archive or by a mirror since; and the last batch from Core that it has
-- forgotten, or could have: this snapshot of Core is younger than that.
SELECT c.id::text, (
         SELECT seq FROM tierkeeper.ledger
         WHERE source = 'core' AND (state = 'forgotten' OR (state = 'done'
           AND settled_at < clock_timestamp() - make_interval(secs => greatest(%(seconds)s, reader_seconds))))
         ORDER BY seq DESC LIMIT 1
       )
FROM tierkeeper.compared AS c
WHERE c.id = ANY (%(ids)s::uuid[])
  AND c.thawed = (
    SELECT coalesce(md5(string_agg(l.batch::text, ',' ORDER BY l.seq)), '') || (
             SELECT coalesce(string_agg(m.id::text, ',' ORDER BY m.seq), '') FROM tierkeeper.compared AS m
             WHERE m.schema_name = c.schema_name AND m.table_name = c.table_name AND starts_with(m.thawed, 'mirrored ')
           )
    FROM tierkeeper.ledger AS l
    WHERE l.source = 'archive' AND l.schema_name = c.schema_name AND l.table_name = c.table_name
      AND l.state IN ('copied', 'done', 'forgotten')
  )

-- name: looked_at
-- Tables that a run from Core to Main has looked at, or opened a marker of, without which no row leaves; but those that are asked for below.
SELECT schema_name, table_name FROM tierkeeper.horizon
WHERE (schema_name, table_name) NOT IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))

-- name: arriving
-- Tables that have copies on their way up in Core: rows of Main's, as they were.
SELECT DISTINCT schema_name, table_name FROM tierkeeper.ledger
WHERE state = 'copied' AND (schema_name, table_name) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))

-- name: has_memory
SELECT to_regclass('tierkeeper.horizon') IS NOT NULL

-- name: keys
SELECT jsonb_build_array({key})::text FROM {table} AS t WHERE {where}

-- name: keys_there
SELECT given.key::text FROM jsonb_array_elements({keys}::jsonb) AS given (key)
WHERE EXISTS (SELECT FROM {table} AS t WHERE {same} AND {counts})

-- name: keys_at
SELECT given.place FROM jsonb_array_elements({keys}::jsonb) WITH ORDINALITY AS given (key, place)
WHERE EXISTS (SELECT FROM {table} AS t WHERE {same} AND {where})

-- name: count
SELECT count(*) FROM (SELECT FROM {table} AS t WHERE {where} LIMIT {most}) AS found

-- name: fetch
SELECT {key} FROM {table} AS t WHERE {where}

-- name: places
SELECT t.tableoid::bigint, t.ctid::text
FROM jsonb_array_elements({keys}::jsonb) AS given (key) JOIN {table} AS t ON {same}

-- name: settings
SELECT set_config('search_path', 'public', true),
       set_config('standard_conforming_strings', 'on', true),
       set_config('constraint_exclusion', 'off', true),
       set_config('enable_partition_pruning', 'off', true),
       set_config('statement_timeout', %(milliseconds)s, true),
       set_config('idle_in_transaction_session_timeout', %(milliseconds)s, true)
