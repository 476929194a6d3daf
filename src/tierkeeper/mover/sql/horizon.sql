-- name: at_core
-- What Core's snapshot says of the table: the horizon, if it is this very database's still, and since when rows will be new. A
-- row that was written anew elsewhere, as a restored dump's is, has another xmin than its writer; a server that was put back to
-- an earlier time has another timeline, or has handed over less than Main has taken.
SELECT h.id, h.key_columns, h.heaps::bigint[], h.since::xid::text,
       pg_snapshot_xmin(pg_current_snapshot())::text,
       (SELECT max(seq) FROM tierkeeper.marker WHERE state = 'moved' AND destination = 'main'),
       EXISTS (
         SELECT FROM tierkeeper.ledger
         WHERE schema_name = {schema} AND table_name = {name} AND state = 'copied'
       ),
       ARRAY(
         WITH RECURSIVE tree (oid) AS (
           SELECT {regclass}::regclass::oid
           UNION
           SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
         )
         SELECT oid::bigint FROM tree
       )
FROM (VALUES (true)) AS one (row)
LEFT JOIN tierkeeper.horizon AS h
  ON h.schema_name = {schema} AND h.table_name = {name}
  AND h.xmin = h.writer::xid
  AND h.timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
  AND pg_snapshot_xmax(pg_current_snapshot())::text::numeric - h.since::text::numeric BETWEEN 0 AND {oldest}

-- name: at_main
-- The horizons that Main knows of, if nothing has come from the archive or by a mirror since; what has come by now; the last batch
-- from Core.
SELECT ARRAY(
         SELECT c.id FROM tierkeeper.compared AS c
         WHERE c.schema_name = {schema} AND c.table_name = {name} AND c.thawed = found.thawed
       ),
       found.thawed,
       (SELECT seq FROM tierkeeper.ledger WHERE source = 'core' AND state IN ('done', 'forgotten') ORDER BY seq DESC LIMIT 1)
FROM (
  SELECT coalesce(md5(string_agg(batch::text, ',' ORDER BY seq)), '') || (
           SELECT coalesce(string_agg(m.id::text, ',' ORDER BY m.seq), '') FROM tierkeeper.compared AS m
           WHERE m.schema_name = {schema} AND m.table_name = {name} AND starts_with(m.thawed, 'mirrored ')
         ) AS thawed
  FROM tierkeeper.ledger
  WHERE source = 'archive' AND schema_name = {schema} AND table_name = {name} AND state IN ('copied', 'done', 'forgotten')
) AS found

-- name: keys
DECLARE tierkeeper_keys NO SCROLL CURSOR FOR
SELECT jsonb_build_array({key})::text FROM {table} AS t WHERE {newer}

-- name: found
-- Which of the keys Main has, as it writes them, and whether what it has is a copy in flight, which is Core's own row.
SELECT EXISTS (SELECT FROM tierkeeper.ledger AS l WHERE l.state = 'copied' AND l.copy_xid::xid = t.xmin), {key}
FROM jsonb_array_elements({keys}::jsonb) AS given (key) JOIN {table} AS t ON {same}

-- name: compared
INSERT INTO tierkeeper.compared (schema_name, table_name, id, thawed) VALUES ({schema}, {name}, {id}, {thawed})

-- name: compared_before
-- The one before stays for a reader whose snapshot of Core is of a moment ago.
DELETE FROM tierkeeper.compared
WHERE schema_name = {schema} AND table_name = {name} AND NOT starts_with(thawed, 'mirrored ') AND seq NOT IN (
  SELECT seq FROM tierkeeper.compared
  WHERE schema_name = {schema} AND table_name = {name} AND NOT starts_with(thawed, 'mirrored ')
  ORDER BY seq DESC LIMIT 2
)

-- name: record
INSERT INTO tierkeeper.horizon (schema_name, table_name, id, key_columns, heaps, since, writer, timeline)
VALUES (
  {schema}, {name}, {id}, {key_columns}, {heaps}, {since}::text::xid8, pg_current_xact_id(),
  substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
)
ON CONFLICT (schema_name, table_name) DO UPDATE
SET id = excluded.id, key_columns = excluded.key_columns, heaps = excluded.heaps, since = excluded.since,
    writer = excluded.writer, timeline = excluded.timeline

-- name: record_none
-- Main knows of no such horizon.
INSERT INTO tierkeeper.horizon (schema_name, table_name, id, key_columns, heaps, since, writer, timeline)
VALUES ({schema}, {name}, gen_random_uuid(), '{{}}', '{{}}', pg_current_xact_id(), pg_current_xact_id(), '')
ON CONFLICT DO NOTHING

-- name: void
-- Of all tables: once rows of one have left, Core's newest marker tells of the others no more.
DELETE FROM tierkeeper.compared WHERE NOT starts_with(thawed, 'mirrored ')
