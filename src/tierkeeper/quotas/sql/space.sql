-- name: leftovers
-- What an interrupted REINDEX CONCURRENTLY of ours leaves: an invalid twin of a valid index, under that one's name and a suffix
-- that Postgres gives. Nothing else that is invalid is touched.
SELECT i.relname::text
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_index AS x ON x.indrelid = c.oid AND NOT x.indisvalid
JOIN pg_class AS i ON i.oid = x.indexrelid AND i.relname ~ '_cc(new|old)\d*$'
WHERE n.nspname = %(schema)s AND c.relname = %(table)s
  AND EXISTS (
    SELECT FROM pg_index AS y JOIN pg_class AS j ON j.oid = y.indexrelid
    WHERE y.indrelid = c.oid AND y.indisvalid AND y.indexrelid <> x.indexrelid AND j.relam = i.relam
      AND starts_with(j.relname, left(regexp_replace(i.relname, '_cc(new|old)\d*$', ''), 50))
      AND (y.indkey::text, y.indclass::text, y.indcollation::text, y.indoption::text, y.indisunique)
        = (x.indkey::text, x.indclass::text, x.indcollation::text, x.indoption::text, x.indisunique)
      AND coalesce(pg_get_expr(y.indexprs, c.oid), '') = coalesce(pg_get_expr(x.indexprs, c.oid), '')
      AND coalesce(pg_get_expr(y.indpred, c.oid), '') = coalesce(pg_get_expr(x.indpred, c.oid), '')
  )

-- name: barred
-- Why nothing that writes WAL may run here. A slot that nobody reads keeps all of it, beside the database's own size.
SELECT format('the replication slot %%s is not read, so that all WAL written now would stay on the disk: drop it, or start its'
              ' reader', slot_name)
FROM pg_replication_slots
WHERE NOT active AND restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost'
ORDER BY slot_name LIMIT 1

-- name: untouchable
-- Why the table's rows may not be moved by an UPDATE that changes nothing: whoever would notice it, or it would fail.
WITH the AS (
  SELECT c.oid, c.relname, n.nspname, c.reloptions
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname = %(schema)s AND c.relname = %(table)s
)
SELECT why FROM (
  SELECT 1, format('its trigger %%s fires on UPDATE', g.tgname)
  FROM the JOIN pg_trigger AS g ON g.tgrelid = the.oid
  JOIN pg_proc AS p ON p.oid = g.tgfoid JOIN pg_namespace AS pn ON pn.oid = p.pronamespace
  WHERE NOT g.tgisinternal AND g.tgtype & 16 <> 0 AND g.tgenabled IN ('O', 'A')
    AND (pn.nspname, p.proname) IS DISTINCT FROM ('tierkeeper', 'refuse_copy_in_flight')
  UNION ALL
  SELECT 2, format('its rule %%s rewrites an UPDATE', r.rulename)
  FROM the JOIN pg_rewrite AS r ON r.ev_class = the.oid WHERE r.ev_type = '2'
  UNION ALL
  SELECT 3, format('the publication %%s would send its updates', p.pubname)
  FROM the
  CROSS JOIN LATERAL (SELECT the.oid UNION SELECT relid FROM pg_partition_ancestors(the.oid)) AS named (oid)
  JOIN pg_class AS c ON c.oid = named.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_publication_tables AS t ON (t.schemaname, t.tablename) = (n.nspname, c.relname)
  JOIN pg_publication AS p ON p.pubname = t.pubname WHERE p.pubupdate
  UNION ALL
  SELECT 4, format('the logical replication slot %%s would see its updates', s.slot_name)
  FROM pg_replication_slots AS s WHERE s.slot_type = 'logical' AND s.database = current_database()
  UNION ALL
  SELECT 5, format('its generated column %%s would be computed again', a.attname)
  FROM the JOIN pg_attribute AS a ON a.attrelid = the.oid WHERE a.attgenerated = 's' AND NOT a.attisdropped
  UNION ALL
  SELECT 6, format('its constraint %%s was never validated, so that a row may break it', k.conname)
  FROM the JOIN pg_constraint AS k ON k.conrelid = the.oid WHERE NOT k.convalidated
  UNION ALL
  SELECT 7, 'row security hides rows of it from this role' FROM the WHERE row_security_active(the.oid)
  UNION ALL
  SELECT 8, 'this role may not UPDATE it' FROM the WHERE NOT has_table_privilege(the.oid, 'UPDATE')
  UNION ALL
  SELECT 9, 'its setting vacuum_truncate keeps VACUUM from cutting its tail'
  FROM the WHERE array_to_string(reloptions, ',') ~ 'vacuum_truncate=(false|off|0|no)'
) AS found (rank, why)
ORDER BY rank, why LIMIT 1

-- name: column
-- A column that an UPDATE may set to itself: best a short one that is never null.
SELECT a.attname::text
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attidentity <> 'a' AND a.attgenerated = ''
ORDER BY a.attlen < 0, NOT a.attnotnull, a.attlen, a.attnum
LIMIT 1

-- name: schema_here
SELECT to_regclass('tierkeeper.marker') IS NOT NULL, to_regclass('tierkeeper.ledger') IS NOT NULL

-- name: leaving
-- The read of a batch remembers its rows' versions until the delete.
SELECT EXISTS (SELECT FROM tierkeeper.marker WHERE schema_name = %(schema)s AND table_name = %(table)s AND state = 'open')

-- name: arriving
-- A copy is known by the transaction that wrote it, until no reader can doubt it any more: as the guard of its table has it.
SELECT EXISTS (
  SELECT FROM tierkeeper.ledger
  WHERE schema_name = %(schema)s AND table_name = %(table)s
    AND (state IN ('open', 'copied') OR (state = 'done' AND settled_at > clock_timestamp() - make_interval(secs => reader_seconds)))
)

-- name: largest
-- The application's largest tables, with their indexes and partitions.
SELECT rn.nspname::text, r.relname::text, sum(pg_total_relation_size(c.oid))::bigint
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS r ON r.oid = coalesce(pg_partition_root(c.oid)::oid, c.oid)
JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('tierkeeper', 'tierkeeper_jobs', 'pg_catalog', 'information_schema', 'pg_toast')
GROUP BY 1, 2
ORDER BY 3 DESC, 1, 2
LIMIT 20

-- name: index_columns
-- The columns of each index; an expression has none.
SELECT ARRAY(
         SELECT a.attname::text
         FROM unnest(i.indkey::smallint[]) AS k (attnum)
         JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
       )
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: ages
-- What the planner knows of ages; of a partitioned table what it knows of all its partitions together. Which columns are asked about
-- is settled first, and their statistics are looked up by names: else those of every column that there is are gone through.
WITH these AS MATERIALIZED (
  SELECT n.nspname, c.relname, a.attname
  FROM unnest(%(schemas)s::name[], %(tables)s::name[], %(columns)s::name[]) AS asked (schema_name, table_name, age)
  JOIN pg_namespace AS n ON n.nspname = asked.schema_name
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = asked.table_name
  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = asked.age
  -- Another type would not be read as a time, and is no age.
  WHERE a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
)
SELECT t.nspname::text, t.relname::text,
       ARRAY(
         SELECT extract(epoch FROM v)::float8
         FROM unnest(s.most_common_vals::text::timestamptz[]) WITH ORDINALITY AS c (v, place) ORDER BY place
       ),
       coalesce(s.most_common_freqs::float8[], '{}'),
       ARRAY(
         SELECT extract(epoch FROM v)::float8
         FROM unnest(s.histogram_bounds::text::timestamptz[]) WITH ORDINALITY AS b (v, place) ORDER BY place
       ),
       s.null_frac::float8
FROM these AS t
CROSS JOIN LATERAL (
  SELECT k.most_common_vals, k.most_common_freqs, k.histogram_bounds, k.null_frac FROM pg_stats AS k
  WHERE k.schemaname = t.nspname AND k.tablename = t.relname AND k.attname = t.attname
  ORDER BY k.inherited DESC LIMIT 1
) AS s
ORDER BY t.nspname, t.relname
