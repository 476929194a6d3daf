-- name: references
-- A partition's own constraints are its root's, said again; those that point at a partition, which may be a table of ours, count.
SELECT f.conname::text,
       cn.nspname::text, c.relname::text,
       ARRAY(
         SELECT a.attname::text
         FROM unnest(f.conkey) WITH ORDINALITY AS k (attnum, place)
         JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum
         ORDER BY k.place
       ),
       pn.nspname::text, p.relname::text,
       ARRAY(
         SELECT a.attname::text
         FROM unnest(f.confkey) WITH ORDINALITY AS k (attnum, place)
         JOIN pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.attnum
         ORDER BY k.place
       ),
       ARRAY(
         SELECT 'OPERATOR(' || quote_ident(n.nspname) || '.' || o.oprname || ')'
         FROM unnest(f.conpfeqop) WITH ORDINALITY AS k (operator, place)
         JOIN pg_operator AS o ON o.oid = k.operator
         JOIN pg_namespace AS n ON n.oid = o.oprnamespace
         ORDER BY k.place
       ),
       f.confdeltype::text,
       f.condeferrable,
       c.relkind = 'p'
FROM pg_constraint AS f
JOIN pg_class AS c ON c.oid = f.conrelid
JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
JOIN pg_class AS p ON p.oid = f.confrelid
JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND (f.conparentid = 0 OR NOT c.relispartition)
ORDER BY 2, 3, 1, 5, 6
