-- name: around
-- What logical replication has to do with the rows of the tables asked for, wherever they lie: in the table, in a partition or
-- a child below it, or, for a subscription, in what it is a partition of. Postgres judges a DELETE by the heap that has the
-- row, but filter and columns are those of the table that the publication names for it. pg_publication_rel is read as JSON: the
-- filter and the columns came with Postgres 15, the choice about generated columns with 18.
WITH RECURSIVE asked (oid, schema, name) AS (
  SELECT c.oid, n.nspname, c.relname
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))
),
below (root, oid) AS (
  SELECT oid, oid FROM asked
  UNION
  SELECT b.root, i.inhrelid FROM below AS b JOIN pg_inherits AS i ON i.inhparent = b.oid AND NOT i.inhdetachpending
),
written (root, oid, subscription) AS (
  SELECT b.root, b.oid, s.subname
  FROM pg_subscription_rel AS r
  JOIN pg_subscription AS s ON s.oid = r.srsubid
  JOIN (
    TABLE below
    UNION
    SELECT a.oid, p.relid FROM asked AS a CROSS JOIN pg_partition_ancestors(a.oid) AS p
  ) AS b ON b.oid = r.srrelid
),
published (relid, publication, via, sends_deletes) AS MATERIALIZED (
  SELECT c.oid, p.oid, p.pubname, p.pubdelete
  FROM pg_publication AS p
  JOIN pg_publication_tables AS t ON t.pubname = p.pubname
  JOIN pg_namespace AS n ON n.nspname = t.schemaname
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
  WHERE p.pubinsert OR p.pubdelete
),
sent (root, oid, publication, via, sends_deletes, relid) AS (
  SELECT b.root, b.oid, p.publication, p.via, p.sends_deletes, p.relid
  FROM below AS b
  JOIN pg_class AS c ON c.oid = b.oid AND c.relkind = 'r' AND c.relpersistence = 'p'
  CROSS JOIN LATERAL (SELECT b.oid UNION SELECT a.relid FROM pg_partition_ancestors(b.oid) AS a) AS up (oid)
  JOIN published AS p ON p.relid = up.oid
),
judged AS (
  SELECT s.root, s.oid, s.via, s.sends_deletes, c.relreplident = 'f' AS is_full, identity.names AS identity, listed.names AS listed,
         filtered.names AS filtered,
         ARRAY(
           SELECT a.attname FROM pg_attribute AS a
           WHERE a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped
             AND (c.relreplident = 'f' OR a.attname = ANY (identity.names))
             AND (a.attgenerated = 'v' OR a.attgenerated = 's' AND to_jsonb(p) ->> 'pubgencols' <> 's')
             AND to_jsonb(p) ? 'pubgencols'
           ORDER BY a.attnum
         ) AS generated
  FROM sent AS s
  JOIN pg_class AS c ON c.oid = s.oid
  JOIN pg_publication AS p ON p.oid = s.publication
  LEFT JOIN pg_publication_rel AS r ON r.prpubid = s.publication AND r.prrelid = s.relid
  CROSS JOIN LATERAL (
    SELECT array_agg(a.attname ORDER BY k.place) AS names
    FROM pg_index AS i
    CROSS JOIN unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = s.oid AND k.place <= i.indnkeyatts AND i.indisvalid AND i.indisunique AND i.indimmediate
      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
  ) AS identity
  CROSS JOIN LATERAL (
    SELECT array_agg(a.attname) AS names FROM pg_attribute AS a
    WHERE a.attrelid = s.relid AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)
  ) AS listed
  CROSS JOIN LATERAL (
    SELECT array_agg(a.attname ORDER BY a.attnum) AS names FROM pg_attribute AS a
    WHERE a.attrelid = s.relid
      AND a.attnum IN (SELECT f[1]::smallint FROM regexp_matches(to_jsonb(r) ->> 'prqual', ':varattno (\d+)', 'g') AS f)
  ) AS filtered
),
found (root, oid, who, fault, columns) AS (
  SELECT root, oid, subscription, 'writes', '{}'::name[] FROM written
  UNION ALL
  SELECT j.root, j.oid, j.via, f.fault, f.columns
  FROM judged AS j
  CROSS JOIN LATERAL (
    SELECT CASE
             WHEN NOT j.sends_deletes THEN 'sends'
             WHEN j.identity IS NULL AND NOT j.is_full THEN 'identity'
             WHEN j.filtered IS NOT NULL AND NOT j.is_full AND NOT j.filtered <@ j.identity THEN 'filter'
             WHEN j.listed IS NOT NULL AND (j.is_full OR NOT j.identity <@ j.listed) THEN 'columns'
             WHEN j.listed IS NULL AND j.generated <> '{}' THEN 'generated'
             ELSE 'sends'
           END
  ) AS which (fault)
  CROSS JOIN LATERAL (
    SELECT which.fault,
           CASE which.fault
             WHEN 'filter' THEN ARRAY(SELECT unnest(j.filtered) EXCEPT SELECT unnest(j.identity) ORDER BY 1)
             WHEN 'columns' THEN ARRAY(SELECT unnest(j.identity) EXCEPT SELECT unnest(j.listed) ORDER BY 1)
             WHEN 'generated' THEN j.generated
             ELSE '{}'::name[]
           END
  ) AS f (fault, columns)
)
SELECT a.schema::text, a.name::text, n.nspname::text, c.relname::text, quote_ident(f.who), f.fault,
       ARRAY(SELECT quote_ident(k) FROM unnest(f.columns) AS k)
FROM found AS f
JOIN asked AS a ON a.oid = f.root
JOIN pg_class AS c ON c.oid = f.oid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY f.oid <> f.root, 3, 4, 5, 6
