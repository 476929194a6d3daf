-- name: add
INSERT INTO tierkeeper.usage (tier, schema_name, table_name, {columns})
SELECT tier, schema_name, table_name, {columns}
FROM jsonb_to_recordset(%(samples)s::jsonb) AS s (
  tier text, schema_name text, table_name text, at timestamptz, bytes bigint, heap_bytes bigint, toast_bytes bigint,
  index_bytes bigint, dead_bytes bigint, reusable_bytes bigint, rows bigint, parts int, reads bigint, writes bigint,
  cache_hits bigint, cache_reads bigint, stats_reset timestamptz, base_bytes bigint, wal_bytes bigint, pinned_wal_bytes bigint
)
ON CONFLICT (tier, schema_name, table_name, at) DO NOTHING

-- name: thin
-- The oldest samples of a grain whose time is over: one in each hour or day stays, with both ends of its deepest falls, of each
-- reset of the statistics, and of each partition's end, since what counters say is read from neighbours. What stays is of the
-- next grain. Neighbours are looked up in the whole history, so that it does not matter where a run began or ended, and another
-- writer's rows are passed over.
WITH due AS MATERIALIZED (
  SELECT tier, schema_name, table_name, at, bytes, parts, reads, writes, stats_reset, date_trunc(%(unit)s, at) AS bucket
  FROM tierkeeper.usage
  WHERE grain = %(grain)s AND at < %(until)s
  ORDER BY at
  LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
), judged AS (
  SELECT d.*,
         coalesce(b.at < d.bucket, true) AS is_first,
         coalesce(b.bytes - d.bytes, 0) AS fell, coalesce(d.bytes - a.bytes, 0) AS falls,
         greatest(%(fall_bytes)s, %(fall_share)s * greatest(b.bytes, d.bytes)) AS deep,
         coalesce(b.reads > d.reads OR b.writes > d.writes OR b.parts > d.parts
                  OR b.at IS NOT NULL AND b.stats_reset IS DISTINCT FROM d.stats_reset, false) AS was_reset,
         coalesce(d.reads > a.reads OR d.writes > a.writes OR d.parts > a.parts
                  OR a.at IS NOT NULL AND a.stats_reset IS DISTINCT FROM d.stats_reset, false) AS is_reset
  FROM due AS d
  LEFT JOIN LATERAL (
    SELECT u.at, u.bytes, u.parts, u.reads, u.writes, u.stats_reset FROM tierkeeper.usage AS u
    WHERE u.tier = d.tier AND u.schema_name = d.schema_name AND u.table_name = d.table_name AND u.at < d.at
    ORDER BY u.at DESC LIMIT 1
  ) AS b ON true
  LEFT JOIN LATERAL (
    SELECT u.at, u.bytes, u.parts, u.reads, u.writes, u.stats_reset FROM tierkeeper.usage AS u
    WHERE u.tier = d.tier AND u.schema_name = d.schema_name AND u.table_name = d.table_name AND u.at > d.at
    ORDER BY u.at LIMIT 1
  ) AS a ON true
), ranked AS (
  SELECT j.*,
         row_number() OVER (PARTITION BY tier, schema_name, table_name, bucket ORDER BY fell DESC) AS fell_place,
         row_number() OVER (PARTITION BY tier, schema_name, table_name, bucket ORDER BY falls DESC) AS falls_place
  FROM judged AS j
), decided AS (
  SELECT tier, schema_name, table_name, at,
         is_first OR was_reset OR is_reset OR (fell >= deep AND fell_place <= %(falls)s) OR (falls >= deep AND falls_place <= %(falls)s)
           AS stays
  FROM ranked
), gone AS (
  DELETE FROM tierkeeper.usage AS u USING decided AS d
  WHERE NOT d.stays AND u.tier = d.tier AND u.schema_name = d.schema_name AND u.table_name = d.table_name AND u.at = d.at
)
UPDATE tierkeeper.usage AS u SET grain = %(grain)s + 1
FROM decided AS d
WHERE d.stays AND u.tier = d.tier AND u.schema_name = d.schema_name AND u.table_name = d.table_name AND u.at = d.at

-- name: expire
DELETE FROM tierkeeper.usage WHERE ctid IN (SELECT ctid FROM tierkeeper.usage WHERE grain = 2 AND at < %(oldest)s LIMIT %(limit)s)

-- name: read
SELECT tier, schema_name, table_name, {columns}
FROM tierkeeper.usage
WHERE (%(tier)s::text IS NULL OR tier = %(tier)s)
  AND (%(every)s OR (schema_name = %(schema)s AND table_name = %(table)s))
  AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
ORDER BY at, tier, schema_name, table_name

-- name: egress_add
INSERT INTO tierkeeper.egress AS e (tier, day, writer, bytes)
SELECT tier, day, writer, bytes
FROM jsonb_to_recordset(%(shares)s::jsonb) AS s (tier text, day date, writer uuid, bytes bigint)
ON CONFLICT (tier, day, writer) DO UPDATE SET bytes = greatest(e.bytes, excluded.bytes)

-- name: egress
SELECT day, tier, writer, bytes FROM tierkeeper.egress WHERE day >= %(since)s

-- name: egress_expire
DELETE FROM tierkeeper.egress WHERE day < %(oldest)s
