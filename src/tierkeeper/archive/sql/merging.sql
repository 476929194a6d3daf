-- name: facts
-- What stands around a table that rows are put into. What runs only for replication ('R') does not run here.
SELECT row_security_active(c.oid),
       has_table_privilege(c.oid, 'SELECT'),
       has_any_column_privilege(c.oid, 'INSERT'),
       has_any_column_privilege(c.oid, 'UPDATE'),
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = c.oid),
       ARRAY(
         SELECT quote_ident(r.rulename) FROM pg_rewrite AS r
         WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '3') AND r.ev_enabled IN ('O', 'A') ORDER BY 1
       ),
       ARRAY(
         WITH RECURSIVE above (oid) AS (
           SELECT c.oid UNION SELECT i.inhparent FROM above JOIN pg_inherits AS i ON i.inhrelid = above.oid
         ), below (oid) AS (
           SELECT c.oid UNION SELECT i.inhrelid FROM below JOIN pg_inherits AS i ON i.inhparent = below.oid
         )
         SELECT ARRAY[rn.nspname::text, r.relname::text]
         FROM (SELECT oid FROM above UNION SELECT oid FROM below) AS relatives (oid)
         JOIN pg_class AS r ON r.oid = relatives.oid
         JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
         ORDER BY 1
       )
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text

-- name: columns
SELECT a.attname::text,
       a.atthasdef,
       a.attidentity::text,
       coalesce(l.collisdeterministic, true),
       pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname::text)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text
ORDER BY a.attnum

-- name: operators
-- What says that keys are equal, by the unique index over exactly these columns; one pair a column.
SELECT a.attname::text, 'OPERATOR(' || quote_ident(ns.nspname) || '.' || o.oprname || ')'
FROM (
  SELECT i.*
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_index AS i ON i.indrelid = c.oid
  JOIN pg_class AS x ON x.oid = i.indexrelid
  JOIN pg_am AS m ON m.oid = x.relam AND m.amname = 'btree'
  WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text
    AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
    AND (
      SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C")
      FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
      JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
      WHERE k.place <= i.indnkeyatts
    ) = ARRAY(SELECT key FROM unnest(%(key)s::text[]) AS key ORDER BY key COLLATE "C")
  ORDER BY i.indisprimary DESC, x.relname
  LIMIT 1
) AS i
CROSS JOIN LATERAL unnest(i.indkey::smallint[], i.indclass::oid[]) WITH ORDINALITY AS k (attnum, opclass, place)
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass AS p ON p.oid = k.opclass
JOIN pg_amop AS s
  ON s.amopfamily = p.opcfamily AND s.amoplefttype = p.opcintype AND s.amoprighttype = p.opcintype AND s.amopstrategy = 3
JOIN pg_operator AS o ON o.oid = s.amopopr
JOIN pg_namespace AS ns ON ns.oid = o.oprnamespace
ORDER BY k.place

-- name: effects
-- Foreign keys of other tables that change rows there when these are updated, with the columns that they refer to.
SELECT quote_ident(f.conname) || ' of ' || quote_ident(rn.nspname) || '.' || quote_ident(r.relname),
       ARRAY(
         SELECT a.attname::text FROM unnest(f.confkey) AS k (attnum)
         JOIN pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.attnum
       )
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_constraint AS f ON f.confrelid = c.oid AND f.contype = 'f' AND f.confupdtype IN ('c', 'n', 'd')
JOIN pg_class AS r ON r.oid = f.conrelid
JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text AND f.conparentid = 0
ORDER BY 1

-- name: there
-- How many of the keys the table has already, but for those that were put there, and the first of them.
SELECT count(*), (array_agg(concat_ws(', ', {shown}) ORDER BY s.ctid))[1]
FROM {staged} AS s
WHERE EXISTS (SELECT FROM {table} AS t WHERE {same}) AND NOT EXISTS (SELECT FROM {put} AS t WHERE {same})

-- name: put_table
CREATE TEMPORARY TABLE {put} ON COMMIT DROP AS SELECT {key}, true AS "tierkeeper: new" FROM {table} WITH NO DATA

-- name: insert
WITH added AS (
  INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
  SELECT {values} FROM {staged} AS s WHERE NOT EXISTS (SELECT FROM {put} AS t WHERE {same})
  ON CONFLICT ({key}) DO NOTHING
  RETURNING {key}
)
INSERT INTO {put} SELECT {key}, true FROM added

-- name: replace
WITH changed AS (
  UPDATE {table} AS t SET {changes} FROM {staged} AS s
  WHERE {same} AND NOT EXISTS (SELECT FROM {put} AS p WHERE {done})
  RETURNING {keys}
)
INSERT INTO {put} SELECT {key}, false FROM changed

-- name: take
-- Where nothing but the key is kept there is nothing to write over.
INSERT INTO {put}
SELECT {keys}, false FROM {table} AS t, {staged} AS s
WHERE {same} AND NOT EXISTS (SELECT FROM {put} AS p WHERE {done})
FOR UPDATE OF t

-- name: left
-- Keys whose rows were not put there, and of them those that the table has not.
SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE {same}))
FROM {staged} AS s
WHERE NOT EXISTS (SELECT FROM {put} AS t WHERE {same})

-- name: counted
SELECT count(*) FILTER (WHERE "tierkeeper: new"), count(*) FILTER (WHERE NOT "tierkeeper: new") FROM {put}

-- name: equal
-- How many of the rows that were put there are there, and per column whether all are what was archived.
SELECT count(*), {each}
FROM {put} AS p JOIN {staged} AS s ON {staged_same} JOIN {table} AS t ON {table_same}

-- name: sequence
-- The greatest value of a column that was put there, and where the sequence that fills it stands.
SELECT max({column})::bigint,
       (SELECT last_value FROM pg_sequences WHERE quote_ident(schemaname) || '.' || quote_ident(sequencename) = {sequence})
FROM {staged}
