"""A folder for a real Envoy that is ended by its own number, whatever became of the test or of its brain."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from backends import HttpBackend, TcpBackend, until
from tierkeeper.balance.envoy import process
from tierkeeper.balance.envoy.documents import Layout
from tierkeeper.balance.envoy.plane import EnvoyPlane
from tierkeeper.balance.model import Backend, Pool
from tierkeeper.demo.server import free_port

Kind = TypeVar("Kind", HttpBackend, TcpBackend)
_open: list[Any] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Whatever a test connected is closed after it."""
    yield
    while _open:
        _open.pop().close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """With a longer path than the kernel takes for a socket."""
    path = tmp_path / ("folder" * 30)
    yield path
    while (left := process.find(Layout(str(path)))) is not None:
        os.kill(left.pid, signal.SIGKILL)
        until(lambda pid=left: not process.alive(pid))
    process.forget(Layout(str(path)))


@pytest.fixture
def planes(folder: Path) -> Iterator[Callable[..., EnvoyPlane]]:
    """Makes planes of one folder. Each is let go of before the folder ends its Envoy."""
    made: list[EnvoyPlane] = []

    def make(**options: Any) -> EnvoyPlane:
        made.append(EnvoyPlane(folder, concurrency=2, **options))
        return made[-1]

    yield make
    for plane in made:
        plane.leave()


@pytest.fixture
def plane(planes: Callable[..., EnvoyPlane]) -> EnvoyPlane:
    return planes()


@contextmanager
def made_of(kind: type[Kind], usual: int) -> Iterator[Callable[..., list[Kind]]]:
    """Makes so many backends at a time; all are stopped at the end."""
    made: list[Kind] = []

    def make(count: int = usual, **options: Any) -> list[Kind]:
        fresh = [kind(**options) for _ in range(count)]
        made.extend(fresh)
        return fresh

    yield make
    for backend in made:
        backend.stop()


@pytest.fixture
def http_backends() -> Iterator[Callable[..., list[HttpBackend]]]:
    with made_of(HttpBackend, 3) as make:
        yield make


@pytest.fixture
def tcp_backends() -> Iterator[Callable[..., list[TcpBackend]]]:
    with made_of(TcpBackend, 2) as make:
        yield make


@pytest.fixture
def spawned() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts a Python program that says "ready"; it is ended with the test."""
    made: list[subprocess.Popen[bytes]] = []

    def spawn(program: str, *arguments: object) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE)
        made.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        return child

    yield spawn
    for child in made:
        child.kill()
        child.communicate()


def pool_of(backends: Sequence[HttpBackend | TcpBackend], name: str = "web", **options: Any) -> Pool:
    """A pool on a free port over these, each with weight 1."""
    wire = "http" if isinstance(backends[0], HttpBackend) else "tcp"
    members = tuple(Backend(b.name, "127.0.0.1", b.port) for b in backends)
    return Pool(**{"name": name, "wire": wire, "host": "127.0.0.1", "port": free_port(), "backends": members, **options})


class Client:
    """One connection to a pool, made again where it broke."""

    def __init__(self, pool: Pool, timeout: float = 10) -> None:
        self._make = lambda: http.client.HTTPConnection(pool.host, pool.port, timeout=timeout)
        self._connection = self._make()
        _open.append(self)

    def ask(self, method: str = "GET", path: str = "/", body: bytes | None = None, **headers: str) -> tuple[int, str]:
        try:
            self._connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = self._connection.getresponse()
            return answer.status, answer.read().decode()
        except BaseException:
            self._connection.close()
            self._connection = self._make()
            raise

    def split(self, count: int, method: str = "GET", **headers: str) -> Counter[int]:
        """How many of so many requests each port answered; all with 200."""
        answers = [self.ask(method, **headers) for _ in range(count)]
        assert {status for status, _ in answers} == {200}
        return Counter(int(text) for _, text in answers)

    def close(self) -> None:
        self._connection.close()


def connect(pool: Pool, timeout: float = 5) -> socket.socket:
    """A bare connection to the pool's port."""
    connection = socket.create_connection((pool.host, pool.port), timeout)
    _open.append(connection)
    return connection


def send(pool: Pool, text: bytes, timeout: float = 2) -> bytes:
    """Sends it as it is, and returns what comes until the end, or until nothing more comes for a moment."""
    connection, heard = connect(pool, timeout), b""
    connection.sendall(text)
    with suppress(OSError):
        while piece := connection.recv(65_536):
            heard += piece
            connection.settimeout(0.04)
    return heard
