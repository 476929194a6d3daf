-- name: schema
CREATE SCHEMA IF NOT EXISTS tierkeeper

-- name: tier
CREATE TABLE IF NOT EXISTS tierkeeper.tier (
    role       text        PRIMARY KEY,
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
)

-- name: marker
CREATE TABLE IF NOT EXISTS tierkeeper.marker (
    batch       uuid        PRIMARY KEY,
    seq         bigint      NOT NULL,
    destination text        NOT NULL,
    schema_name text        NOT NULL,
    table_name  text        NOT NULL,
    state       text        NOT NULL CHECK (state IN ('open', 'moved', 'aborted')),
    opened_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at  timestamptz
)

-- name: ledger
CREATE TABLE IF NOT EXISTS tierkeeper.ledger (
    batch       uuid        PRIMARY KEY,
    seq         bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
    source      text        NOT NULL,
    origin      uuid,
    schema_name text        NOT NULL,
    table_name  text        NOT NULL,
    age         text        NOT NULL,
    cutoff      timestamptz NOT NULL,
    predicate   text        NOT NULL,
    part_schema text,
    part_name   text,
    state       text        NOT NULL CHECK (state IN ('open', 'copied', 'done', 'undone', 'forgotten')),
    rows        bigint      NOT NULL DEFAULT 0,
    bytes       bigint      NOT NULL DEFAULT 0,
    fingerprint text,
    digest      text,
    min_age     timestamptz,
    max_age     timestamptz,
    copy_xid    xid8,
    relation    oid,
    heaps       oid[],
    files       oid[],
    reader_seconds double precision NOT NULL DEFAULT 0,
    opened_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    copied_at   timestamptz,
    settled_at  timestamptz
)

-- name: ledger_in_flight
CREATE INDEX IF NOT EXISTS ledger_in_flight ON tierkeeper.ledger (schema_name, table_name)
WHERE state IN ('open', 'copied', 'done')

-- name: ledger_thawed
CREATE INDEX IF NOT EXISTS ledger_thawed ON tierkeeper.ledger (schema_name, table_name) WHERE source = 'archive'

-- name: bundle
CREATE TABLE IF NOT EXISTS tierkeeper.bundle (
    batch  uuid PRIMARY KEY,
    bundle uuid NOT NULL
)

-- name: conflict
CREATE TABLE IF NOT EXISTS tierkeeper.conflict (
    schema_name text        NOT NULL,
    table_name  text        NOT NULL,
    key         jsonb       NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    core_gone_at timestamptz,
    PRIMARY KEY (schema_name, table_name, key)
)

-- name: horizon
-- Up to where Core's rows of a table were looked for at Main. `writer` is the row's own xmin where it was written.
CREATE TABLE IF NOT EXISTS tierkeeper.horizon (
    schema_name text   NOT NULL,
    table_name  text   NOT NULL,
    id          uuid   NOT NULL,
    key_columns text[] NOT NULL,
    heaps       oid[]  NOT NULL,
    since       xid8   NOT NULL,
    writer      xid8   NOT NULL,
    timeline    text   NOT NULL,
    PRIMARY KEY (schema_name, table_name)
)

-- name: compared
-- The horizons of Core's whose conflicts are noted here, and what had come by then that no move brought: batches from the archive,
-- and rows of a mirror. Of these the last has a row of its own, 'mirrored' and the newest batch of the table that had gone again.
CREATE TABLE IF NOT EXISTS tierkeeper.compared (
    schema_name text   NOT NULL,
    table_name  text   NOT NULL,
    id          uuid   NOT NULL,
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    thawed      text   NOT NULL,
    PRIMARY KEY (schema_name, table_name, id)
)

-- name: audit
CREATE TABLE IF NOT EXISTS tierkeeper.audit (
    id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor   text        NOT NULL,
    action  uuid        NOT NULL,
    kind    text        NOT NULL CHECK (kind IN ('intent', 'outcome')),
    verb    text        NOT NULL,
    subject text        NOT NULL,
    detail  jsonb       NOT NULL DEFAULT '{}'
)

-- name: lease
CREATE TABLE IF NOT EXISTS tierkeeper.lease (
    name       text        PRIMARY KEY,
    holder     text        NOT NULL,
    expires_at timestamptz NOT NULL
)

-- name: usage
-- How full and how busy the tiers and their tables were. A tier's own samples have no table. `grain`: 0 as it was taken, 1 one of
-- an hour, 2 one of a day.
CREATE TABLE IF NOT EXISTS tierkeeper.usage (
    tier             text        NOT NULL,
    schema_name      text        NOT NULL DEFAULT '',
    table_name       text        NOT NULL DEFAULT '',
    at               timestamptz NOT NULL,
    grain            smallint    NOT NULL DEFAULT 0,
    parts            integer,
    bytes            bigint      NOT NULL,
    heap_bytes       bigint,
    toast_bytes      bigint,
    index_bytes      bigint,
    dead_bytes       bigint,
    reusable_bytes   bigint,
    rows             bigint,
    reads            bigint,
    writes           bigint,
    cache_hits       bigint,
    cache_reads      bigint,
    stats_reset      timestamptz,
    base_bytes       bigint,
    wal_bytes        bigint,
    pinned_wal_bytes bigint,
    PRIMARY KEY (tier, schema_name, table_name, at)
)

-- name: usage_grain
CREATE INDEX IF NOT EXISTS usage_grain ON tierkeeper.usage (grain, at)

-- name: egress
-- What each machine (`writer`) has received from a tier on a day, in UTC. A machine's sum only grows.
CREATE TABLE IF NOT EXISTS tierkeeper.egress (
    tier   text   NOT NULL,
    day    date   NOT NULL,
    writer uuid   NOT NULL,
    bytes  bigint NOT NULL,
    PRIMARY KEY (tier, day, writer)
)

-- name: alert
-- What is remembered of alerts ('alerts') and of the reads that keep hosted projects awake ('awake'), each changed by compare-and-set.
CREATE TABLE IF NOT EXISTS tierkeeper.alert (
    name       text        PRIMARY KEY,
    version    bigint      NOT NULL,
    state      jsonb       NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
)

-- name: schedule
-- When each job of the schedule was due last, of those due times that were handled.
CREATE TABLE IF NOT EXISTS tierkeeper.schedule (
    job    text        PRIMARY KEY,
    due_at timestamptz NOT NULL
)

-- name: went
-- When each job of the schedule last went well, and what has kept it from that since.
CREATE TABLE IF NOT EXISTS tierkeeper.went (
    job   text        PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    ok_at timestamptz,
    cause text
)

-- name: followed
CREATE TABLE IF NOT EXISTS tierkeeper.followed (
    schema_name text     NOT NULL,
    table_name  text     NOT NULL,
    relation    oid      NOT NULL,
    number      smallint NOT NULL,
    column_name text     NOT NULL,
    type        text     NOT NULL,
    former      text[]   NOT NULL DEFAULT '{}',
    PRIMARY KEY (schema_name, table_name, number)
)

-- name: asked
-- How often rows of which ages were asked for: bounds of age in whole days, no value and no text of a statement.
CREATE TABLE IF NOT EXISTS tierkeeper.asked (
    schema_name   text   NOT NULL,
    table_name    text   NOT NULL,
    day           date   NOT NULL,
    oldest_days   int    NOT NULL,
    youngest_days int    NOT NULL,
    count         bigint NOT NULL,
    PRIMARY KEY (schema_name, table_name, day, oldest_days, youngest_days)
)

-- name: require_quiet
CREATE OR REPLACE FUNCTION tierkeeper.require_quiet(schema_name text, table_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $guard$
BEGIN
    -- Copies are known by the transaction that wrote them, and their batch by its columns' names: a rewrite or a rename under a
    -- copy would hide it. The lock comes first and stays: a mover that opens its batch after the look cannot copy before the end.
    EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', $1, $2);
    IF EXISTS (
        SELECT FROM tierkeeper.ledger AS l
        WHERE l.schema_name = $1 AND l.table_name = $2
          AND (l.state IN ('open', 'copied')
               OR (l.state = 'done' AND l.settled_at > clock_timestamp() - make_interval(secs => l.reader_seconds)))
    ) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_in_use',
            MESSAGE = format('%I.%I cannot be altered now: copies there are in flight, or too young for their readers', $1, $2);
    END IF;
END
$guard$

-- name: refuse_reference_in_flight
CREATE OR REPLACE FUNCTION tierkeeper.refuse_reference_in_flight() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $guard$
DECLARE
    asked record;
    in_flight boolean;
BEGIN
    -- A copy that a row refers to could not be taken back: what its foreign key does on DELETE would be done to that row. This runs
    -- behind the foreign key's own check, which has locked the copy: it is undone by nobody before this transaction has ended.
    IF NOT EXISTS (SELECT FROM tierkeeper.ledger WHERE state = 'copied' AND copy_xid <> pg_current_xact_id()) THEN
        RETURN NULL;
    END IF;
    FOR asked IN
        SELECT f.conname, n.nspname, p.relname, CASE WHEN p.relkind = 'p' THEN '' ELSE 'ONLY ' END AS only,
               (SELECT string_agg(
                    format('parent.%I OPERATOR(%I.%s) ($1).%I', theirs.attname, ns.nspname, o.oprname, ours.attname), ' AND ')
                FROM unnest(f.conkey, f.confkey, f.conpfeqop) AS k (ours, theirs, operator)
                JOIN pg_attribute AS ours ON ours.attrelid = f.conrelid AND ours.attnum = k.ours
                JOIN pg_attribute AS theirs ON theirs.attrelid = f.confrelid AND theirs.attnum = k.theirs
                JOIN pg_operator AS o ON o.oid = k.operator
                JOIN pg_namespace AS ns ON ns.oid = o.oprnamespace) AS meets
        FROM pg_constraint AS f
        JOIN pg_class AS p ON p.oid = f.confrelid
        JOIN pg_namespace AS n ON n.oid = p.relnamespace
        WHERE f.contype = 'f' AND f.conrelid = TG_RELID
          -- Towards a partitioned table there is one for each of its partitions, too.
          AND NOT EXISTS (SELECT FROM pg_constraint AS up WHERE up.oid = f.conparentid AND up.conrelid = f.conrelid)
          AND EXISTS (
            -- The ledger names the table, of which this may be a part.
            WITH RECURSIVE above (oid) AS (
                SELECT p.oid
                UNION
                SELECT i.inhparent FROM above JOIN pg_inherits AS i ON i.inhrelid = above.oid
            )
            SELECT FROM above
            JOIN pg_class AS c ON c.oid = above.oid
            JOIN pg_namespace AS s ON s.oid = c.relnamespace
            JOIN tierkeeper.ledger AS l ON l.schema_name = s.nspname AND l.table_name = c.relname AND l.state = 'copied'
          )
    LOOP
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM %s%I.%I AS parent JOIN tierkeeper.ledger AS l ON l.copy_xid::xid = parent.xmin '
            'WHERE l.state = ''copied'' AND l.copy_xid <> pg_current_xact_id() AND %s)',
            asked.only, asked.nspname, asked.relname, asked.meets
        ) INTO in_flight USING NEW;
        IF in_flight THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_in_use',
                MESSAGE = format(
                    '%s of %I.%I refused: by %I it refers to a row of %I.%I that tierkeeper is moving here',
                    TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME, asked.conname, asked.nspname, asked.relname),
                HINT = 'Wait until the move has settled (tierkeeper status shows it).';
        END IF;
    END LOOP;
    RETURN NULL;
END
$guard$

-- name: refuse_copy_in_flight
CREATE OR REPLACE FUNCTION tierkeeper.refuse_copy_in_flight() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $guard$
DECLARE
    in_flight boolean;
BEGIN
    -- A row's xmin is the transaction that wrote this version of it: the batch's copy, as long as nobody touched the row. Once
    -- done, a reader that began before may still hold the row's old place: until its time is over an update would show it twice.
    -- Two questions, though alike: asked for each row, one that has both costs seven times as much.
    IF TG_OP = 'TRUNCATE' THEN
        in_flight := EXISTS (
            SELECT FROM tierkeeper.ledger
            WHERE (state = 'copied' OR (state = 'done' AND settled_at > clock_timestamp() - make_interval(secs => reader_seconds)))
              AND (schema_name, table_name) IN (
                -- The ledger names the table that was asked for; the trigger of a partition, its own.
                WITH RECURSIVE above (oid) AS (
                    SELECT TG_RELID
                    UNION
                    SELECT i.inhparent FROM above JOIN pg_inherits AS i ON i.inhrelid = above.oid
                )
                SELECT n.nspname, c.relname
                FROM above JOIN pg_class AS c ON c.oid = above.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
              )
        );
    ELSE
        in_flight := EXISTS (
            SELECT FROM tierkeeper.ledger
            WHERE (state = 'copied' OR (state = 'done' AND settled_at > clock_timestamp() - make_interval(secs => reader_seconds)))
              AND copy_xid::xid = OLD.xmin
        );
    END IF;
    IF in_flight AND coalesce(current_setting('tierkeeper.mover', true), '') <> 'on' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_in_use',
            MESSAGE = format('%s of %I.%I refused: tierkeeper is moving these rows here', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME),
            HINT = 'While tierkeeper status counts it as in flight, change the row in the tier that it comes from. '
                'Once it has left there, wait for the longest reader (query.timeout).';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        RETURN NEW;
    END IF;
    RETURN OLD;
END
$guard$
