-- name: own_relations
SELECT c.relname::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'tierkeeper'

-- name: own_functions
SELECT p.proname::text, p.prosrc
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'tierkeeper'

-- name: own_schema
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'tierkeeper'),
       has_database_privilege(current_database(), 'CREATE'),
       quote_ident(current_database()),
       has_database_privilege(current_database(), 'TEMP'),
       to_regnamespace('tierkeeper_jobs') IS NOT NULL,
       obj_description(to_regnamespace('tierkeeper_jobs'), 'pg_namespace')

-- name: present
SELECT 'schema', '', nspname::text, NULL::text[], NULL::text[]
FROM pg_namespace
WHERE nspname::text = ANY (%(names)s::text[])
UNION ALL
SELECT 'extension', n.nspname::text, e.extname::text, NULL, NULL
FROM pg_extension e
JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname::text = ANY (%(names)s::text[])
UNION ALL
SELECT 'collation', n.nspname::text, l.collname::text, NULL, NULL
FROM pg_collation l
JOIN pg_namespace n ON n.oid = l.collnamespace
WHERE l.collname::text = ANY (%(names)s::text[])
UNION ALL
SELECT 'type', n.nspname::text, t.typname::text,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder),
       ARRAY(
         SELECT ARRAY[quote_ident(c.conname), 'CONSTRAINT ' || quote_ident(c.conname) || ' ' || pg_get_constraintdef(c.oid)]
         FROM pg_constraint c
         WHERE c.contypid = t.oid AND c.contype = 'c'
         ORDER BY c.conname
       ) || CASE WHEN t.typnotnull THEN ARRAY[['', 'NOT NULL']] ELSE ARRAY[]::text[] END
FROM pg_type t
JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typname::text = ANY (%(names)s::text[])

-- name: available
SELECT name::text FROM pg_available_extensions

-- name: collations
-- Postgres's own, as far as the database's encoding has them.
SELECT collname::text FROM pg_collation
WHERE collnamespace = 'pg_catalog'::regnamespace
  AND collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database()))

-- name: relations
-- With the owner of those that this role may not alter.
SELECT n.nspname::text, c.relname::text, CASE WHEN NOT pg_has_role(c.relowner, 'USAGE') THEN quote_ident(pg_get_userbyid(c.relowner)) END
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))

-- name: index_leads
SELECT DISTINCT n.nspname::text, c.relname::text, a.attname::text
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[])) AND i.indisvalid AND i.indpred IS NULL

-- name: guards
SELECT n.nspname::text, c.relname::text, t.tgname::text
FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND t.tgenabled = 'A'

-- name: foreign_keys
SELECT n.nspname::text,
       c.relname::text,
       f.conname::text,
       pn.nspname::text,
       p.relname::text,
       ARRAY(
         SELECT a.attname::text
         FROM unnest(f.conkey) WITH ORDINALITY AS k (attnum, place)
         JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum
         ORDER BY k.place
       ),
       ARRAY(
         SELECT a.attname::text
         FROM unnest(f.confkey) WITH ORDINALITY AS k (attnum, place)
         JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum
         ORDER BY k.place
       ),
       f.confmatchtype = 'f'
FROM pg_constraint f
JOIN pg_class c ON c.oid = f.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = f.confrelid
JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))
ORDER BY f.conname

-- name: present_values
-- What rows that are older than a column have in it, as Postgres keeps it: the default's value when the column was added.
SELECT n.nspname::text, c.relname::text, a.attname::text, (a.attmissingval::text::text[])[1]
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[])) AND a.attnum > 0 AND NOT a.attisdropped AND a.atthasmissing

-- name: called_now
SELECT n.nspname::text, c.relname::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(table)s::oid AND c.relkind IN ('r', 'p')

-- name: in_flight
SELECT schema_name, table_name, count(*)
FROM tierkeeper.ledger
WHERE (schema_name, table_name) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))
  AND (state IN ('open', 'copied')
       OR (state = 'done' AND settled_at > clock_timestamp() - make_interval(secs => reader_seconds)))
GROUP BY schema_name, table_name

-- name: size
SELECT n.nspname::text, c.relname::text,
       pg_total_relation_size(c.oid)
       + coalesce((SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(c.oid) WHERE level > 0), 0)::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(names)s::name[]))

-- name: row_guard
-- ALWAYS: also against a session_replication_role of replica, under which a subscription writes, and a restore that says so.
-- A mover's delete passes in the tables that it names: it has proved that none of their rows that it takes is such a copy.
CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW WHEN (OLD.tableoid::text <> ALL (string_to_array(coalesce(current_setting('tierkeeper.leaving', true), ''), ',')))
EXECUTE FUNCTION tierkeeper.refuse_copy_in_flight();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}

-- name: row_guard_again
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}

-- name: reference_guard
-- Its name is behind that of the foreign key's own trigger, and so is its turn.
DROP TRIGGER IF EXISTS {trigger} ON {table};
CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION tierkeeper.refuse_reference_in_flight();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}

-- name: late_reference_guard
-- As late as a foreign key's own check may be.
DROP TRIGGER IF EXISTS {trigger} ON {table};
CREATE CONSTRAINT TRIGGER {trigger} AFTER INSERT OR UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION tierkeeper.refuse_reference_in_flight();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}

-- name: truncate_guard
CREATE OR REPLACE TRIGGER {trigger} BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION tierkeeper.refuse_copy_in_flight();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}
