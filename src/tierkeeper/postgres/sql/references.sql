-- name: references
-- A partition's own constraints are its root's, said again, until it is detached: while this is pending nobody finds its rows in
-- the root, and its constraint counts by itself. Those that point at a partition, which may be a table of ours, are told as such.
WITH RECURSIVE above (oid, up, far) AS (
    SELECT inhrelid, inhparent, 1 FROM pg_inherits WHERE NOT inhdetachpending
    UNION ALL
    SELECT a.oid, i.inhparent, a.far + 1 FROM above AS a JOIN pg_inherits AS i ON i.inhrelid = a.up AND NOT i.inhdetachpending
),
named AS (
    SELECT a.oid, array_agg(ARRAY[n.nspname::text, c.relname::text] ORDER BY a.far, a.up) AS up
    FROM above AS a JOIN pg_class AS c ON c.oid = a.up AND c.relkind IN ('r', 'p') JOIN pg_namespace AS n ON n.oid = c.relnamespace
    GROUP BY a.oid
)
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
       c.relkind = 'p',
       p.relkind = 'p',
       coalesce(child_above.up, '{}'),
       coalesce(parent_above.up, '{}'),
       f.conparentid <> 0 AND NOT c.relispartition
FROM pg_constraint AS f
JOIN pg_class AS c ON c.oid = f.conrelid
JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
JOIN pg_class AS p ON p.oid = f.confrelid
JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
LEFT JOIN named AS child_above ON child_above.oid = f.conrelid
LEFT JOIN named AS parent_above ON parent_above.oid = f.confrelid
WHERE f.contype = 'f'
  AND (f.conparentid = 0
       OR NOT c.relispartition
       OR (EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = f.conrelid AND i.inhdetachpending)
           AND NOT EXISTS (SELECT FROM pg_constraint AS up WHERE up.oid = f.conparentid AND up.conrelid = f.conrelid)))
ORDER BY 2, 3, 1, 5, 6
