"""Keys that the application uses again while their old rows lie below: each is seen once, as Core has it (I2).

Nothing here reads the schema `tierkeeper` to say what is right: the answers are the user's own rows.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

import processes
from hop import BEFORE, T
from integration.query.reuse import KINDS, NEW, OLD, House, bodies, count, house_of, make
from support import Tiers, TiersFactory, sampled
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Faults
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.mover.horizon import Horizon
from tierkeeper.postgres import shapes
from tierkeeper.query import archived
from tierkeeper.query.reused import Reused
from tierkeeper.query.runner import FastDoor


@pytest.fixture
def hop(tiers: Tiers) -> Iterator[House]:
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        yield house_of(tiers, core, main)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that Core was asked for because they may be at Main."""
    seen: list[str] = []
    real = Reused._fetched

    def noting(self: Reused, asked: Any) -> Iterator[tuple[Any, list[str]]]:
        for table, keys in real(self, asked):
            seen.extend(keys)
            yield table, keys

    monkeypatch.setattr(Reused, "_fetched", noting)
    return seen


@pytest.mark.parametrize("kind", sampled(KINDS, "numeric"))
def test_a_key_that_is_used_again_is_seen_once(hop: House, kind: str) -> None:
    """Before any run notes it and after; whatever is asked, Core's row answers, and Main's where Core has it no more."""
    form = make(hop, kind)
    again = "1.00" if kind == "numeric" else form.format(1)
    hop.core.execute(f"INSERT INTO t VALUES ({again}, '{NEW}', 'new')")
    for _ in range(2):
        assert (bodies(hop), count(hop)) == (["new", "old", "old", "old"], 4)
        assert (bodies(hop, "body = 'new'"), bodies(hop, "body = 'old'")) == (["new"], ["old"] * 3)
        assert bodies(hop, f"at < '{NEW}'") == ["old"] * 3
        assert hop.move().rows == 0
    hop.core.execute("DELETE FROM t")
    assert bodies(hop) == ["old"] * 4


def test_a_row_that_gets_an_old_key_by_an_update(hop: House, fetched: list[str]) -> None:
    make(hop)
    hop.core.execute(f"INSERT INTO t VALUES (17, '{NEW}', 'new')")
    assert hop.move().rows == 0
    assert bodies(hop) == ["new", "old", "old", "old", "old"]
    hop.core.execute("UPDATE t SET id = 3 WHERE id = 17")
    assert bodies(hop) == ["new", "old", "old", "old"]
    assert (bodies(hop, "id = 3"), bodies(hop, "id IN (2, 3)"), bodies(hop, "id > 3")) == (["new"], ["new", "old"], ["old"])
    assert set(fetched) == {'["3"]'}
    assert hop.keeper.status().tables["public.t"].conflicts == []
    hop.move()
    assert hop.keeper.status().tables["public.t"].conflicts == ['["3"]']
    hop.core.execute("UPDATE t SET id = 17 WHERE id = 3")
    assert bodies(hop) == ["new", "old", "old", "old", "old"]


def test_what_a_run_has_looked_for_is_not_asked_for_again(hop: House, fetched: list[str]) -> None:
    """The price of a question is what came since the last run, and of that what lies among Main's keys."""
    make(hop, "text")
    hop.core.execute(f"INSERT INTO t SELECT 'new ' || i, '{NEW}', 'new' FROM generate_series(1, 50) AS i")
    assert count(hop) == 54
    assert len(fetched) == 50
    fetched.clear()
    hop.move()
    assert (count(hop), fetched) == (54, [])
    hop.core.execute("UPDATE t SET body = 'newer' WHERE id = 'new 7'")
    assert (count(hop), fetched) == (54, ['["new 7"]'])
    fetched.clear()
    assert bodies(hop, "id = 'key 1'") == ["old"]
    assert fetched == []


def test_keys_beyond_mains_cost_nothing(hop: House, fetched: list[str]) -> None:
    make(hop)
    hop.core.execute(f"INSERT INTO t SELECT 100 + i, '{NEW}', 'new' FROM generate_series(1, 50) AS i")
    assert (count(hop), fetched) == (54, [])
    first, *_ = hop.door().explain("SELECT count(*) FROM t")
    assert first.startswith("core, for keys of public.t that are in both: keys written since transaction ")
    assert "t.\"id\" BETWEEN '1'::bigint AND '4'::bigint" in first


def test_several_tables_in_one_statement(tiers: Tiers) -> None:
    """Each by its own key, and a table that is meant twice by what is asked of both."""
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        hop = house_of(tiers, core, main, "u", "v")
        for table in ("u", "v"):
            core.execute(f"CREATE TABLE {table} (key text PRIMARY KEY, at date NOT NULL, body text)".encode())
            core.execute(f"INSERT INTO {table} SELECT i, '{OLD}', 'old' FROM generate_series(1, 5) AS i".encode())
        make(hop)
        assert hop.move(TableName("public", "u")).rows == 5
        core.execute(f"INSERT INTO t VALUES (1, '{NEW}', 'new'), (2, '{NEW}', 'new')")
        core.execute(f"INSERT INTO u VALUES ('1', '{NEW}', 'new'), ('7', '{NEW}', 'new')")
        counts = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in "tuv")
        assert hop.reader.query(f"SELECT {counts}").to_pylist() == [{"t": 4, "u": 6, "v": 5}]
        joined = "SELECT t.body AS a, u.body AS b FROM t JOIN u ON t.id::text = u.key ORDER BY t.id"
        found = [(r["a"], r["b"]) for r in hop.reader.query(joined).to_pylist()]
        assert found == [("new", "new"), ("new", "old"), ("old", "old"), ("old", "old")]
        twice = "SELECT a.body AS a, b.body AS b FROM t a JOIN t b ON b.id = a.id + 1 WHERE a.id = 1"
        assert hop.reader.query(twice).to_pylist() == [{"a": "new", "b": "new"}]


def between(monkeypatch: pytest.MonkeyPatch, *deeds: Callable[[], object]) -> None:
    """The next question's reader meets these after its snapshots of Core and of Main, in this order."""
    take, waiting = FastDoor._moved, list(deeds)

    def after_a_snapshot(door: FastDoor, cur: psycopg.Cursor) -> frozenset[object]:
        moved = take(door, cur)
        if waiting:
            waiting.pop(0)()
        return moved

    monkeypatch.setattr(FastDoor, "_moved", after_a_snapshot)


def test_a_reader_that_is_older_than_the_horizon(hop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw a row in Core that was gone before a run could have noted it."""
    make(hop)
    hop.core.execute(f"INSERT INTO t VALUES (1, '{NEW}', 'new')")

    def gone_and_looked_for() -> None:
        hop.core.execute("DELETE FROM t")
        hop.move()
        hop.move()

    between(monkeypatch, gone_and_looked_for)
    assert bodies(hop) == ["new", "old", "old", "old"]
    assert bodies(hop) == ["old"] * 4


def test_a_run_notes_a_key_between_the_snapshots(hop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    make(hop)
    hop.core.execute(f"INSERT INTO t VALUES (1, '{NEW}', 'new')")
    between(monkeypatch, hop.move)
    assert bodies(hop) == ["new", "old", "old", "old"]


def run_that_dies(hop: House, point: Point) -> int:
    argv = ["move", "public.t", "--from", "core", "--to", "main", "--before", "2024-06-01"]
    return processes.command(argv, hop.tiers.environment, die_at=point).returncode


@pytest.mark.long
@pytest.mark.parametrize("point", [Point.CONFLICTS_NOTED, Point.HORIZON_RECORDED])
def test_a_run_that_is_killed_at_its_horizon(hop: House, point: Point) -> None:
    make(hop)
    hop.core.execute(f"INSERT INTO t VALUES (1, '{NEW}', 'new')")
    assert run_that_dies(hop, point) == -signal.SIGKILL
    assert bodies(hop) == ["new", "old", "old", "old"]
    hop.core.execute(f"INSERT INTO t VALUES (2, '{NEW}', 'new')")
    assert bodies(hop) == ["new", "new", "old", "old"]
    hop.main.execute("DELETE FROM tierkeeper.lease")  # the dead run's
    assert hop.move().stopped_because == "complete"
    assert bodies(hop) == ["new", "new", "old", "old"]


def test_no_horizon_says_more_than_is_noted(hop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader comes at each durable step of a run that looks for conflicts."""
    make(hop)
    hop.core.execute(f"INSERT INTO t VALUES (1, '{NEW}', 'new')")
    seen = []
    faults.arm(lambda point: seen.append((point, bodies(hop))) if "horizon" in point or "conflicts" in point else None)
    hop.move()
    faults.disarm()
    assert [point for point, _ in seen] == [Point.CONFLICTS_NOTED, Point.HORIZON_RECORDED]
    assert all(answer == ["new", "old", "old", "old"] for _, answer in seen)


@pytest.mark.parametrize("point", [Point.COPIED, Point.WAITED, Point.DELETED, Point.DONE])
def test_rows_on_their_way_up_are_no_reuse(hop: House, point: Point) -> None:
    """A copy in Core that does not count yet hides no row of Main's, and no horizon is taken for having looked at it."""
    make(hop)
    hop.settled()
    seen = []

    def look(reached: Point) -> None:
        if reached is point and not seen:
            seen.append(bodies(hop))
            Horizon(*looking, shapes.read(hop.core, T)).advance()
            seen.append(bodies(hop))

    with closing(hop.tiers.core.connect("test")) as core, closing(hop.tiers.main.connect("test")) as main:
        looking = core, main
        faults.arm(look)
        moved = hop.keeper.move(T, "main", "core", where="id <= 2")
        faults.disarm()
    assert (moved.rows, seen) == (2, [["old"] * 4] * 2)
    assert hop.keeper.status().tables["public.t"].conflicts == []
    assert bodies(hop) == ["old"] * 4


def test_a_thaw_brings_a_key_that_core_has_had_for_long(hop: House) -> None:
    """The run has looked for Core's row while its key was in the archive alone."""
    make(hop)
    assert hop.archive() == 4
    hop.core.execute(f"INSERT INTO t VALUES (1, '{NEW}', 'new'), (9, '{NEW}', 'new')")
    hop.main.execute(f"INSERT INTO t VALUES (5, '{NEW}', 'main')")
    hop.move()
    hop.settled()
    assert hop.keeper.archive_thaw(T, until=BEFORE, hold=Age.parse("30 days", "test")).rows == 4
    expected = ["main", "new", "new", "old", "old", "old"]
    assert bodies(hop) == expected
    hop.move()
    assert bodies(hop) == expected


def test_a_partition_that_is_attached_with_old_keys(hop: House) -> None:
    hop.core.execute("CREATE TABLE t (id int, at date, body text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)")
    hop.core.execute("CREATE TABLE a PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2024-06-01')")
    hop.core.execute(f"INSERT INTO t SELECT i, '{OLD}', 'old' FROM generate_series(1, 4) AS i")
    hop.core.execute(f"CREATE TABLE b (LIKE t INCLUDING ALL); INSERT INTO b VALUES (1, '{OLD}', 'new'), (7, '{OLD}', 'new')")
    hop.keeper.setup(apply=True)
    assert hop.move().rows == 4
    hop.move()
    hop.core.execute("DROP TABLE a")
    hop.core.execute("ALTER TABLE t ATTACH PARTITION b FOR VALUES FROM ('2024-01-01') TO ('2024-06-01')")
    assert bodies(hop) == ["new", "new", "old", "old", "old"]
    assert bodies(hop, "id = 1") == ["new"]


def test_a_horizon_that_came_with_a_dump_is_none(hop: House) -> None:
    """Its rows have other transactions than where they were looked at."""
    make(hop)
    hop.move()
    hop.core.execute(f"INSERT INTO t VALUES (1, '{NEW}', 'new')")
    hop.core.execute(
        "CREATE TABLE dumped AS SELECT * FROM tierkeeper.horizon; DELETE FROM tierkeeper.horizon; "
        "INSERT INTO tierkeeper.horizon SELECT schema_name, table_name, id, key_columns, heaps, "
        "pg_current_xact_id(), writer, timeline FROM dumped"
    )
    assert bodies(hop) == ["new", "old", "old", "old"]


def test_a_batch_of_another_run_beside_a_look_leaves_horizons_as_they_are(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Main has it then, and Core's snapshot is of before it: this is no Core that was put back."""
    other = TableName("public", "other")
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        hop = house_of(tiers, core, main, "other")
        make(hop)
        core.execute(f"CREATE TABLE other (LIKE t INCLUDING ALL); INSERT INTO other VALUES (1, '{OLD}', 'old')")
        hop.keeper.setup(apply=True)
        core.execute(f"INSERT INTO t VALUES (1, '{NEW}', 'new')")
        assert hop.move().rows == 0
        looking, asked = Horizon(core, main, shapes.read(core, T)), Horizon._sql

        def between(self: Horizon, name: str, **values: Any) -> Any:
            if self is looking and name == "at_main":
                monkeypatch.undo()
                assert hop.move(other).rows == 1
            return asked(self, name, **values)

        monkeypatch.setattr(Horizon, "_sql", between)
        found = looking.look()
        assert (found.ripe, found.fresh) == (True, []), "what is in both was noted before"


def test_a_core_that_is_put_back_has_rows_that_main_took(make_tiers: TiersFactory, cluster: EmbeddedPostgres) -> None:
    """Core as it was before a batch left it, by a copy of its files: what is in both tiers now is seen once, and what came and
    left after that copy is seen at Main. A run over another table makes no difference."""
    tiers, other = make_tiers(), TableName("public", "other")
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        hop = house_of(tiers, core, main, "other")
        make(hop, "text")
        core.execute(f"INSERT INTO t VALUES ('back', '{OLD}', 'old')")
        core.execute(f"CREATE TABLE other (LIKE t INCLUDING ALL); INSERT INTO other VALUES ('key 1', '{OLD}', 'old')")
        hop.keeper.setup(apply=True)
        Horizon(core, main, shapes.read(core, T)).advance()
    name = f"{tiers.core.parameters['dbname']}_back"
    cluster.create_database(name, tiers.core.parameters["dbname"])
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        core.execute(f"INSERT INTO t VALUES ('late', '{OLD}', 'late')")
        assert house_of(tiers, core, main).move().rows == 2
    back = replace(tiers, core=cluster.link("core", name))
    with closing(back.core.connect("test")) as core, closing(back.main.connect("test")) as main:
        hop, seen = house_of(back, core, main, "other"), ["late", *["old"] * 5]
        hop.settled()
        main.execute("UPDATE t SET body = 'changed' WHERE id = 'back'")
        assert bodies(hop) == seen  # Core's as it was, and the one that Main alone has
        with pytest.raises(Faults, match="core was put back from an older backup"):
            hop.keeper.check()
        assert hop.move(other).rows == 1
        hop.settled()
        main.execute("UPDATE tierkeeper.ledger SET state = 'forgotten'")
        assert bodies(hop) == seen
        assert hop.keeper.check().ok
        core.execute("INSERT INTO t VALUES ('more', '2023-01-02', 'new')")
        older = datetime(2024, 1, 1, tzinfo=UTC)  # this run meets no row that is in both
        assert hop.keeper.move(T, "core", "main", before=older).rows == 1
        hop.settled()
        main.execute("UPDATE tierkeeper.ledger SET state = 'forgotten'")
        assert bodies(hop) == ["late", "new", *["old"] * 5]
    cluster.drop_database(name)


def test_keys_are_used_again_while_movers_run_and_readers_count(hop: House) -> None:
    """Every key of forty is there all the while, in one tier or in two."""
    make(hop, rows=40)
    over, wrong, answers = threading.Event(), list[Any](), list[int]()

    def write() -> None:
        chance = random.Random(5)  # noqa: S311 - the same keys every time
        with closing(hop.tiers.core.connect("app")) as conn:
            while not over.wait(0.05):
                key = chance.randrange(1, 41)
                age = OLD if chance.random() < 0.3 else NEW
                conn.execute("INSERT INTO t VALUES (%s, %s, 'new') ON CONFLICT (id) DO UPDATE SET body = 'newer'", (key, age))

    def ask() -> None:
        while not over.is_set():
            (row,) = hop.reader.query("SELECT count(*) AS n, count(DISTINCT id) AS d FROM t").to_pylist()
            answers.append(row["n"])
            wrong.extend([] if row == {"n": 40, "d": 40} else [row])

    beside = [threading.Thread(target=one) for one in (write, ask)]
    for thread in beside:
        thread.start()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        hop.move()
    over.set()
    for thread in beside:
        thread.join()
    assert (wrong, len(answers) > 1) == ([], True)
    assert hop.core.execute("SELECT count(*) FROM t").fetchone() != (0,)


@pytest.mark.parametrize("kind", sampled(KINDS, "text"))
@pytest.mark.parametrize("few", sampled([True, False], True))
def test_a_key_of_the_archive_is_seen_once(hop: House, kind: str, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Core, and when that newer row has moved on to Main."""
    if not few:
        monkeypatch.setattr(archived, "KEYS_FETCHED", 0)
    form = make(hop, kind)
    assert hop.archive() == 4
    assert bodies(hop) == ["old"] * 4
    again = "1.00" if kind == "numeric" else form.format(1)
    hop.core.execute(f"INSERT INTO t VALUES ({again}, '{OLD}', 'new')")
    for tier in ("core", "main"):
        assert (bodies(hop), count(hop)) == (["new", "old", "old", "old"], 4)
        assert (bodies(hop, "body = 'new'"), bodies(hop, "body = 'old'")) == (["new"], ["old"] * 3)
        if tier == "core":
            assert hop.move().rows == 1


def test_segments_of_other_keys_are_read_as_they_are(hop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Core's and Main's keys lie apart from a segment's, neither is asked for any."""
    make(hop)
    assert hop.archive() == 4
    hop.core.execute(f"INSERT INTO t VALUES (17, '{NEW}', 'new')")
    gave, real = [], archived.Segments._above

    def noting(*given: Any) -> Any:
        gave.append(real(*given))
        return gave[-1]

    monkeypatch.setattr(archived.Segments, "_above", noting)
    assert bodies(hop) == ["new", "old", "old", "old", "old"]
    assert gave == [None]
