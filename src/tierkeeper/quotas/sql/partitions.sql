-- name: old
-- The partitions of a table, outermost first, that only take rows older than the cutoff: ranges of the age column alone, whose
-- bounds lie below it. One that begins with MINVALUE, a DEFAULT one, lists and hashes take late rows of any age.
WITH RECURSIVE tree (oid, depth) AS (
  SELECT c.oid, 0
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind = 'p'
  UNION ALL
  SELECT i.inhrelid, tree.depth + 1
  FROM tree
  JOIN pg_inherits AS i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
  JOIN pg_class AS c ON c.oid = i.inhrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE (n.nspname, c.relname) NOT IN (SELECT * FROM unnest(%(apart_schemas)s::name[], %(apart_names)s::name[]))
),
bounded AS (
  SELECT tree.depth, c.oid, c.relname, c.relnamespace, i.inhparent, p.partdefid <> 0 AS beside_default, a.atttypid,
         pg_get_expr(c.relpartbound, c.oid) AS bound,
         (regexp_match(pg_get_expr(c.relpartbound, c.oid), '^FOR VALUES FROM \(''[^'']*''\) TO \(''([^'']*)''\)$'))[1] AS upto
  FROM tree
  JOIN pg_class AS c ON c.oid = tree.oid
  JOIN pg_inherits AS i ON i.inhrelid = c.oid
  JOIN pg_partitioned_table AS p ON p.partrelid = i.inhparent AND p.partstrat = 'r' AND p.partnatts = 1
  JOIN pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0] AND a.attname = %(age)s
  JOIN pg_opclass AS o ON o.oid = p.partclass[0] AND o.opcdefault
)
SELECT b.oid::bigint, pn.nspname::text, parent.relname::text, n.nspname::text, b.relname::text, b.bound, b.beside_default,
       below.heap_bytes, below.total_bytes, below.barred
FROM bounded AS b
JOIN pg_namespace AS n ON n.oid = b.relnamespace
JOIN pg_class AS parent ON parent.oid = b.inhparent JOIN pg_namespace AS pn ON pn.oid = parent.relnamespace
CROSS JOIN LATERAL (
  SELECT sum(pg_relation_size(c.oid))::bigint AS heap_bytes, sum(pg_total_relation_size(c.oid))::bigint AS total_bytes,
         coalesce(
           min(format('%%s is no ordinary table', c.oid::regclass))
             FILTER (WHERE c.relkind <> 'p' AND (c.relkind <> 'r' OR m.amname <> 'heap')),
           min(format('%%s has a [[tables]] entry of its own', c.oid::regclass))
             FILTER (WHERE (cn.nspname, c.relname) IN (SELECT * FROM unnest(%(apart_schemas)s::name[], %(apart_names)s::name[]))),
           (SELECT min(format('the publication %%s names it', pub.pubname))
            FROM pg_publication_rel AS r JOIN pg_publication AS pub ON pub.oid = r.prpubid
            WHERE r.prrelid IN (SELECT relid FROM pg_partition_tree(b.oid)))
         ) AS barred
  FROM pg_partition_tree(b.oid) AS t
  JOIN pg_class AS c ON c.oid = t.relid JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
  LEFT JOIN pg_am AS m ON m.oid = c.relam
) AS below
WHERE CASE b.atttypid
        WHEN 'timestamptz'::regtype THEN b.upto::timestamptz <= %(cutoff)s::timestamptz
        WHEN 'timestamp'::regtype THEN b.upto::timestamp <= %(cutoff)s::timestamptz AT TIME ZONE 'UTC'
        WHEN 'date'::regtype THEN b.upto::timestamp <= %(cutoff)s::timestamptz AT TIME ZONE 'UTC'
      END
ORDER BY b.depth, CASE b.atttypid WHEN 'timestamptz'::regtype THEN b.upto::timestamptz ELSE b.upto::timestamp END, 4, 5

-- name: partitioned
SELECT n.nspname::text, c.relname::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'p' AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))

-- name: referred_to
-- Whether a foreign key that points at the table which the partition lies in points at it as well.
SELECT EXISTS (
  SELECT FROM pg_partition_tree(%(partition)s::oid) AS t
  JOIN pg_constraint AS f ON f.confrelid = t.relid AND f.contype = 'f' AND f.conparentid <> 0
)
