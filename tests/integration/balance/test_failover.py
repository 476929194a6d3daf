"""A primary dies under writing clients, a standby is promoted, the dead one comes back: through the real balancer.

No row is written at a node that has been demoted, and none that was acknowledged after the promotion is missing.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

import replicas
from replicas import ask
from support import eventually, sampled
from tierkeeper.demo.server import EmbeddedPostgres, free_port

CUT_SECONDS = 0.5  # from the brain's decision until the last session at the dead primary has ended
RESUME_SECONDS = 2.0  # from the promotion until a write is acknowledged
INTERVAL_SECONDS = 30  # between checks while all is well: what is found sooner is found by watching


@dataclass
class Pair:
    """A primary and its standby, before they change places."""

    old: EmbeddedPostgres
    new: EmbeddedPostgres


@pytest.fixture
def pair(server_folder: Path) -> Iterator[Pair]:
    with replicas.pair(server_folder) as (old, new):
        ask(old, "CREATE TABLE written (id bigint PRIMARY KEY, at_port int NOT NULL DEFAULT inet_server_port())")
        yield Pair(old, new)


@dataclass
class Balancer:
    """`tierkeeper balance serve` in a process of its own, and what it has told."""

    writes: int
    reads: int
    command: list[str]
    environment: dict[str, str]
    log: Path
    told: list[dict[str, Any]] = field(default_factory=list)
    said: str = ""

    def start(self) -> None:
        """Again too: then by what the one before has kept."""
        self.told.clear()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.reader = threading.Thread(target=_read, args=(self, self.process), daemon=True)
        self.reader.start()

    def kill(self) -> None:
        """The brain alone: what carries the traffic goes on."""
        self.process.kill()
        self.end(0)

    def end(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.process.kill()
        self.process.wait()
        self.reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def url(self, pair: Pair, *, reads: bool = False) -> str:
        return pair.old.url().replace(f":{pair.old.port}/", f":{self.reads if reads else self.writes}/")

    def when(self, event: str, holds: Callable[[dict[str, Any]], bool] = lambda _: True) -> float | None:
        """The instant at which it was first told, in seconds of the epoch."""
        found = (e for e in self.told if e["event"] == event and holds(e))
        return next((datetime.fromisoformat(e["at"]).timestamp() for e in found), None)

    def says(self, server: EmbeddedPostgres, state: str, since: float) -> bool:
        """Whether it told after that instant that a server is so."""
        told = (e for e in self.told if e["event"] == "state" and str(server.port) in e["backend"] and state in e["told"])
        return any(datetime.fromisoformat(e["at"]).timestamp() > since for e in told)


@contextmanager
def balancing(pair: Pair, folder: Path, max_lag: str = "16MB") -> Iterator[Balancer]:
    writes, reads = free_port(), free_port()
    (folder / "tierkeeper.toml").write_text(
        f"""[balance]
health_check_interval = {INTERVAL_SECONDS}
[[balance.services]]
name = "db"
protocol = "postgres"
listen = "127.0.0.1:{writes}"
listen_reads = "127.0.0.1:{reads}"
backends = ["{pair.old.url()}", "{pair.new.url()}"]
health = {{ max_lag = "{max_lag}" }}
"""
    )
    command = [
        os.fspath(Path(sys.executable).parent / "tierkeeper"),
        "balance",
        "serve",
        "--json",
        "--config",
        str(folder / "tierkeeper.toml"),
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    balancer = Balancer(writes, reads, command, environment, folder / "log")
    balancer.start()
    try:
        assert eventually(lambda: balancer.when("serves") is not None, 20), balancer.said + (folder / "log").read_text()
        yield balancer
    finally:
        balancer.process.send_signal(signal.SIGTERM)
        balancer.end(20)


def _read(balancer: Balancer, process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        balancer.said += line
        with suppress(json.JSONDecodeError):
            balancer.told.append(json.loads(line))


class Writer(threading.Thread):
    """An application that writes through the balancer, one row at a time, and connects again when its session is cut."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[tuple[float, int, int]] = []  # when, which, at which port
        self.cut_at: list[float] = []
        self._url, self._ending, self._next = url, threading.Event(), 0

    def run(self) -> None:
        while not self._ending.is_set():
            with suppress(psycopg.Error), closing(psycopg.connect(self._url, autocommit=True, connect_timeout=2)) as conn:
                while not self._ending.is_set():
                    self._next += 1
                    try:
                        row = conn.execute("INSERT INTO written (id) VALUES (%s) RETURNING at_port", [self._next]).fetchone()
                    except psycopg.Error:
                        self.cut_at.append(time.time())
                        raise
                    assert row is not None
                    self.acknowledged.append((time.time(), self._next, row[0]))
                    time.sleep(0.005)
            time.sleep(0.01)

    def end(self) -> None:
        self._ending.set()
        self.join(15)

    def since(self, instant: float) -> list[tuple[float, int, int]]:
        return [a for a in self.acknowledged if a[0] > instant]


@contextmanager
def writing(url: str) -> Iterator[Writer]:
    writer = Writer(url)
    writer.start()
    try:
        yield writer
    finally:
        writer.end()


def ids(server: EmbeddedPostgres) -> set[int]:
    with closing(psycopg.connect(server.url())) as conn:
        return {row[0] for row in conn.execute("SELECT id FROM written")}


def count(url: str) -> tuple[int, int]:
    """Rows seen through `url`, and the port of the server that counted."""
    with closing(psycopg.connect(url, connect_timeout=3)) as conn:
        row = conn.execute("SELECT count(*), inet_server_port() FROM written").fetchone()
        assert row is not None
        return row[0], row[1]


def reader_of(url: str) -> int | None:
    """The port of the server that answers; None where the session was cut, as it is while another takes over."""
    with suppress(psycopg.OperationalError):
        return count(url)[1]
    return None


def promote(server: EmbeddedPostgres) -> float:
    with closing(psycopg.connect(server.url(), autocommit=True)) as conn:
        conn.execute("SELECT pg_promote()")
    return time.time()


@pytest.mark.long
def test_a_replica_that_lags_takes_no_reads_until_it_has_caught_up(pair: Pair, tmp_path: Path) -> None:
    with balancing(pair, tmp_path, max_lag="1MB") as balancer:
        reads = balancer.url(pair, reads=True)
        assert count(reads)[1] == pair.new.port
        with (
            closing(psycopg.connect(pair.new.url(), autocommit=True)) as replica,
            closing(psycopg.connect(pair.old.url(), autocommit=True)) as primary,
        ):
            replica.execute("SELECT pg_wal_replay_pause()")
            primary.execute("INSERT INTO written (id) SELECT generate_series(1000000, 1040000)")
            assert eventually(lambda: reader_of(reads) == pair.old.port, INTERVAL_SECONDS + 5)
            replica.execute("SELECT pg_wal_replay_resume()")
            assert eventually(lambda: reader_of(reads) == pair.new.port, INTERVAL_SECONDS + 5)


def select_readable(conn: psycopg.Connection) -> bool:
    """Whether the server has ended the session, or said something."""
    import select

    return bool(select.select([conn.fileno()], [], [], 0)[0])


def test_a_dead_primary_that_comes_back_takes_no_write(pair: Pair, tmp_path: Path) -> None:
    with balancing(pair, tmp_path) as balancer, writing(balancer.url(pair)) as writer:
        assert eventually(lambda: len(writer.acknowledged) > 50)
        assert {port for _, _, port in writer.acknowledged} == {pair.old.port}
        assert count(balancer.url(pair, reads=True))[1] == pair.new.port
        with closing(psycopg.connect(balancer.url(pair))) as idle:  # it sends nothing, so that it hears only of a cut
            pair.old.kill()
            killed = time.time()
            assert eventually(lambda: balancer.when("state", lambda e: str(pair.old.port) in e["backend"]) is not None, 5)
            decided = balancer.when("state", lambda e: str(pair.old.port) in e["backend"])
            assert decided is not None and decided - killed < 1.0, "it noticed only at the next check"
            assert eventually(lambda: bool(select_readable(idle)), 5)
            assert time.time() - decided < CUT_SECONDS + 0.2  # the time of looking
        promoted = promote(pair.new)
        assert eventually(lambda: bool(writer.since(promoted)), 10)
        assert writer.since(promoted)[0][0] - promoted < RESUME_SECONDS
        returning = time.time()
        pair.old.restart()  # split brain: it says that it is primary
        back = time.time()
        assert eventually(lambda: balancer.says(pair.old, "not the primary", returning), 10)
        time.sleep(0.5)
        assert len(writer.since(back)) > 20
        assert {port for _, _, port in writer.since(promoted)} == {pair.new.port}
        assert reader_of(balancer.url(pair, reads=True)) == pair.new.port
        dying = time.time()
        pair.new.kill()  # only the demoted one is left: it takes nothing all the same
        gone = time.time()
        assert eventually(lambda: balancer.says(pair.new, "out", dying), 5)
        time.sleep(1.2)  # each node is asked once a second at least
        assert writer.since(gone + 0.1) == []
        pair.new.restart()
        back = time.time()
        assert eventually(lambda: bool(writer.since(back)), 15)
        writer.end()
        acknowledged = {which for when, which, _ in writer.acknowledged if when > promoted}
        assert acknowledged <= ids(pair.new)
        assert not ids(pair.old) & acknowledged


@pytest.mark.parametrize("moment", sampled(range(24), 3))
def test_a_brain_that_is_killed_in_a_failover_goes_on_with_the_new_primary(pair: Pair, tmp_path: Path, moment: int) -> None:
    chance = random.Random(moment)  # noqa: S311 - a moment, not a secret
    killed_after, back_after = chance.choice((0.4, 2.5)) * chance.random(), chance.uniform(0.3, 1.5)
    with balancing(pair, tmp_path) as balancer, writing(balancer.url(pair)) as writer:
        assert eventually(lambda: len(writer.acknowledged) > 20)

        def strike() -> None:
            time.sleep(killed_after)
            balancer.kill()
            balancer.start()

        striking = threading.Thread(target=strike)
        striking.start()
        began = time.monotonic()
        pair.old.kill()
        promoted = promote(pair.new)
        time.sleep(max(0.0, began + back_after - time.monotonic()))
        pair.old.restart()
        striking.join()
        assert eventually(lambda: balancer.when("serves") is not None, 20), balancer.said
        serves = time.time()
        assert eventually(lambda: bool(writer.since(serves + 0.5)), 15), balancer.said
        time.sleep(0.5)
        writer.end()
        assert {port for _, _, port in writer.since(serves + 0.2)} == {pair.new.port}
        acknowledged = {which for when, which, port in writer.acknowledged if when > promoted and port == pair.new.port}
        assert acknowledged <= ids(pair.new)
        assert not ids(pair.old) & acknowledged
