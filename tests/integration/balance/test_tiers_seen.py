"""What the balancer sees of the tiers: a command that needs one which does not answer ends at once."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from backends import HttpBackend, hanging
from brains import MemoryPlane
from replicas import standing_still
from support import Command, Tiers, TiersFactory, eventually, tierkeeper_toml
from tierkeeper.compose.balancer import serve
from tierkeeper.compose.balancing import Source
from tierkeeper.demo.server import EmbeddedPostgres, free_port
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import CONNECT_SECONDS
from tierkeeper.kernel.results import BalanceEvent
from tierkeeper.monitoring import seen, state
from tierkeeper.postgres.link import Link
from tierkeeper.web import control

POLICY = {"name": "public.events", "age": "at", "core": "30 days", "main": "31 days"}
AT_ONCE_SECONDS = 1.0
BACK_SECONDS = 5.0  # the pause before the next check, the check, and the file


@pytest.fixture
def main_server(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres.start(server_folder / f"main-{time.monotonic_ns()}", durable=False) as server:
        yield server


@dataclass
class Installation:
    tiers: Tiers
    environment: dict[str, str]
    patch: pytest.MonkeyPatch

    def configure(self, tiers: Tiers, backend: str) -> None:
        """One service stands beside the tiers: without one there is no balancer."""
        extra = (
            '[balance]\nhealth_check_interval = 0.2\n[[balance.services]]\nname = "api"\nprotocol = "http"\n'
            f'listen = "127.0.0.1:{free_port()}"\nbackends = ["{backend}"]\n'
        )
        self.patch.setenv("TIERKEEPER_CONFIG", str(tierkeeper_toml(tiers, [POLICY], extra=extra)))

    @property
    def folder(self) -> Path:
        return state.folder(self.environment, self.tiers.core)

    def sees_away(self, tier: str) -> None:
        """As a balancer does that asks it now."""
        now = SystemClock().now()
        seen.write(self.folder, {tier: seen.Seen("out", "it gave no answer within 2 s", now, now, away=True)})

    def away(self, tier: str) -> bool:
        return seen.away(seen.read(self.folder), tier, SystemClock().now()) is not None


@pytest.fixture
def installed(make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    tiers = make_tiers(core="events")
    short = tempfile.mkdtemp(prefix="tk-")  # sockets lie in it
    environment = {**tiers.environment, "XDG_STATE_HOME": short}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield Installation(tiers, environment, monkeypatch)
    shutil.rmtree(short)


@contextmanager
def balancing() -> Iterator[list[BalanceEvent]]:
    stop, events, errors = threading.Event(), list[BalanceEvent](), list[TierkeeperError]()
    source = Source(None, dict(os.environ), Path.cwd())

    def work() -> None:
        try:
            serve(
                source,
                stop=lambda: "stopped" if stop.is_set() else None,
                tell=events.append,
                interface=control.interface,
                make_plane=MemoryPlane().factory,
            )
        except TierkeeperError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert eventually(lambda: bool(errors) or any(e.event == "serves" for e in events), 20), events
        assert not errors, errors
        yield events
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def timed(ask: Command, *argv: str, code: int) -> tuple[float, Any]:
    began = time.monotonic()
    document = ask(*argv, code=code)
    return time.monotonic() - began, document


def test_nobody_waits_for_a_main_that_hangs(installed: Installation, main_server: EmbeddedPostgres, ask: Command) -> None:
    with HttpBackend() as backend:
        installed.configure(replace(installed.tiers, main=main_server.link("main")), backend.url)
        ask("setup", "--apply")
        count = "SELECT count(*) AS n FROM events"
        (whole,) = ask("query", count, "--format", "json")
        with balancing():
            assert eventually(lambda: not installed.away("main"), 5)
            with standing_still(main_server):
                assert eventually(lambda: installed.away("main"), 15)
                for argv in (
                    ["query", count],
                    ["move", "events", "--from", "core", "--to", "main"],
                    ["quota"],
                    ["archive", "run"],
                ):
                    took, document = timed(ask, *argv, code=75)
                    error = document["error"] if "error" in document else document["errors"][0]
                    assert "it is out since" in error["cause"], document
                    assert took < AT_ONCE_SECONDS, argv
                status = {t["name"]: t for t in ask("balance", "status")["tiers"]}
                assert {n: t["state"] for n, t in status.items()} == {"core": "in", "main": "out", "archive": "in", "store": "in"}
            back = time.monotonic()
            assert eventually(lambda: not installed.away("main"), BACK_SECONDS)
            assert ask("query", count, "--format", "json") == [whole]
            assert time.monotonic() - back < BACK_SECONDS


def test_an_archive_that_hangs_keeps_core_from_nothing(installed: Installation, ask: Command) -> None:
    with hanging() as port:
        installed.configure(installed.tiers, "http://127.0.0.1:1")
        ask("setup", "--apply")
        catalog = Link("archive", f"postgresql://u@127.0.0.1:{port}/x")
        installed.configure(replace(installed.tiers, catalog=catalog), "http://127.0.0.1:1")
        installed.sees_away("archive")
        took, document = timed(ask, "query", "SELECT count(*) FROM events", code=75)
        assert "it is out since" in document["error"]["cause"], "a reader leaves no tier out (I2)"
        assert took < AT_ONCE_SECONDS
        installed.sees_away("archive")
        took, done = timed(ask, "quota", code=75)
    assert [(move["to"], move["rows"]) for move in done["moves"]] == [("main", 2000)]
    assert all("it is out since" in e["cause"] for e in done["errors"])
    assert took < CONNECT_SECONDS / 2


def test_how_a_tier_stands_is_asked_of_the_tier(installed: Installation, ask: Command) -> None:
    installed.configure(installed.tiers, "http://127.0.0.1:1")
    installed.sees_away("main")
    ask("setup", "--apply")
    installed.sees_away("main")
    assert ask("check")["ok"]
    installed.sees_away("main")
    assert ask("status")["tiers"]["main"]["healthy"]
