"""A home server in a process of its own, which can be killed and started again on the same disk."""

import atexit
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import tempfile
from contextlib import closing
from datetime import timedelta
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

import processes
from support import eventually
from tierkeeper.demo.server import free_port
from tierkeeper.homeserver import tokens
from tierkeeper.homeserver.identity import Identity
from tierkeeper.homeserver.state import State
from tierkeeper.homeserver.vault import FOLDER
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.faults import Point
from tierkeeper.objectstore.home import HomeStore
from tierkeeper.objectstore.port import KINDS

NAMES = ("127.0.0.1", "localhost")


class HomeServer:
    """`tierkeeper homeserver` on `folder`/store. A context manager; leaving it ends the process."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self.root = folder / "store"
        self.root.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = folder / "server.log"
        self._process: ForkServerProcess | None = None
        self._tokens: dict[tuple[str, int | None], str] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "ARCHIVE_PATH": str(self.root)}

    @property
    def url(self) -> str:
        """The enrolment string."""
        return Identity(self.root / FOLDER, NAMES).enrolment(self.port)

    def start(self, die_at: Point | None = None) -> None:
        toml = f'[homeserver]\nlisten = "127.0.0.1:{self.port}"\nnames = ["127.0.0.1", "localhost"]\n'
        (self.home / "tierkeeper.toml").write_text(toml)
        self._process = processes.start(["homeserver"], self.environment, self.log, die_at)
        if not eventually(self._listens, 30):
            raise AssertionError(self.log.read_text())

    def _listens(self) -> bool:
        assert self._process is not None
        if not self._process.is_alive():
            raise AssertionError(self.log.read_text())
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> int:
        """Asks it to end; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self.ended()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self.ended()

    def ended(self) -> int:
        """Waits for its end; its exit code (negative: the signal that killed it)."""
        assert self._process is not None
        self._process.join(30)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
            raise AssertionError("the server did not end")
        return code

    def was_killed(self) -> bool:
        return self.ended() == -signal.SIGKILL

    def state(self) -> State:
        return State(self.root / FOLDER / "state.sqlite", SystemClock())

    def token(self, role: tokens.Role, quota_bytes: int | None = None, days: float = 1) -> str:
        """The text of a token with this role, the same one each time."""
        key = (f"{role}-{days}", quota_bytes)
        if key not in self._tokens:
            now = SystemClock().now()
            token, text = tokens.mint(f"{role}-{len(self._tokens)}-{days}", role, now, now + timedelta(days=days), quota_bytes)
            with closing(self.state()) as state:
                state.add_token(token)
            self._tokens[key] = text
        return self._tokens[key]

    def store(self, role: tokens.Role = "writer", port: int | None = None, quota_bytes: int | None = None) -> HomeStore:
        """A client, through another port (a proxy's) if one is given."""
        url = self.url.replace(f":{self.port}", f":{port or self.port}")
        return HomeStore(url, self.token(role, quota_bytes))

    def client(self, role: tokens.Role | None = "admin", **more: Any) -> httpx.Client:
        """A bare HTTP client that trusts the server's authority."""
        context = ssl.create_default_context(cafile=str(Identity(self.root / FOLDER, NAMES).ca))
        headers = {} if role is None else {"Authorization": f"Bearer {self.token(role)}"}
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=context, headers=headers, trust_env=False, **more)

    def emptied(self) -> Self:
        """The same server without an object or an upload, as if each had been deleted."""
        for name in (*KINDS, "lock"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        with closing(sqlite3.connect(self.root / FOLDER / "state.sqlite")) as conn, conn:
            conn.execute("DELETE FROM object")
            conn.execute("DELETE FROM upload")
        for part in (self.root / FOLDER / "uploads").iterdir():
            part.unlink()
        return self


@cache
def shared() -> HomeServer:
    """One server for all tests of a session that break nothing of it."""
    folder = Path(tempfile.mkdtemp(prefix="tierkeeper-home-"))
    server = HomeServer(folder)
    server.start()
    atexit.register(_end, server)
    return server


def _end(server: HomeServer) -> None:
    server.kill()
    shutil.rmtree(server.home, ignore_errors=True)
