"""What a tier's server says of itself: as large as Postgres says it is, without waiting for anybody or keeping others."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest

from support import DatabaseFactory, Tiers, TiersFactory
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring.measure import measured, statements
from tierkeeper.monitoring.model import Measured
from tierkeeper.postgres.link import Connection, Link, translated
from tierkeeper.tiers.profile import SELF_HOSTED, SUPABASE_FREE
from tierkeeper.tiers.usage import table_size

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LOCKED_SECONDS = 1.0  # far less than anybody would wait for a lock, far more than a look takes on a busy machine
EVENTS, ODD, PARTS = TableName("public", "events"), TableName("odd schema", "my table"), TableName("public", "parts")
MAKE = """
CREATE SCHEMA "odd schema";
CREATE TABLE "odd schema"."my table" (id bigint PRIMARY KEY, body text);
INSERT INTO "odd schema"."my table" SELECT i, (SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 200) AS j)
FROM generate_series(1, 40) AS i;
CREATE TABLE public.parts (id bigint, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE INDEX ON public.parts (at, id);
INSERT INTO public.parts SELECT i, date '2024-01-01' + (i % 59)::int FROM generate_series(1, 3000) AS i;
CREATE MATERIALIZED VIEW public.seen AS SELECT * FROM public.parts;
"""


@pytest.fixture
def core(make_tiers: TiersFactory) -> Iterator[Connection]:
    """Events, a table with TOAST and odd names, partitions and a materialized view."""
    tiers: Tiers = make_tiers(core="events")
    with closing(tiers.core.connect("test")) as conn:
        for statement in MAKE.split(";\n"):
            conn.execute(statement.encode())
        conn.execute("SELECT pg_stat_force_next_flush()")
        conn.execute("VACUUM ANALYZE")
        yield conn


def look(conn: Connection, *tables: TableName) -> Measured:
    return measured(conn, "core", SELF_HOSTED, tables or (EVENTS,), NOW)


def one(conn: Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_each_table_is_as_large_as_postgres_says(core: Connection) -> None:
    found = look(core, EVENTS, PARTS)
    assert set(found.tables) == {EVENTS, PARTS, ODD, TableName("public", "kinds"), TableName("public", "seen")}
    for name, figures in found.tables.items():
        of = "SELECT relid FROM pg_partition_tree('public.parts')" if name == PARTS else f"SELECT '{name}'::regclass"
        assert figures.bytes == one(core, f"SELECT sum(pg_total_relation_size(relid)) FROM ({of}) AS t (relid)")
        assert figures.bytes == (figures.heap_bytes or 0) + (figures.toast_bytes or 0) + (figures.index_bytes or 0)
        assert figures.index_bytes == one(core, f"SELECT sum(pg_indexes_size(relid)) FROM ({of}) AS t (relid)")
    assert found.tables[ODD].toast_bytes is not None
    assert found.tables[ODD].toast_bytes > found.tables[ODD].heap_bytes  # type: ignore[operator]
    assert (found.tables[PARTS].parts, found.tables[PARTS].rows) == (2, 3000)


def test_what_was_there_before_is_told_apart(core: Connection) -> None:
    found = look(core)
    assert found.tier is not None
    database = one(core, "SELECT pg_database_size(current_database())")
    assert abs(found.tier.bytes - database) <= 100_000
    tables = sum(f.bytes for f in found.tables.values())
    assert 0 <= database - found.system_bytes - found.own_bytes - tables < 300_000  # files that belong to no relation
    assert found.own_bytes == found.other_databases_bytes == 0
    whole = measured(core, "core", SUPABASE_FREE, (EVENTS,), NOW)
    assert whole.tier is not None
    assert whole.tier.bytes == whole.database_bytes + whole.other_databases_bytes
    assert whole.tier.base_bytes == whole.other_databases_bytes + whole.system_bytes


def test_dead_rows_and_free_space_are_estimated(core: Connection) -> None:
    before = look(core).tables[EVENTS]
    core.execute("DELETE FROM public.events WHERE id > 1000")
    core.execute("SELECT pg_stat_force_next_flush()")
    deleted = look(core).tables[EVENTS]
    core.execute("INSERT INTO public.events SELECT 10000, now(), 'a', 'keeps the tail'")
    core.execute("VACUUM ANALYZE public.events")
    vacuumed = look(core).tables[EVENTS]
    half = (before.heap_bytes or 0) // 2
    assert before.dead_bytes == 0
    assert half * 0.6 < (deleted.dead_bytes or 0) < half * 1.4
    assert vacuumed.dead_bytes == 0
    assert (vacuumed.reusable_bytes or 0) - (before.reusable_bytes or 0) > half * 0.6


def test_of_rows_whose_width_nobody_has_measured_no_free_space_is_told(core: Connection) -> None:
    """As after a move, until the first ANALYZE: by its count alone a table of live rows would look nearly empty."""
    core.execute("CREATE TABLE public.fresh AS SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 2000) AS i")
    core.execute("SELECT pg_stat_force_next_flush()")
    fresh = look(core).tables[TableName("public", "fresh")]
    assert (fresh.rows, fresh.reusable_bytes) == (2000, 0)


def test_reads_and_writes_are_counted(core: Connection) -> None:
    before = look(core)
    core.execute("SELECT count(*) FROM public.events WHERE body <> ''")
    core.execute("UPDATE public.parts SET id = id + 1 WHERE at = '2024-01-05'")
    core.execute("SELECT pg_stat_force_next_flush()")
    after = look(core)
    assert (after.tables[EVENTS].reads or 0) - (before.tables[EVENTS].reads or 0) == 2000
    updated = one(core, "SELECT count(*) FROM public.parts WHERE at = '2024-01-05'")
    assert (after.tables[PARTS].writes or 0) - (before.tables[PARTS].writes or 0) == updated
    assert after.details[PARTS].updates - before.details[PARTS].updates == updated
    assert (after.tables[EVENTS].cache_hits or 0) > (before.tables[EVENTS].cache_hits or 0)


@pytest.mark.parametrize("ways", ["indexonlyscan", "indexscan", "bitmapscan"])
def test_rows_that_an_index_answers_for_are_counted_once_however_it_is_read(core: Connection, ways: str) -> None:
    core.execute("VACUUM (ANALYZE) public.events")
    for way in ("seqscan", "indexonlyscan", "indexscan", "bitmapscan"):
        core.execute(f"SET enable_{way} = {'on' if way in (ways, ways.replace('only', '')) else 'off'}".encode())
    before = look(core).tables[EVENTS].reads or 0
    plan = "\n".join(row[0] for row in core.execute("EXPLAIN SELECT count(id) FROM public.events WHERE id BETWEEN 1 AND 300"))
    assert {"indexonlyscan": "Index Only", "indexscan": "Index Scan", "bitmapscan": "Bitmap"}[ways] in plan
    core.execute("SELECT count(id) FROM public.events WHERE id BETWEEN 1 AND 300")
    core.execute("SELECT pg_stat_force_next_flush()")
    assert 300 <= (look(core).tables[EVENTS].reads or 0) - before <= 310  # the planner looks at an entry now and then


def test_rows_that_postgres_counts_twice_are_no_more_than_fit(core: Connection) -> None:
    """An ANALYZE right behind a load, in its session: the load is reported once more, and rows would seem half as large."""
    core.execute("CREATE TABLE public.twice (id int, body text)")
    core.execute(
        "BEGIN; INSERT INTO public.twice SELECT i, md5(i::text) FROM generate_series(1, 9000) AS i; COMMIT; ANALYZE public.twice"
    )
    core.execute("SELECT pg_stat_force_next_flush()")
    assert core.execute("SELECT n_live_tup FROM pg_stat_user_tables WHERE relname = 'twice'").fetchone() == (18_000,)
    size = table_size(core, TableName("public", "twice"))
    assert size is not None
    assert 9000 <= size.rows_estimate <= 9900


@pytest.mark.parametrize(
    ("lock", "table"),
    [
        ("LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE", EVENTS),
        ("REINDEX INDEX public.events_at_id_idx", EVENTS),
        ("TRUNCATE public.parts_1", PARTS),
        ('ALTER TABLE "odd schema"."my table" ALTER body SET STORAGE PLAIN', ODD),
    ],
)
def test_a_table_that_is_locked_is_neither_waited_for_nor_waits(core: Connection, lock: str, table: TableName) -> None:
    before = look(core, table).tables[table]
    with closing(link_of(core).connect("locks")) as other:
        other.execute("BEGIN")
        other.execute(lock.encode())
        began = time.monotonic()
        found = look(core, table)
        size = table_size(core, table)  # what `status` asks
        assert time.monotonic() - began < LOCKED_SECONDS
        other.execute("ROLLBACK")
    assert found.details[table].estimated
    assert size is not None
    assert size.estimated
    assert 0.8 < found.tables[table].bytes / before.bytes < 1.2


def test_who_waits_for_a_lock_is_not_waited_behind(core: Connection) -> None:
    """Whoever asked for all of a table behind a reader would have every later reader queue, too."""
    link = link_of(core)
    with closing(link.connect("reader")) as reader, closing(link.connect("locks")) as waiter:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM public.events")
        thread = threading.Thread(target=waiter.execute, args=("LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE",))
        waiter.execute("BEGIN")
        thread.start()
        while not one(core, "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"):
            time.sleep(0.01)
        began = time.monotonic()
        assert look(core).details[EVENTS].estimated
        assert time.monotonic() - began < LOCKED_SECONDS
        reader.execute("ROLLBACK")
        thread.join()
        waiter.execute("ROLLBACK")


def test_it_keeps_nobody_waiting(core: Connection) -> None:
    """In the middle of its transaction, with every figure read, all of the tables can be had at once."""
    from tierkeeper.monitoring import measure
    from tierkeeper.postgres.link import transaction

    with closing(link_of(core).connect("locks")) as other, transaction(core, isolation="repeatable read", read_only=True) as cur:
        found = measure._measured(cur, "core", SELF_HOSTED, (EVENTS, PARTS), NOW)
        other.execute("SET lock_timeout = '1ms'")
        for table in (*found.tables, TableName("public", "parts_1")):
            if table.name != "seen":
                other.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; COMMIT".encode())
        other.execute("DROP MATERIALIZED VIEW public.seen")


def test_a_catalog_that_is_locked_is_an_error_soon(core: Connection) -> None:
    with closing(link_of(core).connect("locks")) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE pg_catalog.pg_index IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(NotNow, match="lock timeout"), translated("tiers.core"):
            look(core)
        assert time.monotonic() - began < LOCKED_SECONDS
        other.execute("ROLLBACK")


def test_a_slot_that_nobody_reads_is_seen_and_a_role_without_rights_is_told_less(
    cluster: EmbeddedPostgres, database_factory: DatabaseFactory
) -> None:
    link = Link("core", database_factory("slots"), str(cluster.ca_file))
    with closing(link.connect("test")) as conn:
        conn.execute("SELECT pg_create_physical_replication_slot('left_behind', true)")
        try:
            found = look(conn)
            assert found.tier is not None
            (slot,) = [s for s in found.slots if s.name == "left_behind"]
            assert (slot.kind, slot.active) == ("physical", False)
            assert slot.pinned_wal_bytes is not None
            assert (found.tier.wal_bytes or 0) > 0
            conn.execute("CREATE ROLE usage_plain LOGIN PASSWORD 'p1'")
            with closing(
                Link("core", cluster.url(conn.info.dbname, "usage_plain", "p1"), str(cluster.ca_file)).connect("t")
            ) as plain:
                less = look(plain)
                assert less.tier is not None
                assert less.tier.wal_bytes is None
                assert [s.name for s in less.slots if s.name == "left_behind"] == ["left_behind"]
                assert statements(plain) is None
        finally:
            conn.execute("SELECT pg_drop_replication_slot('left_behind')")
            conn.execute("DROP ROLE IF EXISTS usage_plain")


def test_slow_statements_have_no_value_in_them(counting: EmbeddedPostgres) -> None:
    counting.create_database("busy")
    with closing(counting.link("core", "busy").connect("test")) as conn:
        assert statements(conn) is None
        conn.execute("CREATE SCHEMA elsewhere")
        conn.execute("CREATE EXTENSION pg_stat_statements SCHEMA elsewhere")
        conn.execute("SELECT pg_sleep(0.02), 'hunter2'")
        conn.execute("CREATE ROLE careless PASSWORD 'hunter2'")
        conn.execute("DO $$ BEGIN PERFORM pg_sleep(0.02), 'hunter2'; END $$")
        (raw,) = conn.execute("SELECT string_agg(query, ';') FROM elsewhere.pg_stat_statements").fetchone() or ("",)
        assert "hunter2" in str(raw), "the danger is not there"
        found = statements(conn)
        assert found is not None
        assert [s for s in found if "hunter2" in s.text] == []
        assert "DO …" in [s.text for s in found]
        (slept,) = [s for s in found if s.text == "SELECT pg_sleep($1), $2"]
        assert (slept.calls, slept.rows) == (1, 1)
        assert 0.02 <= slept.seconds < 5


def link_of(conn: Connection) -> Link:
    found = conn.info.get_parameters()
    url = f"postgresql://{found['user']}:{conn.info.password}@{found['host']}:{found['port']}/{found['dbname']}"
    return Link("core", url, found["sslrootcert"])
