-- name: relation
SELECT n.nspname::text,
       c.relname::text,
       c.oid::bigint,
       c.relkind::text,
       ARRAY(
         WITH RECURSIVE tree (oid) AS (
           SELECT c.oid
           UNION
           SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
         )
         SELECT oid::bigint FROM tree
       )
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))

-- name: named
ARRAY(
  SELECT c.oid
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest({schemas}::name[], {names}::name[]))
)

-- name: with_parts
ARRAY(
  WITH RECURSIVE tree (oid) AS (
    SELECT unnest({tables}::oid[])
    UNION
    SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
  )
  SELECT oid FROM tree
)

-- name: types_of
ARRAY(SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = ANY ({tables}::oid[]) AND a.attnum > 0 AND NOT a.attisdropped)

-- name: parts
-- The tables that hold rows of the given one, itself included, with the columns that they have besides its own. What is in
-- `apart` is left out with all below it; a partition that is being detached is none any more.
WITH RECURSIVE tree (oid) AS (
  SELECT c.oid
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text
  UNION
  SELECT c.oid
  FROM tree
  JOIN pg_inherits i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
  JOIN pg_class c ON c.oid = i.inhrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE (n.nspname, c.relname) NOT IN (SELECT * FROM unnest(%(apart_schemas)s::name[], %(apart_names)s::name[]))
)
SELECT n.nspname::text,
       c.relname::text,
       ARRAY(
         SELECT a.attname::text
         FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attname NOT IN (
             SELECT own.attname
             FROM pg_attribute own
             JOIN pg_class r ON r.oid = own.attrelid
             JOIN pg_namespace rn ON rn.oid = r.relnamespace
             WHERE rn.nspname = %(schema)s::text AND r.relname = %(name)s::text AND own.attnum > 0 AND NOT own.attisdropped
           )
         ORDER BY a.attnum
       )
FROM tree
JOIN pg_class c ON c.oid = tree.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind <> 'p'
ORDER BY 1, 2

-- name: partition_among
WITH RECURSIVE tree (oid) AS (
  SELECT c.oid
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text AND c.relkind = 'p'
  UNION
  SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
)
SELECT n.nspname::text, c.relname::text
FROM tree
JOIN pg_class c ON c.oid = tree.oid AND c.relispartition
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))
  AND NOT (n.nspname = %(schema)s::text AND c.relname = %(name)s::text)
ORDER BY 1, 2
LIMIT 1

-- name: foreign_parts
SELECT c.oid::bigint, n.nspname::text, c.relname::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ({tables}::oid[]) AND c.relkind = 'f'
ORDER BY 2, 3

-- name: similar
SELECT n.nspname::text, c.relname::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tierkeeper', 'tierkeeper_jobs')
  AND lower(c.relname) = lower(%(name)s::text)
ORDER BY 1, 2
LIMIT 1

-- name: columns
SELECT a.attname::text,
       format_type(a.atttypid, a.atttypmod),
       a.atttypid::bigint,
       a.attnotnull,
       CASE WHEN a.attcollation <> t.typcollation THEN quote_ident(n.nspname) || '.' || quote_ident(l.collname) END,
       l.oid::bigint,
       a.attgenerated <> '',
       a.attnum::int,
       a.attrelid::bigint
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
WHERE a.attrelid = ANY ({tables}::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum

-- name: columns_now
-- The columns of one table, and the versions of all that says what its values are: of its columns, one of which may be dropped
-- and come again under its name with a default, and of the types that a user made, however deep in others. A version is known
-- by its writer, so that what was changed and changed back shows too.
WITH RECURSIVE own AS MATERIALIZED (
  SELECT attnum, attname, atttypid, xmin FROM pg_attribute WHERE attrelid = {regclass}::regclass AND attnum > 0 AND NOT attisdropped
), made (oid) AS (
  SELECT atttypid FROM own WHERE atttypid >= 16384
  UNION
  SELECT part.oid
  FROM made
  JOIN pg_type t ON t.oid = made.oid
  CROSS JOIN LATERAL (
    SELECT t.typbasetype
    UNION ALL
    SELECT t.typelem
    UNION ALL
    SELECT g.rngsubtype FROM pg_range g WHERE g.rngtypid = t.oid
    UNION ALL
    SELECT g.rngtypid FROM pg_range g WHERE g.rngmultitypid = t.oid
    UNION ALL
    SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
  ) AS part (oid)
  WHERE part.oid >= 16384
)
SELECT ARRAY(SELECT attname::text FROM own),
       concat_ws('/',
         (SELECT string_agg(concat_ws(' ', attnum, atttypid, xmin), ',' ORDER BY attnum) FROM own),
         (SELECT string_agg(concat_ws(' ', t.oid, t.xmin,
                   (SELECT string_agg(concat_ws(' ', e.oid, e.xmin), ' ' ORDER BY e.oid) FROM pg_enum e WHERE e.enumtypid = t.oid),
                   (SELECT string_agg(concat_ws(' ', a.attnum, a.xmin), ' ' ORDER BY a.attnum)
                    FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0)
                 ), ',' ORDER BY t.oid)
          FROM made JOIN pg_type t ON t.oid = made.oid))

-- name: key
SELECT DISTINCT ON (i.indrelid)
       i.indrelid::bigint,
       ARRAY(
         SELECT a.attname::text
         FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
         WHERE k.place <= i.indnkeyatts
         ORDER BY k.place
       ),
       (SELECT array_agg(ARRAY[found.equal, found.greater] ORDER BY found.place)
        FROM (
          SELECT k.place,
                 max('OPERATOR(' || quote_ident(n.nspname) || '.' || o.oprname || ')') FILTER (WHERE s.amopstrategy = 3) AS equal,
                 max('OPERATOR(' || quote_ident(n.nspname) || '.' || o.oprname || ')') FILTER (WHERE s.amopstrategy = 5) AS greater,
                 bool_or(n.nspname <> 'pg_catalog') AS foreign_ones
          FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS k (opclass, place)
          JOIN pg_opclass p ON p.oid = k.opclass
          JOIN pg_amop s ON s.amopfamily = p.opcfamily AND s.amoplefttype = p.opcintype AND s.amoprighttype = p.opcintype
          JOIN pg_operator o ON o.oid = s.amopopr
          JOIN pg_namespace n ON n.oid = o.oprnamespace
          GROUP BY k.place
        ) AS found
        HAVING bool_or(found.foreign_ones))
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY ({tables}::oid[])
  AND i.indisunique
  AND i.indisvalid
  AND i.indisready
  AND i.indpred IS NULL
  AND i.indexprs IS NULL
  AND (i.indisprimary OR i.indimmediate)
  AND NOT EXISTS (
        SELECT
        FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE k.place <= i.indnkeyatts AND NOT a.attnotnull
      )
ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, c.relname

-- name: delete_triggers
-- Our own guards stay out: they are there for the mover. What runs only for replication ('R') does not run for it.
SELECT t.tgrelid::bigint, 'trigger ' || quote_ident(t.tgname)
FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid
WHERE p.pronamespace <> coalesce(to_regnamespace('tierkeeper'), 0)::oid
  AND t.tgrelid = ANY ({tables}::oid[]) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 8 <> 0
UNION
SELECT r.ev_class::bigint, 'rule ' || quote_ident(r.rulename)
FROM pg_rewrite r
WHERE r.ev_class = ANY ({tables}::oid[]) AND r.ev_type = '4' AND r.ev_enabled IN ('O', 'A')
ORDER BY 2

-- name: publications
SELECT t.schemaname::text, t.tablename::text, p.pubname::text
FROM pg_publication_tables t
JOIN pg_publication p ON p.pubname = t.pubname
WHERE (t.schemaname, t.tablename) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[])) AND p.pubdelete
ORDER BY 3

-- name: slots
SELECT slot_name::text, active
FROM pg_replication_slots
WHERE slot_type = 'logical' AND database = current_database()
ORDER BY 1

-- name: types_named
SELECT t.oid::bigint
FROM pg_type t
JOIN pg_namespace n ON n.oid = t.typnamespace
JOIN unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name) ON n.nspname = wanted.schema AND t.typname = wanted.name

-- name: types
WITH RECURSIVE reached (oid) AS (
  SELECT wanted.oid FROM unnest({types}::oid[]) AS wanted (oid) WHERE NOT wanted.oid = ANY ({known}::oid[])
  UNION
  SELECT part.oid
  FROM reached
  JOIN pg_type t ON t.oid = reached.oid
  CROSS JOIN LATERAL (
    SELECT t.typbasetype WHERE t.typtype = 'd'
    UNION ALL
    SELECT t.typelem WHERE t.typtype = 'b' AND t.typcategory = 'A'
    UNION ALL
    SELECT g.rngsubtype FROM pg_range g WHERE g.rngtypid = t.oid
    UNION ALL
    SELECT g.rngtypid FROM pg_range g WHERE g.rngmultitypid = t.oid
    UNION ALL
    SELECT a.atttypid
    FROM pg_attribute a
    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
  ) AS part (oid)
)
SELECT t.oid::bigint,
       n.nspname::text AS schema,
       t.typname::text AS name,
       t.typtype::text AS kind,
       t.typcategory::text AS category,
       CASE
         WHEN t.typtype = 'd' THEN ARRAY[t.typbasetype::bigint]
         WHEN t.typtype = 'b' AND t.typcategory = 'A' THEN ARRAY[t.typelem::bigint]
         WHEN t.typtype = 'r' THEN ARRAY[g.rngsubtype::bigint]
         WHEN t.typtype = 'm' THEN ARRAY(SELECT m.rngtypid::bigint FROM pg_range m WHERE m.rngmultitypid = t.oid)
         WHEN t.typtype = 'c' THEN ARRAY(
           SELECT a.atttypid::bigint
           FROM pg_attribute a
           WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
           ORDER BY a.attnum
         )
         ELSE '{{}}'::bigint[]
       END AS parts,
       (SELECT ARRAY[en.nspname::text, e.extname::text]
        FROM pg_depend d
        JOIN pg_extension e ON e.oid = d.refobjid
        JOIN pg_namespace en ON en.oid = e.extnamespace
        WHERE d.classid = 'pg_type'::regclass
          AND d.objid = t.oid
          AND d.refclassid = 'pg_extension'::regclass
          AND d.deptype = 'e') AS extension,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels,
       CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END AS domain_of,
       t.typnotnull AS not_null,
       (SELECT quote_ident(ln.nspname) || '.' || quote_ident(l.collname)
        FROM pg_type b, pg_collation l
        JOIN pg_namespace ln ON ln.oid = l.collnamespace
        WHERE t.typtype = 'd' AND b.oid = t.typbasetype AND l.oid = t.typcollation AND t.typcollation <> b.typcollation)
         AS collation,
       ARRAY(
         SELECT 'CONSTRAINT ' || quote_ident(c.conname) || ' ' || pg_get_constraintdef(c.oid)
         FROM pg_constraint c
         WHERE c.contypid = t.oid AND c.contype = 'c' AND c.convalidated
           AND NOT EXISTS (  -- on functions of the user's, which do not come along; Postgres's own leave no trace here
             SELECT FROM pg_depend d
             WHERE d.classid = 'pg_constraint'::regclass AND d.objid = c.oid
               AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
           )
         ORDER BY c.conname
       ) AS checks,
       r.relkind::text AS relation_kind,
       ARRAY(
         SELECT quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                || CASE
                     WHEN a.attcollation <> b.typcollation
                     THEN ' COLLATE ' || quote_ident(ln.nspname) || '.' || quote_ident(l.collname)
                     ELSE ''
                   END
         FROM pg_attribute a
         JOIN pg_type b ON b.oid = a.atttypid
         LEFT JOIN pg_collation l ON l.oid = a.attcollation
         LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
         WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attnum
       ) AS attributes,
       CASE WHEN t.typtype = 'r' THEN concat_ws(', ',
         'SUBTYPE = ' || format_type(g.rngsubtype, NULL),
         (SELECT 'SUBTYPE_OPCLASS = ' || quote_ident(kn.nspname) || '.' || quote_ident(k.opcname)
          FROM pg_opclass k
          JOIN pg_namespace kn ON kn.oid = k.opcnamespace
          WHERE k.oid = g.rngsubopc AND NOT k.opcdefault),
         (SELECT 'COLLATION = ' || quote_ident(ln.nspname) || '.' || quote_ident(l.collname)
          FROM pg_type s, pg_collation l
          JOIN pg_namespace ln ON ln.oid = l.collnamespace
          WHERE s.oid = g.rngsubtype AND l.oid = g.rngcollation AND g.rngcollation <> s.typcollation),
         (SELECT 'MULTIRANGE_TYPE_NAME = ' || quote_ident(mn.nspname) || '.' || quote_ident(m.typname)
          FROM pg_type m
          JOIN pg_namespace mn ON mn.oid = m.typnamespace
          WHERE m.oid = g.rngmultitypid)
       ) END AS range_of,
       coalesce(g.rngcanonical, 0) <> 0 AS canonical,
       array_remove(
         ARRAY[t.typcollation::bigint, g.rngcollation::bigint]
         || ARRAY(SELECT a.attcollation::bigint FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid),
         NULL
       ) AS collations,
       t.typsend <> 0 AND t.typreceive <> 0 AS binary
FROM reached
JOIN pg_type t ON t.oid = reached.oid
JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_range g ON g.rngtypid = t.oid
LEFT JOIN pg_class r ON r.oid = t.typrelid
ORDER BY n.nspname, t.typname

-- name: collations
SELECT l.oid::bigint, n.nspname::text, l.collname::text, to_jsonb(l)
FROM pg_collation l
JOIN pg_namespace n ON n.oid = l.collnamespace
WHERE l.oid = ANY (%(collations)s::oid[])
ORDER BY 2, 3
