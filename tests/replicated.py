"""A Postgres primary and a standby that follows it, of which either may be killed, started again and promoted."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from support import eventually
from tierkeeper.demo.server import EmbeddedPostgres, free_port

_SECONDS = 60


@dataclass
class Server:
    """One of the two."""

    server: EmbeddedPostgres
    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, user: str | None = None, password: str | None = None) -> str:
        url = self.server.url() if user is None else self.server.url(user=user, password=password)
        return url.replace(f":{self.server.port}/", f":{self.port}/")

    def ask(self, sql: str) -> object:
        with closing(psycopg.connect(self.url(), autocommit=True, connect_timeout=5)) as conn:
            cursor = conn.execute(sql)  # type: ignore[call-overload]  # a test's own statements
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row is not None else None

    def answers(self) -> bool:
        with suppress(psycopg.Error):
            return self.ask("SELECT 1") == 1
        return False

    def start(self) -> None:
        runtime = self.server._runtime
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = runtime.spawn("postgres", "-D", os.fspath(self.folder), "-p", str(self.port), output=log)
        assert eventually(self.answers, _SECONDS)

    def kill(self) -> None:
        """As kill -9 of the whole server does."""
        if self.process is None:
            self.server.kill()
            return
        children = [int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(p) == self.process.pid]
        for pid in (self.process.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(_SECONDS)

    def revive(self) -> None:
        if self.process is None:
            self.server.restart()
        else:
            self.start()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(_SECONDS)


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


@contextmanager
def replicated(folder: Path) -> Iterator[tuple[Server, Server]]:
    """A primary and a standby that has caught up."""
    settings = {"wal_level": "replica", "hot_standby": "on", "wal_receiver_status_interval": "1"}
    with EmbeddedPostgres.start(folder / "first", durable=False, settings=settings) as server:
        first = Server(server, server.data_dir, server.port)
        second = Server(server, folder / "second", free_port())
        base = os.fspath(server._runtime.bin_dir / "pg_basebackup")
        subprocess.run(
            [base, "-D", second.folder, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", server.url()],
            check=True,
            timeout=_SECONDS,
        )
        second.folder.chmod(0o700)
        server._runtime.own(second.folder)
        second.start()
        try:
            yield first, second
        finally:
            second.stop()
            shutil.rmtree(second.folder, ignore_errors=True)
