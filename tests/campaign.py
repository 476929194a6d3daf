"""The crash campaign's house: two servers of its own, an application that writes, a reader that asks, and faults that strike.

What a run proves is `Run.check`'s to say; which faults there are is `faults.py`'s. Nothing here reads the schema `tierkeeper`.
"""

import csv
import random
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import psycopg

from faultproxy import FaultProxy
from support import Tiers, tierkeeper_toml
from tierkeeper import config
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection
from truth import Seen, Truth, Value, Write

TABLES = ("t0", "t1", "t2")
"""Three, so that rows of one rest at Main while the others are moved."""
FIRST, MAIN_UNTIL, CORE_UNTIL, LAST = (datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3, 4))
"""Rows before CORE_UNTIL leave Core, and Main before MAIN_UNTIL; the application's rows are between FIRST and LAST."""
BEFORE: dict[Tier, datetime] = {"main": CORE_UNTIL, "archive": MAIN_UNTIL, "core": LAST}
SOURCE: dict[Tier, Tier] = {"main": "core", "archive": "main", "core": "main"}
RETURNS = 2
"""Every so many rows (by their tags, which never change) are brought back from Main to Core."""
LONGEST_READER_SECONDS = 2

_MAKE = """
CREATE TABLE public.{0} (
    id bigint PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL REFERENCES public.kinds, body text NOT NULL,
    tag bigint NOT NULL
)"""
_KINDS = "CREATE TABLE public.kinds (kind text PRIMARY KEY); INSERT INTO public.kinds VALUES ('a'), ('b')"
_POLICY = (
    {"name": "public.kinds", "mode": "mirror"},
    *({"name": f"public.{t}", "age": "at", "core": "30 days", "main": "60 days"} for t in TABLES),
)


def where(destination: Tier) -> str | None:
    """The condition of a hop's rows beside their age."""
    return f"tag % {RETURNS} = 0" if destination == "core" else None


@dataclass(frozen=True)
class Servers:
    """Core's server, which has the catalog too, and Main's: a hop's source and destination never die together."""

    core: EmbeddedPostgres
    main: EmbeddedPostgres

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator["Servers"]:
        """Without fsync: what a killed process wrote is in the system's cache, which survives it."""
        with (
            EmbeddedPostgres.start(folder / "campaign-core", durable=False) as core,
            EmbeddedPostgres.start(folder / "campaign-main", durable=False) as main,
        ):
            yield cls(core, main)

    def of(self, tier: Tier) -> EmbeddedPostgres:
        return self.main if tier == "main" else self.core


@dataclass
class Tally:
    """What a campaign did, counted."""

    runs: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        def shown(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none"

        return [
            f"{self.runs} runs, {sum(self.struck.values())} faults struck, {len(self.violations)} violations",
            f"  struck: {shown(self.struck)}",
            f"  ended before their fault: {shown(self.missed)}",
            f"  moves: {shown(self.moves)}",
            f"  writes: {shown(self.writes)}",
            f"  answers of the reader: {shown(self.answers)}",
        ]


class World:
    """Fresh databases on the campaign's servers: a keeper that reaches them, and proxies through which the movers go."""

    def __init__(self, servers: Servers, name: str, stack: ExitStack) -> None:
        self.servers = servers
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tierkeeper-campaign-", ignore_cleanup_errors=True)))
        self.links = {}
        for tier, hint in (("core", "core"), ("main", "main"), ("archive", "catalog")):
            database, server = f"{name}_{hint}", servers.of(tier)  # type: ignore[arg-type]
            server.create_database(database)
            stack.callback(server.drop_database, database)
            self.links[tier] = server.link(tier, database)
        self.proxies = {t: stack.enter_context(FaultProxy(int(link.parameters["port"]))) for t, link in self.links.items()}
        direct = Tiers(self.links["core"], self.links["main"], self.links["archive"], home / "store", home / "home")
        for folder in (direct.store, direct.home):
            folder.mkdir(mode=0o700)
        through = [self.proxies[t].link(link) for t, link in self.links.items()]
        self.config = tierkeeper_toml(
            Tiers(*through, direct.store, direct.home), _POLICY, query_timeout=f"{LONGEST_READER_SECONDS} seconds"
        )
        self.config = shutil.move(self.config, direct.home / "proxied.toml")
        self.environment = direct.environment
        settings = config.load(
            tierkeeper_toml(direct, _POLICY, query_timeout=f"{LONGEST_READER_SECONDS} seconds"), self.environment, direct.home
        )
        self.keeper: Keeper = open_keeper(settings, environment=self.environment, batch_rows=20, segment_rows=50)
        with closing(self.connect("core")) as conn:
            conn.execute(_KINDS)
            for table in TABLES:
                conn.execute(_MAKE.format(table))
        self.keeper.setup(apply=True)
        self.truths = {table: Truth() for table in TABLES}
        self._archived: dict[str, list[Seen]] = {table: [] for table in TABLES}
        self._numbers = 0

    def connect(self, tier: Tier) -> Connection:
        return self.links[tier].connect("app")

    def number(self) -> int:
        """One that no row has had yet, as key or tag."""
        self._numbers += 1
        return self._numbers

    def online(self, tier: Tier, table: str) -> list[Seen]:
        """The rows of `table` that lie in `tier`, read by the application itself."""
        with closing(self.connect(tier)) as conn, suppress(psycopg.errors.UndefinedTable):
            rows: list[Any] = conn.execute(f"SELECT tag, id, at, body FROM public.{table}").fetchall()
            return [(tag, (id_, at, body)) for tag, id_, at, body in rows]
        return []

    def archived(self, table: str, *, again: bool) -> list[Seen]:
        """The rows that a restore gives back; as of the last time where not asked `again`."""
        if again:
            out = self.config.parent / "restored.csv"
            out.unlink(missing_ok=True)
            try:
                self.keeper.archive_restore(TableName("public", table), to=str(out))
            except TierkeeperError as error:
                if "no segment" not in str(error):
                    raise
                return []
            with out.open(newline="") as file:
                self._archived[table] = [
                    (int(r["tag"]), (int(r["id"]), datetime.fromisoformat(r["at"]), r["body"])) for r in csv.DictReader(file)
                ]
        return self._archived[table]

    def ask(self, table: str) -> list[Seen]:
        """The rows as `tierkeeper query` tells them."""
        rows = self.keeper.query(f"SELECT tag, id, at, body FROM public.{table}").to_pylist()
        return [(r["tag"], (r["id"], r["at"].astimezone(UTC), r["body"])) for r in rows]

    def fill(self, table: str, chance: random.Random, rows: int) -> None:
        """Rows of every age, put into Core and acknowledged."""
        truth, writes = self.truths[table], []
        for _ in range(rows):
            value = (self.number(), some_age(chance, LAST), f"row {chance.random()}")
            write = truth.begin(self.number(), value)
            assert write is not None
            writes.append((write, value))
        with closing(self.connect("core")) as conn, conn.transaction(), conn.cursor() as cur:
            cur.executemany(f"INSERT INTO public.{table} VALUES (%s, %s, 'a', %s, %s)", [(*v, w.tag) for w, v in writes])
        for write, _ in writes:
            truth.committed(write)


def some_age(chance: random.Random, until: datetime) -> datetime:
    """A whole second from FIRST on."""
    return FIRST + timedelta(seconds=chance.randrange(int((until - FIRST).total_seconds())))


class Beside(ABC):
    """Somebody who is at work in a thread of his own while the block runs."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @abstractmethod
    def _work(self) -> None:
        """Until `_ended` is set."""


class Writer(Beside):
    """One of the application's sessions: it inserts old rows and young ones, updates (across the cutoff, the key), deletes.

    It writes in Core, and to rows that have left Core at Main. What it cannot write (a copy in flight, a row in the
    archive) it leaves; what it sent when the server died stays of unknown outcome.
    """

    def __init__(self, world: World, table: str, chance: random.Random, tally: Tally) -> None:
        self._world, self._table, self._chance, self._tally = world, table, chance, tally
        self._truth = world.truths[table]
        self._sessions: dict[Tier, Connection] = {}
        super().__init__()

    def _work(self) -> None:
        while not self._ended.wait(0.02):
            kind, tag, value = self._draw()
            write = self._truth.begin(tag, value)
            if write is not None:
                self._tally.writes[f"{kind} {self._send(write, kind)}"] += 1
        for conn in self._sessions.values():
            conn.close()

    def _draw(self) -> tuple[str, int, Value | None]:
        kind = self._chance.choice(("insert", "update", "update", "age", "age", "key", "delete"))
        live = self._truth.live()
        body = f"written {self._chance.random()}"
        if kind == "insert" or not live:
            return "insert", self._world.number(), (self._world.number(), some_age(self._chance, LAST), body)
        tag = self._chance.choice(sorted(live))
        key, at, _ = live[tag]
        changed: dict[str, Value | None] = {
            "update": (key, at, body),
            "age": (key, some_age(self._chance, LAST), body),
            "key": (self._world.number(), at, body),
            "delete": None,
        }
        return kind, tag, changed[kind]

    def _send(self, write: Write, kind: str) -> str:
        """Whether it was `done`, `refused` or is `unknown`."""
        value = write.new.value
        for tier in ("core",) if kind == "insert" else ("core", "main"):
            try:
                conn = self._session(tier)  # type: ignore[arg-type]
            except TierkeeperError:  # away: nothing was sent
                break
            try:
                if self._execute(conn, kind, write.tag, value):
                    self._truth.committed(write)
                    return "done"
            except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedTable):
                break
            except psycopg.OperationalError:
                if not conn.closed:  # a deadlock, a time-out: rolled back
                    break
                return "unknown"
        self._truth.refused(write)
        return "refused"

    def _execute(self, conn: Connection, kind: str, tag: int, value: Value | None) -> bool:
        table = f"public.{self._table}"
        if value is None:
            return conn.execute(f"DELETE FROM {table} WHERE tag = %s", (tag,)).rowcount == 1
        if kind == "insert":
            return conn.execute(f"INSERT INTO {table} VALUES (%s, %s, 'b', %s, %s)", (*value, tag)).rowcount == 1
        changed = conn.execute(f"UPDATE {table} SET id = %s, at = %s, body = %s WHERE tag = %s", (*value, tag))
        return changed.rowcount == 1

    def _session(self, tier: Tier) -> Connection:
        conn = self._sessions.get(tier)
        if conn is None or conn.closed:
            conn = self._sessions[tier] = self._world.connect(tier)
        return conn


class Reader(Beside):
    """Asks `tierkeeper query` for the whole table, over and over and once at the end, and compares each answer (I2)."""

    def __init__(self, world: World, table: str, tally: Tally) -> None:
        self._world, self._table, self._tally = world, table, tally
        self.wrong: list[str] = []
        super().__init__()

    def _work(self) -> None:
        while not self._ended.wait(0.1):
            self._ask()
        if not any(self._ask() for _ in range(10)):
            self.wrong.append("ten questions at rest got no answer")

    def _ask(self) -> bool:
        """False where there was no answer."""
        began = time.monotonic()
        try:
            answer = self._world.ask(self._table)
        except NotNow:
            self._tally.answers["not now"] += 1
            return False
        except TierkeeperError as error:
            self._tally.answers["failed"] += 1
            self.wrong.append(f"the reader was told {type(error).__name__}: {error}")
            return True
        wrong = self._world.truths[self._table].wrong(answer, began, time.monotonic())
        self._tally.answers["wrong" if wrong else "right"] += 1
        self.wrong += [f"reader: {w}" for w in wrong]
        return True


@dataclass
class Check:
    """After the campaign's reruns: everything is where an undisturbed run would have put it (I1, I4, I5)."""

    world: World
    table: str
    destination: Tier
    wrong: list[str]

    def settle(self, tally: Tally) -> None:
        """Runs the mover until it says complete; more than a handful of runs is a failure of its own."""
        source = SOURCE[self.destination]
        for _ in range(12):
            try:
                name = TableName("public", self.table)
                done = self.world.keeper.move(
                    name, source, self.destination, before=BEFORE[self.destination], where=where(self.destination)
                )
                said = done.stopped_because
            except NotNow as error:
                said = f"not now: {error}"
            except Failed as error:
                self.wrong.append(f"the rerun failed: {error}")
                return
            tally.moves[f"rerun {said.split(':')[0]}"] += 1
            if said == "complete":
                return
            time.sleep(0.2)
        self.wrong.append(f"twelve reruns did not complete: {said}")

    def places(self) -> None:
        held = {tier: self.world.online(tier, self.table) for tier in ("core", "main")}  # type: ignore[arg-type]
        archived = self.world.archived(self.table, again=self.destination == "archive")
        self.wrong += self.world.truths[self.table].settle([*held["core"], *held["main"], *archived])
        source = SOURCE[self.destination]
        every = RETURNS if self.destination == "core" else 1
        late = [tag for tag, (_, at, _) in held[source] if at < BEFORE[self.destination] and tag % every == 0]
        if late:
            self.wrong.append(f"{len(late)} old rows were left in {source}")
