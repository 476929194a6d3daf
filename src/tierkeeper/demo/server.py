"""A small supervisor of embedded Postgres: a server that starts in a third of a second and never outlives its parent.

For the demo and the tests. It binds loopback alone and must not be used to keep data that anybody would miss.
"""

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self
from urllib.parse import quote

from psycopg import sql

from tierkeeper.demo import certificates
from tierkeeper.demo.runtime import PLACE, Runtime, find_runtime
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.postgres.link import Connection, Link, translated

OWNER: Final = "postgres"
_PORTS: Final = range(15_000, 32_768)  # above the usual servers, below the range that outgoing connections take theirs from
_PORT_TRIES: Final = 8  # another process may take the port between our look and the server's bind
_READY_SECONDS: Final = 90  # a restart after kill() replays its log first
_STOP_SECONDS: Final = 30  # a fast shutdown writes its checkpoint; beyond this the disk is stuck
_POLL_SECONDS: Final = 0.01
_STATUS_LINE: Final = 8  # of postmaster.pid
_LAST_WORDS: Final = 2  # lines: the fatal one names the file or port, the one before it what is wrong there

_ALWAYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",  # a path to a socket is cut at 107 bytes, and a socket is open to every user
        "ssl": "on",
        "ssl_cert_file": "tls/server.crt",
        "ssl_key_file": "tls/server.key",
        "password_encryption": "scram-sha-256",
        "dynamic_shared_memory_type": "mmap",  # in the data folder: nothing stays in /dev/shm, which is small in a container
        "timezone": "UTC",
    }
)
_FLEETING: Final[Mapping[str, str]] = MappingProxyType({"fsync": "off", "full_page_writes": "off"})
_HBA: Final = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n"


class EmbeddedPostgres:
    """One server on loopback, with TLS and a password.

    Keeps: no process of it outlives this one, whatever ends this one (kill -9 and Ctrl-C too); `stop` may be called
    any number of times. A context manager: leaving it stops the server, its folder stays.
    """

    def __init__(self, data_dir: Path, runtime: Runtime, password: str) -> None:
        """Use `start`."""
        self.data_dir = data_dir
        self.port = 0
        self._runtime = runtime
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        durable: bool = True,
        settings: Mapping[str, str] = MappingProxyType({}),
        runtime: Runtime | None = None,
    ) -> Self:
        """Makes a cluster in `data_dir`, which must not exist yet, and starts it.

        Not `durable`: no fsync, for tests that nothing depends on. `settings` are postgresql.conf's. Raises UsageError
        where Postgres cannot run here, Failed with the server's last words where it does not start.
        """
        runtime = runtime or find_runtime()
        data_dir = data_dir.absolute()
        template, password = _template(data_dir.parent, runtime)
        shutil.copytree(template, data_dir)
        data_dir.chmod(0o700)
        certificates.issue(data_dir / "tls")
        (data_dir / "pg_hba.conf").write_text(_HBA)
        with (data_dir / "postgresql.conf").open("a") as conf:
            for name, value in {**_ALWAYS, **({} if durable else _FLEETING), **settings}.items():
                conf.write(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n")
        runtime.own(data_dir)
        server = cls(data_dir, runtime, password)
        server.restart()
        return server

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that a client verifies this server by."""
        return self.data_dir / "tls" / "ca.crt"

    @property
    def log_file(self) -> Path:
        return self.data_dir / "server.log"

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def url(self, database: str = OWNER, user: str = OWNER, password: str | None = None) -> str:
        """A URL with the password in it; the owner's unless `password` is given."""
        secret = self._password if password is None else password
        return f"postgresql://{quote(user, safe='')}:{quote(secret, safe='')}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def link(self, tier: str, database: str = OWNER) -> Link:
        """A link to `database` that verifies the server."""
        return Link(tier, self.url(database), str(self.ca_file))

    def create_database(self, name: str, template: str | None = None) -> None:
        """Makes a database, as a copy of `template` (to which nobody may be connected) if one is given."""
        clause = sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template)) if template else sql.SQL("")
        with self._administer() as conn, translated(PLACE):
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + clause)

    def drop_database(self, name: str) -> None:
        """Drops a database if it is there, ending the sessions in it."""
        with self._administer() as conn, translated(PLACE):
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def restart(self) -> None:
        """Starts the server again after `stop` or `kill`, on its old port."""
        if self.pid is not None:
            return
        ports = [self.port] if self.port else [free_port() for _ in range(_PORT_TRIES)]
        for port in ports:
            self.port = port
            with self.log_file.open("ab") as log:
                mark = log.tell()
                self._process = self._runtime.spawn("postgres", "-D", str(self.data_dir), "-p", str(port), output=log)
            try:
                said = self._await_ready(self._process, mark)
            except BaseException:
                self.kill()
                raise
            if said is None:
                return
            if "could not bind" not in said and "could not create any TCP/IP sockets" not in said:
                break
        last_words = "; ".join(said.splitlines()[-_LAST_WORDS:]) if said else "the server ended without a word"
        raise Failed(PLACE, last_words, f"Read {self.log_file}")

    def stop(self) -> None:
        """Ends all sessions and stops the server; immediately if it takes too long. Nothing to do if it does not run."""
        if self._process is None:
            return
        for order in (signal.SIGINT, signal.SIGQUIT):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.send_signal(order)
                self._process.wait(_STOP_SECONDS)
                return
        self.kill()

    def kill(self) -> None:
        """Ends every process of the server at once, as a power cut does (but the system's cache stays)."""
        if self._process is None:
            return
        children = _children(self._process.pid) if self._process.poll() is None else []
        self._process.kill()
        self._process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + _STOP_SECONDS
        while any(_runs(child) for child in children) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _administer(self) -> Connection:
        return self.link("embedded").connect("administration")

    def _await_ready(self, process: "subprocess.Popen[bytes]", mark: int) -> str | None:
        """None once the server is ready; its log since byte `mark` if it ended instead. Raises NotNow if it does neither."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return self.log_file.read_bytes()[mark:].decode(errors="replace").strip()
            if _is_ready(self.data_dir / "postmaster.pid", process.pid):
                return None
            time.sleep(_POLL_SECONDS)
        raise NotNow(PLACE, f"the server was not ready within {_READY_SECONDS} s", f"Read {self.log_file}, then run again")


def _is_ready(pid_file: Path, pid: int) -> bool:
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE - 1].strip() == "ready"


def free_port() -> int:
    """A port of loopback that nobody listens on now, outside of the range that outgoing connections take theirs from."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NotNow(PLACE, "no port of loopback is free", "End some servers, then run again")


def _children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [child for child in pids if _state_and_parent(child)[1] == pid]


def _runs(pid: int) -> bool:
    """Whether `pid` still holds anything: a zombie, which a container's first process may never reap, does not."""
    return _state_and_parent(pid)[0] not in "ZX"


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return state, int(parent)


_templates: dict[tuple[Path, Runtime], tuple[Path, str]] = {}
_templates_lock = threading.Lock()


def _template(folder: Path, runtime: Runtime) -> tuple[Path, str]:
    """An empty cluster below `folder`, made once a process, and its owner's password."""
    with _templates_lock:
        known = _templates.get((folder, runtime))
        if known is not None and known[0].is_dir():
            return known
        if runtime.identity == "nobody" and (closed := _closed_to_others(folder)) is not None:
            raise UsageError(
                PLACE,
                f"root starts it as nobody, who may not pass through {closed}",
                "Choose a folder that every user may pass through",
            )
        cluster, password = folder / f".cluster-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
        cluster.mkdir(mode=0o700)
        secret = cluster.with_suffix(".password")
        try:
            secret.touch(mode=0o600)
            secret.write_text(password)
            runtime.own(cluster)
            runtime.own(secret)
            runtime.run(
                "initdb",
                "-D",
                str(cluster),
                "-U",
                OWNER,
                f"--pwfile={secret}",
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            )
        finally:
            secret.unlink(missing_ok=True)
        _templates[folder, runtime] = cluster, password
        return cluster, password


def _closed_to_others(folder: Path) -> Path | None:
    """The first folder on the way to `folder`, itself included, that another user may not pass through."""
    return next((p for p in reversed((folder, *folder.parents)) if not p.stat().st_mode & 0o001), None)
