"""A hosted free tier in small: a Core whose user is no superuser, PgBouncer before it, a quota that makes it read-only.

`Hosted.start` gives one server with both of a provider's ports. Two threads play the provider and the disk: one throws the
read-only switch where all databases together pass the quota, one remembers the most that they and the log ever took.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from tierkeeper.demo.runtime import Runtime, find_runtime
from tierkeeper.demo.server import EmbeddedPostgres, free_port
from tierkeeper.postgres.link import Connection, Link

PGBOUNCER = next((p for p in (Path("/usr/sbin/pgbouncer"), Path("/usr/bin/pgbouncer")) if p.exists()), None)
POOL_SIZE = 6  # a query over three tiers holds at most five transactions at once
DATABASE, ROLE = "core", "app"
_LOOK_SECONDS = 0.004
_SWITCH_SECONDS = 0.05
_BACK_SHARE = 0.95  # of the quota: below it the provider ends the read-only mode
_TRACKED = ("application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings")
"""What PgBouncer itself sets for its clients; the first, which decides nothing, it hands on to those that give none."""


class PgBouncer:
    """One PgBouncer in transaction mode before `server`. It runs as nobody where this is root, and never outlives us."""

    def __init__(self, server: EmbeddedPostgres, folder: Path, password: str) -> None:
        assert PGBOUNCER is not None
        own = find_runtime()
        runtime = Runtime(PGBOUNCER.parent, own.identity)
        folder.mkdir(mode=0o711)
        self.port = free_port()
        self.log = folder / "pgbouncer.log"
        for name in ("server.crt", "server.key", "ca.crt"):
            shutil.copy(server.data_dir / "tls" / name, folder / name)
        (folder / "users.txt").write_text(f'"{ROLE}" "{password}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 200\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\n"
            f"client_tls_sslmode = require\nclient_tls_key_file = {folder}/server.key\n"
            f"client_tls_cert_file = {folder}/server.crt\n"
            f"server_tls_sslmode = verify-full\nserver_tls_ca_file = {folder}/ca.crt\n"
            "query_wait_timeout = 30\nlog_connections = 0\nlog_disconnections = 0\n"
        )
        runtime.own(folder)
        with self.log.open("wb") as log:
            self._process = runtime.spawn(PGBOUNCER.name, str(folder / "pgbouncer.ini"), output=log)

    def stop(self) -> None:
        """Ends it at once; its clients lose their connections."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(10)
            return
        self._process.kill()
        self._process.wait()


@dataclass
class Peaks:
    """The most bytes that were ever seen: of all databases as the provider counts them, and of the folder of the log."""

    used: int = 0
    wal: int = 0
    looks: int = 0


@dataclass
class Hosted:
    """One hosted Core. `pooled` and `session` lead its owner in; `admin` is the provider's own superuser."""

    server: EmbeddedPostgres
    pooled: Link
    session: Link
    admin: Connection
    quota_bytes: int
    _password: str = field(repr=False)
    peaks: Peaks = field(default_factory=Peaks)
    _ended: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path, *, quota_bytes: int, settings: dict[str, str]) -> Iterator[Self]:
        """The server with an empty database of its owner's, the pooler, and the provider's watch over the quota."""
        folder.mkdir(mode=0o711)
        password = secrets.token_urlsafe(12)
        with ExitStack() as stack:
            server = stack.enter_context(EmbeddedPostgres.start(folder / "data", durable=False, settings=settings))
            server.stop()  # a log in files of 1 MB: as fine beside this small a quota as 16 MB are beside a real one
            find_runtime().run("pg_resetwal", "--wal-segsize=1", "-D", str(server.data_dir))
            with (server.data_dir / "postgresql.conf").open("a") as conf:
                conf.write("min_wal_size = '2MB'\n")
            server.restart()
            admin = stack.enter_context(closing(server.link("admin").connect("provider")))
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(password)))
            _create(admin, DATABASE)
            pooler = PgBouncer(server, folder / "pooler", password)
            stack.callback(pooler.stop)
            session, pooled = (_link("core", port, DATABASE, password, server.ca_file) for port in (server.port, pooler.port))
            _await(pooled, pooler)
            hosted = cls(server, pooled, session, admin, quota_bytes, password)
            for watch in (hosted._watch_quota, hosted._watch_files):
                thread = threading.Thread(target=watch, name=watch.__name__)
                thread.start()
                stack.callback(thread.join)
            stack.callback(hosted._ended.set)
            yield hosted

    def pooled_database(self, tier: str) -> Link:
        """A new database of the owner's beside Core, through the same pooler."""
        _create(self.admin, tier)
        port = self.pooled.parameters["port"]
        return _link(tier, int(port), tier, self._password, self.server.ca_file)

    def used_bytes(self) -> int:
        """All databases together, as the provider counts them."""
        return int(str(_scalar(self.admin, "SELECT sum(pg_database_size(oid))::bigint FROM pg_database")))

    def wal_bytes(self) -> int:
        """What the folder of the write-ahead log takes on disk."""
        return _folder_bytes(self.server.data_dir / "pg_wal")

    def written_bytes(self) -> int:
        """How much was ever written to the log."""
        return int(str(_scalar(self.admin, _WRITTEN)))

    @contextlib.contextmanager
    def late_checkpoints(self) -> Iterator[None]:
        """Plays a checkpointer that comes as late as can be: when for a while nobody has written any more."""
        ended = threading.Event()

        def checkpoint() -> None:
            with closing(self.server.link("admin").connect("provider")) as conn:
                seen = 0
                while not ended.wait(0.3):
                    written = int(str(_scalar(conn, _WRITTEN)))
                    if written == seen:
                        conn.execute("CHECKPOINT")
                    seen = written

        thread = threading.Thread(target=checkpoint, name="checkpoints")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def read_only(self, on: bool) -> None:
        """What the provider does: a default of the database, for sessions that begin from now on."""
        _switch(self.admin, on)

    def is_read_only(self) -> bool:
        with closing(self.session.connect("look")) as conn:
            return _scalar(conn, "SHOW default_transaction_read_only") == "on"

    def renew_sessions(self) -> None:
        """Ends the sessions that the pooler has kept, so that its next ones begin under today's defaults."""
        pids = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s AND pid <> pg_backend_pid()"
        self.admin.execute(pids, [ROLE])

    def leaks(self, link: Link | None = None) -> list[str]:
        """What a client finds on the pooler's server connections that others have left there: nothing, if all is well.

        As many clients as the pool has connections hold a transaction each, so that every connection is looked at.
        """
        found: list[str] = []
        uri = (link or self.pooled).uri
        with ExitStack() as stack:
            for _ in range(POOL_SIZE):
                conn = stack.enter_context(closing(psycopg.connect(uri, autocommit=True, prepare_threshold=None)))
                conn.execute("BEGIN")
                found += [str(name) for (name,) in conn.execute(_LEFT, {"tracked": list(_TRACKED)})]
        return found

    def _watch_quota(self) -> None:
        """Read-only above the quota, and writable again below 95 % of it."""
        with closing(self.server.link("admin").connect("provider")) as conn:
            on = False
            while not self._ended.wait(_SWITCH_SECONDS):
                used = _used(conn)
                self.peaks.used = max(self.peaks.used, used)
                if used > self.quota_bytes and not on:
                    on = True
                    _switch(conn, True)
                elif used < _BACK_SHARE * self.quota_bytes and on:
                    on = False
                    _switch(conn, False)

    def _watch_files(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self.peaks.wal = max(self.peaks.wal, self.wal_bytes())
            self.peaks.looks += 1


_WRITTEN = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
_LEFT = """
SELECT 'setting ' || name || '=' || setting FROM pg_settings
WHERE source = 'session' AND name <> ALL (%(tracked)s)
UNION ALL SELECT 'read only' WHERE current_setting('transaction_read_only') <> current_setting('default_transaction_read_only')
UNION ALL SELECT 'isolation ' || current_setting('transaction_isolation')
  WHERE current_setting('transaction_isolation') <> 'read committed'
UNION ALL SELECT 'path ' || current_setting('search_path') WHERE current_setting('search_path') <> '"$user", public'
UNION ALL SELECT 'zone ' || current_setting('TimeZone') WHERE current_setting('TimeZone') <> 'UTC'
UNION ALL SELECT 'dates ' || current_setting('DateStyle') WHERE current_setting('DateStyle') <> 'ISO, MDY'
UNION ALL SELECT 'role ' || current_user WHERE current_user <> session_user
UNION ALL SELECT 'temporary table ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()
UNION ALL SELECT 'lock ' || mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
UNION ALL SELECT 'statement ' || name FROM pg_prepared_statements
UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable
UNION ALL SELECT 'channel ' || c FROM pg_listening_channels() AS c
"""


def _switch(conn: Connection, on: bool) -> None:
    conn.execute(
        sql.SQL(
            "ALTER DATABASE {} " + ("SET default_transaction_read_only = on" if on else "RESET default_transaction_read_only")
        ).format(sql.Identifier(DATABASE))
    )


def _create(admin: Connection, database: str) -> None:
    admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(ROLE)))


def _link(tier: str, port: int, database: str, password: str, ca_file: Path) -> Link:
    return Link(tier, f"postgresql://{ROLE}:{quote(password)}@127.0.0.1:{port}/{database}", str(ca_file))


def _await(link: Link, pooler: PgBouncer) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(link.uri).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise AssertionError(pooler.log.read_text()) from None
            time.sleep(0.02)
        else:
            return


def _scalar(conn: Connection, query: str) -> object:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _used(conn: Connection) -> int:
    return int(str(_scalar(conn, "SELECT sum(pg_database_size(oid))::bigint FROM pg_database")))


def _folder_bytes(folder: Path) -> int:
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # recycled under our look
            total += entry.stat().st_size if entry.is_file() else 0
    return total
