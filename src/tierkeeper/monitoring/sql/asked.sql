-- name: note
-- Where the default is read-only, nothing more is wanted there (I9), though an explicit READ WRITE passes that switch.
INSERT INTO tierkeeper.asked AS a (schema_name, table_name, day, oldest_days, youngest_days, count)
SELECT t.schema_name, t.table_name, %(day)s, t.oldest_days, t.youngest_days, count(*)
FROM unnest(%(schemas)s::text[], %(names)s::text[], %(oldest)s::int[], %(youngest)s::int[])
  AS t (schema_name, table_name, oldest_days, youngest_days)
WHERE current_setting('default_transaction_read_only') = 'off'
GROUP BY t.schema_name, t.table_name, t.oldest_days, t.youngest_days
ORDER BY t.schema_name, t.table_name, t.oldest_days, t.youngest_days -- one order, so that two who note at once wait and do not lock
ON CONFLICT (schema_name, table_name, day, oldest_days, youngest_days) DO UPDATE SET count = a.count + excluded.count
RETURNING xmax = 0

-- name: compact
WITH old AS (
  DELETE FROM tierkeeper.asked
  WHERE day < %(fine_since)s AND day <> date_trunc('month', day)::date OR day < %(since)s
  RETURNING *
)
INSERT INTO tierkeeper.asked AS a (schema_name, table_name, day, oldest_days, youngest_days, count)
SELECT schema_name, table_name, date_trunc('month', day)::date, oldest_days, youngest_days, sum(count)
FROM old WHERE day >= %(since)s
GROUP BY schema_name, table_name, date_trunc('month', day), oldest_days, youngest_days
ON CONFLICT (schema_name, table_name, day, oldest_days, youngest_days) DO UPDATE SET count = a.count + excluded.count

-- name: read
SELECT schema_name, table_name, oldest_days, sum(count)::bigint, min(day)
FROM tierkeeper.asked WHERE day >= %(since)s
GROUP BY schema_name, table_name, oldest_days
ORDER BY schema_name, table_name, oldest_days
