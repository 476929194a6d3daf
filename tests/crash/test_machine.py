"""Anything in any order: writes, moves, crashes, recoveries, readers, the passing of time, by Hypothesis (I1, I2, I4, I5).

After each step the fast door must tell the application's rows, each once. A reader may be slow: what happens between its
snapshots is drawn too. Time passes on the servers' own clocks, which are set forward by more than the longest reader's time.
"""

import math
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import processes
from campaign import BEFORE, FIRST, LAST, MAIN_UNTIL, SOURCE, some_age
from processes import At, Hop, Hurried
from strikes import IN_RECOVERY, POINTS
from support import Tiers, tierkeeper_toml
from tierkeeper import config
from tierkeeper.compose import open_keeper
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import NotNow, TierkeeperError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.query.runner import FastDoor
from truth import Seen, Truth, Value

LONGEST_READER_SECONDS = 60
BATCH_ROWS = 3
HURRY = 2_000.0
THINGS = TableName("public", "things")
POLICY = ({"name": "public.things", "age": "at", "core": "30 days", "main": "60 days"},)
TABLE = "CREATE TABLE public.things (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text NOT NULL, tag bigint NOT NULL)"
CLOCK = """
CREATE TABLE public.passed (seconds float NOT NULL);
INSERT INTO public.passed VALUES (0);
SET allow_system_table_mods = on;
ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO true_clock;
CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
AS 'SELECT pg_catalog.true_clock() + (SELECT make_interval(secs => seconds) FROM public.passed)';
"""
"""The server's clock, but one that can be set forward. The real one must go by another name: Postgres finds it by its number."""

HOPS: tuple[Tier, ...] = ("main", "archive")
CRASHES = st.sampled_from(
    [(d, p) for d in HOPS for p in (*POINTS[d], Point.MARKER_DROPPED, *IN_RECOVERY) if p is not Point.MIRRORED]
)
DEEDS = st.sampled_from(("move", "move", "archive", "update", "delete", "insert", "again", "crash"))


@dataclass(frozen=True)
class Ground:
    """Three databases that have been set up, to be copied for each example, and the home with the archive's key."""

    cluster: EmbeddedPostgres
    home: Path
    names: dict[Tier, str]

    def copied(self, stack: ExitStack) -> Tiers:
        """Fresh copies with a store of their own, gone with `stack`."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tierkeeper-machine-", ignore_cleanup_errors=True)))
        made = uuid4().hex[:12]
        links = []
        for tier, name in self.names.items():
            database = f"machine_{made}_{tier}"
            self.cluster.create_database(database, name)
            stack.callback(self.cluster.drop_database, database)
            links.append(self.cluster.link(tier, database))
        shutil.copytree(self.home, folder / "home")
        (folder / "store").mkdir(mode=0o700)
        return Tiers(*links, folder / "store", folder / "home")


@pytest.fixture(scope="module")
def ground(cluster: EmbeddedPostgres) -> Iterator[Ground]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tierkeeper-machine-")))
        names: dict[Tier, str] = {t: f"machine_ground_{t}" for t in ("core", "main", "archive")}
        for name in names.values():
            cluster.create_database(name)
            stack.callback(cluster.drop_database, name)
        links = [cluster.link(tier, name) for tier, name in names.items()]
        tiers = Tiers(*links, home / "store", home)
        for link in links:
            with closing(link.connect("app")) as conn:
                conn.execute(CLOCK)
                if link.tier != "archive":
                    conn.execute(TABLE)
        path = tierkeeper_toml(tiers, POLICY, query_timeout=f"{LONGEST_READER_SECONDS} seconds")
        open_keeper(config.load(path, tiers.environment, home), environment=tiers.environment).setup(apply=True)
        yield Ground(cluster, home, names)


def in_time(step: Callable[..., None]) -> Callable[..., None]:
    """`step`, but nothing once the machine's time is over: a busy machine sees fewer steps, not a time-out."""

    @wraps(step)
    def unless_over(machine: "Things", *values: Any, **named: Any) -> None:
        if time.monotonic() < machine.until:
            type(machine).steps[step.__name__] += 1
            machine.steps_since_a_look += 1
            step(machine, *values, **named)

    return unless_over


class Things(RuleBasedStateMachine):
    """One table over three tiers. `truth` is what the application believes of it."""

    ground: ClassVar[Ground]
    until: ClassVar[float] = math.inf
    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._numbers = self._looked_at = self.steps_since_a_look = 0
        self.truth = Truth()
        self.again, self.replaced = set[int](), set[int]()  # rows with a key that another had before, and these others
        if time.monotonic() > self.until:
            return
        self._tiers = self.ground.copied(self._stack)
        self._config = tierkeeper_toml(self._tiers, POLICY, query_timeout=f"{LONGEST_READER_SECONDS} seconds")
        self._keeper = open_keeper(
            config.load(self._config, self._tiers.environment, self._tiers.home),
            clock=Hurried(HURRY),
            environment=self._tiers.environment,
            batch_rows=BATCH_ROWS,
            segment_rows=2 * BATCH_ROWS,
        )
        self._apps = {
            t: self._stack.enter_context(closing(link.connect("app")))
            for t, link in (("core", self._tiers.core), ("main", self._tiers.main))
        }

    def teardown(self) -> None:
        self._stack.close()

    # What the application does

    @initialize(seed=st.integers(0, 1000))
    @in_time
    def fill(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        for _ in range(10):
            self._put("core", (self._number(), some_age(chance, LAST), "first"))

    @rule(tier=st.sampled_from(("core", "core", "main")), seed=st.integers(0, 1000))
    @in_time
    def insert(self, tier: Tier, seed: int) -> None:
        self._put(tier, (self._number(), some_age(random.Random(seed), LAST), "later"))  # noqa: S311

    @rule(which=st.integers(0, 50), how=st.sampled_from(("body", "older", "younger", "key", "delete")))
    @in_time
    def change(self, which: int, how: str) -> None:
        live = self.truth.live()
        if not live:
            return
        tag = sorted(live)[which % len(live)]
        key, at, body = live[tag]
        if tag in self.again and how != "younger":  # or the row that it replaced would be one again
            how = "body"
        changed: dict[str, Value | None] = {
            "body": (key, at, f"{body}!"[-200:]), "older": (key, FIRST, body), "younger": (key, LAST, body),
            "key": (self._number(), at, body), "delete": None,
        }  # fmt: skip
        self._write(tag, changed[how])

    @rule(which=st.integers(0, 50))
    @in_time
    def use_a_key_again(self, which: int) -> None:
        """A young row in Core with the key of one that has left it: that one is a row no more, wherever it lies."""
        live = self.truth.live()
        if not live:
            return
        old = sorted(live)[which % len(live)]
        new, value = self._number(), (live[old][0], LAST, "again")
        writes = [self.truth.begin(old, None), self.truth.begin(new, value)]
        try:
            self._apps["core"].execute("INSERT INTO public.things (id, at, body, tag) VALUES (%s, %s, %s, %s)", (*value, new))
        except psycopg.errors.UniqueViolation:
            for write in writes:
                assert write is not None
                self.truth.refused(write)
            return
        for write in writes:
            assert write is not None
            self.truth.committed(write)
        self.again.add(new)
        self.replaced.add(old)

    # What tierkeeper does

    @rule(destination=st.sampled_from(HOPS), whole=st.booleans())
    @in_time
    def move(self, destination: Tier, whole: bool) -> None:
        """Also a recovery, where a run before it has died."""
        before = BEFORE[destination] if whole else FIRST + (MAIN_UNTIL - FIRST) / 2
        with suppress(NotNow):
            self._keeper.move(THINGS, SOURCE[destination], destination, before=before)

    @rule(where=CRASHES, nth=st.integers(1, 3))
    @in_time
    def crash(self, where: tuple[Tier, Point], nth: int) -> None:
        self._die(where[0], At(where[1], nth))

    @rule()
    @in_time
    def time_passes(self) -> None:
        """More than the longest reader's time; so nobody reads meanwhile."""
        for link in (self._tiers.core, self._tiers.main, self._tiers.catalog):
            with closing(link.connect("app")) as conn:
                conn.execute("UPDATE public.passed SET seconds = seconds + %s", (LONGEST_READER_SECONDS + 1,))

    # Who looks on

    @invariant()
    def each_row_is_told_once(self) -> None:
        if self._looked_at == sum(self.steps.values()) or time.monotonic() > self.until:
            return
        self._looked_at = sum(self.steps.values())
        now = self._now()
        assert self.truth.wrong(self._ask(), now, self._now()) == []

    @rule(first=st.lists(DEEDS, min_size=1, max_size=3), second=st.lists(DEEDS, max_size=2), seed=st.integers(0, 1000))
    @in_time
    def read_slowly(self, first: list[str], second: list[str], seed: int) -> None:
        """A reader between whose snapshots (Core's and Main's, Main's and the catalog's) all this is done.

        There are old rows in Core before, so that there is something to move.
        """
        chance = random.Random(seed)  # noqa: S311
        for _ in range(2):
            self._put("core", (self._number(), some_age(chance, MAIN_UNTIL), "old"))
        gaps, take, began = [first, second], FastDoor._moved, self._now()

        def after_a_snapshot(door: FastDoor, cur: psycopg.Cursor) -> frozenset[object]:
            moved = take(door, cur)
            for deed in gaps.pop(0) if gaps else []:
                self._deed(deed, chance)
            return moved

        with mock.patch.object(FastDoor, "_moved", after_a_snapshot):
            answer = self._ask()
        assert self.truth.wrong(answer, began, self._now()) == []

    @precondition(lambda self: self.steps_since_a_look > 5)
    @rule()
    @in_time
    def look_into_the_tiers(self) -> None:
        """Settled, each row is in one tier alone, read without any part of ours but `archive restore`."""
        self.steps_since_a_look = 0
        for _ in range(3):
            if self._keeper.move(THINGS, "core", "main", before=BEFORE["main"]).stopped_because == "complete":
                break
        self.time_passes()
        done = self._keeper.move(THINGS, "main", "archive", before=BEFORE["archive"])
        assert done.stopped_because == "complete"
        held = [seen for conn in self._apps.values() for seen in self._rows(conn, "public.things")]
        with suppress(TierkeeperError):  # no segment
            self._keeper.archive_restore(THINGS, to="public.back")
            held += self._rows(self._apps["main"], "public.back")
            self._apps["main"].execute("DROP TABLE public.back")
        now = self._now()
        assert self.truth.wrong([seen for seen in held if seen[0] not in self.replaced], now, now) == []

    # How

    def _deed(self, deed: str, chance: random.Random) -> None:
        deeds: dict[str, Callable[[], None]] = {
            "move": lambda: self.move("main", whole=True),
            "archive": lambda: self.move("archive", whole=True),
            "update": lambda: self.change(chance.randrange(50), chance.choice(("body", "older", "younger", "key"))),
            "delete": lambda: self.change(chance.randrange(50), "delete"),
            "insert": lambda: self.insert("core", chance.randrange(1000)),
            "again": lambda: self.use_a_key_again(chance.randrange(50)),
            "crash": lambda: self._die(hop := chance.choice(HOPS), At(chance.choice(POINTS[hop]), chance.choice((1, 2)))),
        }
        deeds[deed]()

    def _die(self, destination: Tier, at: At) -> None:
        hop = Hop(
            self._config, self._tiers.environment, "things", SOURCE[destination], destination, BEFORE[destination],
            BATCH_ROWS, HURRY,
        )  # fmt: skip
        process, wire = processes.start_hop(hop, at)
        process.join(60)
        wire.close()
        assert process.exitcode in (0, -9)

    def _put(self, tier: Tier, value: Value) -> None:
        tag = self._number()
        write = self.truth.begin(tag, value)
        assert write is not None
        self._apps[tier].execute("INSERT INTO public.things (id, at, body, tag) VALUES (%s, %s, %s, %s)", (*value, tag))
        self.truth.committed(write)

    def _write(self, tag: int, value: Value | None) -> None:
        """In Core, else at Main; a copy in flight and a row in the archive stay as they are."""
        write = self.truth.begin(tag, value)
        assert write is not None
        for conn in self._apps.values():
            with suppress(psycopg.errors.ObjectInUse):
                if value is None:
                    done = conn.execute("DELETE FROM public.things WHERE tag = %s", (tag,))
                else:
                    done = conn.execute("UPDATE public.things SET id = %s, at = %s, body = %s WHERE tag = %s", (*value, tag))
                if done.rowcount:
                    self.truth.committed(write)
                    return
        self.truth.refused(write)

    def _ask(self) -> list[Seen]:
        rows = self._keeper.query("SELECT tag, id, at, body FROM public.things").to_pylist()
        return [(r["tag"], (r["id"], r["at"], r["body"])) for r in rows]

    @staticmethod
    def _rows(conn: Any, table: str) -> list[Seen]:
        return [(tag, (key, at, body)) for tag, key, at, body in conn.execute(f"SELECT tag, id, at, body FROM {table}")]

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    @staticmethod
    def _now() -> float:
        return time.monotonic()


def run(ground: Ground, seconds: float, **chosen: Any) -> None:
    Things.ground, Things.until, Things.steps = ground, time.monotonic() + seconds, Counter()
    chosen = {"deadline": None, "suppress_health_check": list(HealthCheck), **chosen}
    run_state_machine_as_test(Things, settings=settings(**chosen))


def test_a_few_lives_of_a_table(ground: Ground) -> None:
    """The same few every time: it is `test_many_lives_of_a_table` that looks for new ones."""
    run(ground, 14, max_examples=8, stateful_step_count=10, derandomize=True, database=None, phases=(Phase.generate,))
    assert sum(Things.steps.values()) >= 5, Things.steps


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_lives_of_a_table(ground: Ground) -> None:
    run(ground, 3600, max_examples=200, stateful_step_count=25, print_blob=True)
    assert sum(Things.steps.values()) >= 500, Things.steps
