"""Partitions come and go, by the application's hand and by ours, under moves that are killed, writers and a reader (I1 to I5).

Everything is drawn from a seed. The oracle is what the application's own transactions wrote (`truth.py`).
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

import processes
from campaign import CORE_UNTIL, Beside, Reader, Tally, Writer, some_age
from support import Tiers, eventually, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection
from truth import Seen, Truth, Value

T = "t"
LAST = datetime(2024, 4, 1, tzinfo=UTC)
MAKE = """
CREATE TABLE public.t (id bigint, at timestamptz, kind text NOT NULL, body text NOT NULL, tag bigint NOT NULL,
PRIMARY KEY (id, at)) PARTITION BY RANGE (at)
"""
JANUARY = "FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2024-02-01 00:00+00')"
PARTS = {
    "t_jan": ("t", f"{JANUARY} PARTITION BY HASH (id)", JANUARY),
    "t_jan_0": ("t_jan", "FOR VALUES WITH (MODULUS 2, REMAINDER 0)", ""),
    "t_jan_1": ("t_jan", "FOR VALUES WITH (MODULUS 2, REMAINDER 1)", ""),
    "t_feb": ("t", "FOR VALUES FROM ('2024-02-01 00:00+00') TO ('2024-02-20 00:00+00')", ""),
    "t_end": ("t", "FOR VALUES FROM ('2024-02-20 00:00+00') TO ('2024-03-01 00:00+00')", ""),
    "t_mar": ("t", "FOR VALUES FROM ('2024-03-01 00:00+00') TO ('2024-04-01 00:00+00')", ""),
}
"""Each partition's parent, how it is made, and how it is attached again where that is said otherwise."""
POINTS = (
    *(Point.MARKER_OPEN, Point.COPIED, Point.WAITED, Point.DELETE_BEFORE_COMMIT, Point.DELETED, Point.DONE),
    *(Point.DROP_RECORDED, Point.DROP_BEFORE_COMMIT, Point.DROPPED),
)


class World:
    """Three tiers, what the application wrote, and what `campaign`'s writers and readers want of a world."""

    def __init__(self, tiers: Tiers, chance: random.Random) -> None:
        self.tiers, self.chance = tiers, chance
        days = (datetime.now(UTC) - CORE_UNTIL).days  # so that February is old and March is not
        policy = {"name": "public.t", "age": "at", "core": f"{days} days", "drop_partitions": True}
        self.config = tierkeeper_toml(tiers, [policy], query_timeout="2 seconds")  # type: ignore[list-item]
        settings = load(self.config, tiers.environment, tiers.home)
        self.keeper = open_keeper(settings, environment=tiers.environment, batch_rows=20)
        self.truths = {T: Truth()}
        self.table_changes = 0
        self._detached = False
        self._numbers = 0
        with closing(self.connect("core")) as core, closing(self.connect("main")) as main:
            core.execute(MAKE.encode())
            self.make_parts(core)
            if chance.random() < 0.5:
                main.execute(MAKE.replace("RANGE (at)", "HASH (id)").encode())
                for i in (0, 1):
                    main.execute(f"CREATE TABLE public.h_{i} PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER {i})".encode())
        self.keeper.setup(apply=True)

    def connect(self, tier: Tier) -> Connection:
        return {"core": self.tiers.core, "main": self.tiers.main}[tier].connect("app")  # type: ignore[index]

    def number(self) -> int:
        """One that no row has had yet, as key or tag."""
        self._numbers += 1
        return self._numbers

    def make_parts(self, conn: Connection) -> None:
        for name, (parent, how, _) in PARTS.items():
            conn.execute(f"CREATE TABLE IF NOT EXISTS public.{name} PARTITION OF public.{parent} {how}".encode())

    def fill(self, rows: int) -> None:
        """Rows of every age, put into Core and acknowledged."""
        truth = self.truths[T]
        with closing(self.connect("core")) as conn:
            for _ in range(rows):
                value = (self.number(), some_age(self.chance, LAST), f"row {self.chance.random()}")
                write = truth.begin(self.number(), value)
                assert write is not None
                try:
                    conn.execute("INSERT INTO public.t VALUES (%s, %s, 'a', %s, %s)", (*value, write.tag))
                except psycopg.errors.CheckViolation:  # its partition was dropped
                    truth.refused(write)
                else:
                    truth.committed(write)

    def ask(self, table: str) -> list[Seen]:
        """The rows as `tierkeeper query` tells them. What is detached is in no table, and nobody can say when it went."""
        before = self.table_changes
        rows = self.keeper.query(f"SELECT tag, id, at, body FROM public.{table}").to_pylist()
        if self._detached or self.table_changes != before:
            raise NotNow("t", "a partition was detached meanwhile", "Ask again")
        return [(r["tag"], (r["id"], r["at"].astimezone(UTC), r["body"])) for r in rows]

    def online(self, tier: Tier) -> list[Seen]:
        with closing(self.connect(tier)) as conn, suppress(psycopg.errors.UndefinedTable):
            rows: list[Any] = conn.execute("SELECT tag, id, at, body FROM public.t").fetchall()
            return [(tag, (id_, at, body)) for tag, id_, at, body in rows]
        return []

    def detach_for_a_while(self, conn: Connection, rest: Callable[[float], object]) -> str:
        """Some partition, with whatever rows it has, and back again. Where it is gone, all that are gone are made anew."""
        name = self.chance.choice(sorted(PARTS))
        parent, how, back = PARTS[name]
        concurrently = " CONCURRENTLY" if self.chance.random() < 0.4 else ""
        self._detached, self.table_changes = True, self.table_changes + 1
        try:
            conn.execute(f"ALTER TABLE public.{parent} DETACH PARTITION public.{name}{concurrently}".encode())
        except psycopg.errors.UndefinedTable:
            self.make_parts(conn)
            return "made anew"
        except psycopg.Error as error:
            return type(error).__name__
        else:
            rest(self.chance.random())
            return "detached"
        finally:
            self.attach(conn, name, parent, back or how)
            self._detached, self.table_changes = False, self.table_changes + 1

    def attach(self, conn: Connection, name: str, parent: str, how: str) -> None:
        """Until it is a partition again, or gone with its parent."""

        def attached() -> bool:
            with suppress(
                psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.UndefinedTable,
                psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected,  # it waits for snapshots under a lock
            ):  # fmt: skip
                conn.execute(f"ALTER TABLE public.{parent} DETACH PARTITION public.{name} FINALIZE".encode())
            there = conn.execute(
                "SELECT p.oid IS NULL, c.oid IS NULL OR c.relispartition FROM (SELECT) AS one"
                " LEFT JOIN pg_class AS p ON p.oid = to_regclass(%s) LEFT JOIN pg_class AS c ON c.oid = to_regclass(%s)",
                [f"public.{parent}", f"public.{name}"],
            ).fetchone()
            if there in ((False, True), (True, True)):
                return True
            if there == (True, False):  # it was dropped without this one, which has rows
                self.make_parts(conn)
            with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                conn.execute(f"ALTER TABLE public.{parent} ATTACH PARTITION public.{name} {how}".encode())
                return True
            return False

        assert eventually(attached, 30), f"{name} could not be attached again"


class PartitionedWriter(Writer):
    """One whose row may find no partition: then nothing was changed."""

    def _execute(self, conn: Connection, kind: str, tag: int, value: Value | None) -> bool:
        try:
            return super()._execute(conn, kind, tag, value)
        except psycopg.errors.CheckViolation:
            return False


class Owner(Beside):
    """Takes partitions off and puts them back, and makes those anew that were dropped."""

    def __init__(self, world: World, tally: Tally) -> None:
        self._world, self._tally = world, tally
        self.wrong: list[str] = []
        super().__init__()

    def _work(self) -> None:
        with closing(self._world.connect("core")) as conn:
            conn.execute("SET lock_timeout = '3s'")
            while not self._ended.wait(1.0):
                try:
                    self._tally.moves[self._world.detach_for_a_while(conn, self._ended.wait)] += 1
                except (AssertionError, psycopg.Error) as error:
                    self.wrong.append(f"the owner of the partitions was told {type(error).__name__}: {error}")
                    return


def settle(world: World, tally: Tally) -> list[str]:
    """With nobody else at work the mover ends, and each row is in one place."""
    said = ""
    for _ in range(8):
        with suppress(NotNow):
            result = world.keeper.move(TableName("public", T), "core", "main", before=CORE_UNTIL)
            tally.moves["moved"] += result.rows
            said = result.stopped_because
            if said == "complete":
                break
    core, main = world.online("core"), world.online("main")
    wrong = world.truths[T].settle([*core, *main])
    if said != "complete":
        wrong.append(f"it does not come to an end: {said}")
    late = [tag for tag, (_, at, _) in core if at < CORE_UNTIL]
    return [*wrong, f"{len(late)} old rows were left in core"] if late else wrong


def run(world: World, tally: Tally, rounds: int) -> list[str]:
    """Rounds of filling and moving, some of which are killed, beside everybody else."""
    owner = Owner(world, tally)
    with Reader(world, T, tally) as reader:  # type: ignore[arg-type]
        with ExitStack() as others:
            others.enter_context(owner)
            for _ in range(2):
                chance = random.Random(world.chance.random())  # noqa: S311 - repeatable, not secret
                others.enter_context(PartitionedWriter(world, T, chance, tally))  # type: ignore[arg-type]
            for number in range(rounds):
                world.fill(60)
                point = world.chance.choice(POINTS) if number and world.chance.random() < 0.5 else None
                if point is not None:
                    command = ["quota", "--config", str(world.config), "--json"]
                    ended = processes.command(command, world.tiers.environment, die_at=point)
                    tally.struck[point if ended.returncode < 0 else "none"] += 1
                    continue
                done = world.keeper.quota()
                tally.moves["moved"] += sum(m.rows for m in done.moves)
                tally.moves["dropped"] += sum(r.method == "partition drop" for r in done.reclaimed)
                for error in done.errors:
                    tally.missed[f"{error.place}: {error.cause}"] += 1
                tally.runs += 1
        wrong = settle(world, tally)
    return owner.wrong + reader.wrong + wrong


@pytest.fixture
def tally() -> Iterator[Tally]:
    counted = Tally()
    yield counted
    print("\n".join(counted.lines()))  # noqa: T201 - shown where the test fails


def test_a_sample(make_tiers: Callable[..., Tiers], tally: Tally) -> None:
    assert run(World(make_tiers(), random.Random(1)), tally, rounds=1) == []  # noqa: S311
    assert tally.moves["moved"] > 0  # a busy machine moves less in its time
    assert tally.answers["right"] > 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(20))
def test_many(make_tiers: Callable[..., Tiers], tally: Tally, seed: int) -> None:
    assert run(World(make_tiers(), random.Random(100 + seed)), tally, rounds=12) == []  # noqa: S311
