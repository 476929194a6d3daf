"""The fast door among moves in flight, conflicts, tiers that are away, and statements that are not its business (I2)."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from psycopg import Cursor, sql

from hop import killed, open_filled
from integration.query.world import build, set_up
from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.query import core as at_core
from tierkeeper.query import runner
from tierkeeper.query.engine import Engine
from tierkeeper.query.model import Plan
from tierkeeper.query.reused import Reused, Tier
from tierkeeper.query.runner import FastDoor
from tierkeeper.query.statement import Statement, parse

NOWHERE = Link("main", "postgresql://x:y@127.0.0.1:1/none")
SUM = "select count(*), sum(id) from items"
ITEMS = TableName("public", "items")
END_READERS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'tierkeeper query'"


@pytest.fixture
def items(tiers: Tiers) -> Tiers:
    """Ten items in Core, the protocol's tables everywhere."""
    for link in (tiers.core, tiers.main, tiers.catalog):
        with closing(link.connect("test")) as conn:
            set_up(conn)
            conn.execute("CREATE TABLE items (id int PRIMARY KEY, at timestamptz NOT NULL, note text, tags text[])")
    with closing(tiers.core.connect("test")) as conn:
        conn.execute(
            "INSERT INTO items SELECT i, '2013-01-01'::timestamptz + i * interval '1 day', 'core', '{a,b}' "
            "FROM generate_series(0, 9) i"
        )
    return tiers


def door(tiers: Tiers, timeout_seconds: float = 30) -> FastDoor:
    policies = [TablePolicy(ITEMS, age="at")]
    return FastDoor(tiers.core, tiers.main, tiers.catalog, policies, timeout_seconds=timeout_seconds, archive=None)


@contextmanager
def both(tiers: Tiers) -> Iterator[tuple[Connection, Connection]]:
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        yield core, main


def mark(source: Connection, batch: UUID, state: str, table: str) -> None:
    source.execute(
        "INSERT INTO tierkeeper.marker (batch, seq, destination, schema_name, table_name, state) "
        "VALUES (%s, 1, 'below', 'public', %s, %s)",
        [batch, table, state],
    )


def copy_to_main(core: Connection, main: Connection, where: str) -> UUID:
    """The protocol up to the copy: ledger `copied`, marker `open`, the rows in both tiers."""
    batch = uuid4()
    main.execute(
        "INSERT INTO tierkeeper.ledger (batch, source, schema_name, table_name, age, cutoff, predicate, state) "
        "VALUES (%s, 'core', 'public', 'items', 'at', now(), '', 'open')",
        [batch],
    )
    mark(core, batch, "open", "items")
    moving = core.execute(f"SELECT id, at, note FROM items WHERE {where}".encode()).fetchall()
    with main.transaction():
        main.execute("UPDATE tierkeeper.ledger SET state = 'copied', copy_xid = pg_current_xact_id() WHERE batch = %s", [batch])
        main.cursor().executemany("INSERT INTO items (id, at, note) VALUES (%s, %s, %s)", moving)
    return batch


def delete_from_core(core: Connection, batch: UUID, where: str) -> None:
    with core.transaction():
        core.execute(f"DELETE FROM items WHERE {where}".encode())
        core.execute("UPDATE tierkeeper.marker SET state = 'moved' WHERE batch = %s", [batch])


def answer(tiers: Tiers) -> tuple[int, int]:
    found = door(tiers).query(SUM).to_pylist()[0]
    return found["count"], found["sum"]


def test_each_row_once_at_every_step_of_a_move(items: Tiers) -> None:
    with both(items) as (core, main):
        batch = copy_to_main(core, main, "id < 5")
        assert answer(items) == (10, 45), "copied, not moved: Core's rows count"
        delete_from_core(core, batch, "id < 5")
        assert answer(items) == (10, 45), "moved: Main's rows count"
        main.execute("UPDATE tierkeeper.ledger SET state = 'done'")
        assert answer(items) == (10, 45)
        main.execute("UPDATE tierkeeper.ledger SET state = 'forgotten'")
        assert answer(items) == (10, 45)
        core.execute("DELETE FROM tierkeeper.marker")
        assert answer(items) == (10, 45), "forgotten: the marker is not asked"


def test_a_whole_move_between_two_snapshots_is_not_seen(items: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    confirm = at_core.confirm

    def move_then_confirm(cur: Cursor, statement: Statement, plan: Plan, described: Sequence[tuple[str, int]]) -> None:
        with both(items) as (core, main):  # Core's snapshot is taken, Main's is not
            delete_from_core(core, copy_to_main(core, main, "id < 5"), "id < 5")
            main.execute("UPDATE tierkeeper.ledger SET state = 'done'")
        confirm(cur, statement, plan, described)

    monkeypatch.setattr(at_core, "confirm", move_then_confirm)
    assert answer(items) == (10, 45)
    monkeypatch.undo()
    assert door(items).query("select count(*) as n from items where note = 'core'").to_pylist() == [{"n": 10}]


def test_a_statement_that_was_misread_is_refused(items: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "parse", lambda sql: replace(parse(sql.replace("*", "+")), sql=sql))
    assert door(items).query("select 1 - id as x from items where id = 1").to_pylist() == [{"x": 0}]
    with pytest.raises(UsageError, match="otherwise than it was understood"):
        door(items).query("select id * 2 as x from items")


def test_a_plan_that_changes_between_two_looks_is_no_misreading(items: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by an ANALYZE, or a partition that comes just then."""
    explained, looks = at_core._explained, list[str]()

    def changing(cur: Cursor, statement: str) -> list[str]:
        looks.append(statement)
        return [*explained(cur, statement), *(["by other statistics"] if len(looks) == 1 else [])]

    monkeypatch.setattr(at_core, "_explained", changing)
    assert answer(items) == (10, 45)
    assert len(looks) == 4
    numbers = itertools.count()
    monkeypatch.setattr(at_core, "_explained", lambda *_: [str(next(numbers))])
    with pytest.raises(NotNow, match="changed while it was looked at"):
        answer(items)


def test_an_aborted_or_missing_marker_is_a_fence(items: Tiers) -> None:
    with both(items) as (core, main):
        copy_to_main(core, main, "id < 5")
        core.execute("UPDATE tierkeeper.marker SET state = 'aborted'")
        assert answer(items) == (10, 45)
        core.execute("DELETE FROM tierkeeper.marker")
        assert answer(items) == (10, 45)


def test_each_row_once_while_a_mover_works(items: Tiers) -> None:
    seen: list[tuple[int, int]] = []
    over = threading.Event()

    def move() -> None:
        with both(items) as (core, main):
            for i in range(10):
                batch = copy_to_main(core, main, f"id = {i}")
                delete_from_core(core, batch, f"id = {i}")
                main.execute("UPDATE tierkeeper.ledger SET state = 'done' WHERE batch = %s", [batch])
                over.wait(0.1)
        over.set()

    mover = threading.Thread(target=move)
    mover.start()
    while not over.is_set():
        seen.append(answer(items))
    mover.join()
    assert len(seen) > 1
    assert set(seen) == {(10, 45)}


def test_cores_row_counts_where_a_key_is_in_both_tiers(items: Tiers) -> None:
    with both(items) as (core, main):
        main.execute("INSERT INTO items VALUES (3, '2013-01-04', 'main'), (77, '2013-01-05', 'main')")
        for key in ('["3"]', '["77"]'):
            main.execute("INSERT INTO tierkeeper.conflict (schema_name, table_name, key) VALUES ('public', 'items', %s)", [key])
        found = door(items).query("select id, note from items where id in (3, 77) order by id").to_pylist()
        assert found == [{"id": 3, "note": "core"}, {"id": 77, "note": "main"}], "77 is in Main alone: it is not lost"
        core.execute("DELETE FROM items WHERE id = 3")
        assert answer(items)[0] == 11


def test_a_segment_counts_by_mains_marker_or_when_forgotten(cluster: EmbeddedPostgres) -> None:
    world = build(cluster, "segments", 30)
    segment = world.archive.add(world.archive.held["s0"][1], state="copied")
    counted = "select count(*) from readings"
    assert world.door().query(counted).to_pylist() == [{"count": 30}]
    with closing(world.main.connect("test")) as main:
        mark(main, segment.batch, "open", "readings")
        assert world.door().query(counted).to_pylist() == [{"count": 30}]
        main.execute("UPDATE tierkeeper.marker SET state = 'moved'")
        assert world.door().query(counted).to_pylist() == [{"count": 30 + segment.rows}]
    world.archive.reads.clear()
    world.door().query("select count(*) from readings where at >= '2013-01-20'")
    assert world.archive.reads == [], "no segment can hold such an age"
    world.door().query("select count(*) from readings where at < '2013-01-03'")
    assert set(world.archive.reads) == {"s0", "s2"}
    for tier in ("core", "main", "catalog", "oracle"):
        cluster.drop_database(f"segments_{tier}")


@pytest.mark.parametrize("gone", ["main", "catalog"])
def test_a_tier_that_is_away_is_no_partial_answer(items: Tiers, gone: str) -> None:
    away = replace(items, **{gone: replace(NOWHERE, tier=gone)})
    with pytest.raises(NotNow, match=gone):
        door(away).query(SUM)


@pytest.mark.parametrize("tier", ["core", "main", "archive"])
def test_a_tier_that_was_not_set_up_is_named(make_tiers: TiersFactory, tier: str) -> None:
    tiers = make_tiers(core="events")
    policy = {"name": "public.events", "age": "at", "core": "1 day"}
    keeper = open_keeper(load(tierkeeper_toml(tiers, [policy]), {}, tiers.home), environment=tiers.environment)
    asked = "select count(*) from events"
    with pytest.raises(UsageError, match=r"^tiers\.core .*Run tierkeeper setup --apply"):
        keeper.query(asked)
    keeper.setup(apply=True)
    with closing({"core": tiers.core, "main": tiers.main, "archive": tiers.catalog}[tier].connect("test")) as conn:
        conn.execute("DROP SCHEMA tierkeeper CASCADE")
    with pytest.raises(UsageError, match=rf"^tiers\.{tier} .*schema is missing here.*Run tierkeeper setup --apply"):
        keeper.query(asked)


@pytest.mark.parametrize("slow", ["core", "main"])
def test_a_tier_that_took_too_long_is_named(items: Tiers, slow: str) -> None:
    with closing({"core": items.core, "main": items.main}[slow].connect("test")) as conn, conn.transaction():
        conn.execute("LOCK TABLE tierkeeper.marker")
        with pytest.raises(NotNow, match=rf"^tiers\.{slow} .*longer than query\.timeout"):
            door(items, timeout_seconds=0.7).query(SUM)


def test_a_core_that_is_asked_about_a_conflict_for_too_long_is_named(items: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Main is being read meanwhile, and is not to blame."""
    as_it_is = Reused.there

    def slowly(self: Reused, tier: Tier, shape: TableShape, keys: list[str]) -> list[str]:
        tier.ask(sql.SQL("SELECT pg_sleep(5)"))
        return as_it_is(self, tier, shape, keys)

    monkeypatch.setattr(Reused, "there", slowly)
    with closing(items.main.connect("test")) as main:
        main.execute("INSERT INTO items VALUES (1, '2013-01-01', 'main')")
        main.execute("INSERT INTO tierkeeper.conflict (schema_name, table_name, key) VALUES ('public', 'items', '[\"1\"]')")
    with pytest.raises(NotNow, match=r"^tiers\.core .*longer than query\.timeout"):
        door(items, timeout_seconds=0.7).query(SUM)


def test_what_core_can_answer_alone_goes_there_as_it_is(items: Tiers) -> None:
    away = replace(items, main=NOWHERE)
    found = door(away).query(
        "select 1.50 as a, array[1,2] as b, 'infinity'::timestamptz as c, '2013-01-01 05:00+00'::timestamptz as d, "
        "upper('é') as e, null::int as f, true as t"
    )
    assert found.to_pylist() == [
        {
            "a": Decimal("1.50"),
            "b": "{1,2}",
            "c": "infinity",
            "d": datetime(2013, 1, 1, 5, tzinfo=UTC),
            "e": "é",
            "f": None,
            "t": True,
        }
    ]
    assert door(away).explain("select 1") == ["Core answers it alone, as it is; Main, where Core has no such table"]


def test_core_runs_nothing_that_writes(items: Tiers) -> None:
    with closing(items.core.connect("test")) as core:
        core.execute("CREATE SEQUENCE counted")
    with pytest.raises(UsageError, match="read-only"):
        door(items).query("select nextval('counted')")


def test_a_view_over_a_moved_table_is_refused(items: Tiers) -> None:
    with closing(items.core.connect("test")) as core:
        core.execute("CREATE VIEW recent AS SELECT * FROM items")
        core.execute("CREATE VIEW recent_too AS SELECT * FROM recent")
    with pytest.raises(UsageError, match="items"):
        door(items).query("select count(*) from recent_too")


def test_an_infinite_time_is_an_error_and_can_be_left_out(items: Tiers) -> None:
    with closing(items.core.connect("test")) as core:
        core.execute("INSERT INTO items VALUES (10, 'infinity', 'core')")
    with pytest.raises(Failed, match="9999"):
        door(items).query("select max(at) from items")
    assert door(items).query("select count(*) from items where at < '9999-01-01'").to_pylist() == [{"count": 10}]
    assert answer(items) == (11, 55), "the age is not read where it is not asked for"


def test_an_array_is_shown_as_postgres_shows_it(items: Tiers) -> None:
    assert door(items).query("select tags from items where id = 1").to_pylist() == [{"tags": "{a,b}"}]


def test_a_statement_that_takes_too_long_is_stopped(items: Tiers) -> None:
    with pytest.raises(NotNow):
        door(items, timeout_seconds=0.5).query("select pg_sleep(5)")


def test_a_reader_whose_server_went_away_may_ask_again(items: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(items.core.connect("test")) as core:
        core.execute("INSERT INTO items SELECT g, '2013-01-01', repeat('x', 300) FROM generate_series(11, 100000) g")
    answer_as_it_is = Engine.answer

    def struck(engine: Engine) -> object:
        with closing(items.core.connect("test")) as core:
            core.execute(END_READERS)
        return answer_as_it_is(engine)

    monkeypatch.setattr(Engine, "answer", struck)
    with pytest.raises(NotNow, match="went away"):
        door(items).query("select sum(length(note)) from items")


@pytest.mark.parametrize("step", ["describe", "read_facts", "confirm"])
def test_a_core_that_goes_away_while_it_is_asked_is_no_fault_of_the_statement(
    items: Tiers, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    as_it_is = getattr(at_core, step)

    def struck(*asked: object) -> object:
        with closing(items.core.connect("test")) as core:
            core.execute(END_READERS)
        return as_it_is(*asked)

    monkeypatch.setattr(at_core, step, struck)
    with pytest.raises(NotNow):
        door(items).query("select count(*) from items where at < timestamptz '2013-01-05'")


def test_a_column_that_differs_in_main_is_named(items: Tiers) -> None:
    with closing(items.main.connect("test")) as main:
        main.execute("ALTER TABLE items ALTER id TYPE bigint")
    with pytest.raises(UsageError, match=r"items\.id"):
        door(items).query(SUM)


def test_the_explanation_names_what_is_read(items: Tiers) -> None:
    lines = door(items).explain("select note from items where at >= '2013-01-05' and note > 'b'")
    assert [line.partition(":")[0] for line in lines] == [
        "core, for keys of public.items that are in both", "core", "main", "archive", "then DuckDB",
    ]  # fmt: skip
    assert """("note" COLLATE "C" > 'b'::pg_catalog.text)""" in lines[2]


def test_a_table_that_only_postgres_recognises_is_not_answered_by_core_alone(items: Tiers) -> None:
    name = TableName("public", "Ä" + "x" * 61)
    with closing(items.core.connect("test")) as core:
        core.execute(f'CREATE TABLE "{name.name}" (id int PRIMARY KEY, at timestamptz)'.encode())
    spread = FastDoor(items.core, items.main, items.catalog, [TablePolicy(name, age="at")], timeout_seconds=30, archive=None)
    for written in (f"Ä{'X' * 61}", f'"{name.name}y"'):  # Postgres folds ASCII letters only, and cuts names at 63 bytes
        with pytest.raises(UsageError, match="does not see"):
            spread.query(f"select * from {written}")


def test_a_function_that_may_read_a_moved_table_is_refused(items: Tiers) -> None:
    with closing(items.core.connect("test")) as core:
        core.execute("CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM public.items'")
        core.execute("CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'")
    for statement in ("select peek()", "select public.PEEK()", "select 1 where peek() > 0", "select * from peek()"):
        with pytest.raises(UsageError, match="may read tables"):
            door(items).query(statement)
    assert door(items).query("select twice(2) as x, upper('a') as y").to_pylist() == [{"x": 4, "y": "A"}]


def test_what_only_main_has_is_answered_there(items: Tiers) -> None:
    """Such as a month that was restored beside the table."""
    with closing(items.main.connect("test")) as main:
        main.execute("CREATE TABLE restored AS SELECT i AS id, 'february' AS month FROM generate_series(1, 28) AS i")
    asked = "SELECT month, count(*) AS days, max(id) FROM restored GROUP BY month"
    assert door(items).query(asked).to_pylist() == [{"month": "february", "days": 28, "max": 28}]
    with pytest.raises(UsageError, match='relation "nowhere" does not exist'):
        door(items).query("SELECT * FROM nowhere")
    with pytest.raises(UsageError, match='column "nothing" does not exist'):
        door(items).query("SELECT nothing FROM restored")
    with pytest.raises(UsageError, match='relation "restored" does not exist'):
        door(items).query("SELECT count(*) FROM restored JOIN items USING (id)")
    for link, what in ((items.core, "live"), (items.main, "old copy")):
        with closing(link.connect("test")) as conn:
            conn.execute(sql.SQL("CREATE TABLE notes AS SELECT 1 AS id, {} AS what").format(what))
    assert door(items).query("SELECT what FROM notes").to_pylist() == [{"what": "live"}]
    with pytest.raises(UsageError, match=r'notes: it is Core.s, and .* \(relation "restored" does not exist\)'):
        door(items).query("SELECT what FROM notes JOIN restored USING (id)")
    nobody = replace(items, main=NOWHERE)
    with pytest.raises(NotNow):
        door(nobody).query("SELECT * FROM restored")


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ("CREATE VIEW seen AS SELECT id FROM items", "SELECT count(*) FROM seen"),
        ("CREATE TABLE part (CHECK (id > 0)) INHERITS (items)", "SELECT count(*) FROM part"),
        (
            "CREATE FUNCTION old() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM items'; CREATE TABLE own (id int)",
            "SELECT old(), count(*) FROM own",
        ),
    ],
    ids=["view", "child", "function"],
)
def test_main_alone_never_answers_from_its_part_of_a_table(items: Tiers, made: str, asked: str) -> None:
    with closing(items.main.connect("test")) as main:
        main.execute(made.encode())
    with pytest.raises(UsageError, match="in several tiers"):
        door(items).query(asked)


def test_core_alone_never_answers_with_a_copy_whose_row_is_gone(tiers: Tiers) -> None:
    """A copy is on its way up when the application deletes its row at Main, which is empty then (I2, I4)."""
    unmanaged = FastDoor(tiers.core, tiers.main, tiers.catalog, [], timeout_seconds=30, archive=None)
    with open_filled(tiers) as hop:
        hop.move()
        hop.main.execute("UPDATE tierkeeper.ledger SET state = 'forgotten', settled_at = '2024-01-01'")
        killed(hop, Point.COPIED, "main", "core")
        hop.main.execute("DELETE FROM public.t")
        assert hop.counts() == (100, 0)
        with pytest.raises(UsageError, match=r"no \[\[tables\]\] entry names it now"):
            unmanaged.query("SELECT count(*) FROM t")
        hop.move(source="main", destination="core")
        assert unmanaged.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 0}]


def test_main_alone_never_answers_for_a_table_whose_entry_is_gone(tiers: Tiers) -> None:
    """Core has dropped it; by what Core remembers, rows of it went down to Main, and maybe on from there."""
    with open_filled(tiers) as hop:
        hop.move()
        hop.core.execute("DROP TABLE public.t")
    unmanaged = FastDoor(tiers.core, tiers.main, tiers.catalog, [], timeout_seconds=30, archive=None)
    with pytest.raises(UsageError, match=r"public\.t"):
        unmanaged.query("SELECT count(*) FROM t")
