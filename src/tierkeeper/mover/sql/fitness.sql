-- name: facts
-- What runs only for replication ('R') does not run for the mover; our own guards are there for it.
SELECT n.nspname::text, c.relname::text,
       pg_is_in_recovery() AS replica,
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'DELETE') AS may_leave,
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'DELETE')
         AS may_arrive,
       (SELECT min(f.conname || ' of ' || f.conrelid::regclass)
        FROM pg_constraint AS f
        WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.confdeltype IN ('c', 'n', 'd')) AS effect,
       c.relpersistence = 'p' AND NOT EXISTS (
         SELECT FROM pg_partition_tree(c.oid) AS t JOIN pg_class AS p ON p.oid = t.relid WHERE p.relpersistence <> 'p'
       ) AS durable,
       row_security_active(c.oid) AS hidden_rows,
       ARRAY(
         SELECT quote_ident(r.rulename) FROM pg_rewrite r
         WHERE r.ev_class = c.oid AND r.ev_type = '4' AND r.ev_enabled IN ('O', 'A') ORDER BY 1
       ) AS delete_rules,
       ARRAY(
         SELECT quote_ident(r.rulename) FROM pg_rewrite r
         WHERE r.ev_class = c.oid AND r.ev_type = '3' AND r.ev_enabled IN ('O', 'A') ORDER BY 1
       ) AS insert_rules,
       ARRAY(
         SELECT quote_ident(t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 4 <> 0
           AND p.pronamespace <> coalesce(to_regnamespace('tierkeeper'), 0)::oid ORDER BY 1
       ) AS insert_triggers,
       ARRAY(
         SELECT quote_ident(t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 8 <> 0
           AND p.pronamespace <> coalesce(to_regnamespace('tierkeeper'), 0)::oid ORDER BY 1
       ) AS delete_triggers,
       ARRAY(
         SELECT quote_ident(a.attname) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND (a.attidentity <> '' OR EXISTS (
             SELECT FROM pg_attrdef f
             JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
             JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
             WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum))
         ORDER BY 1
       ) AS counted
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))
