"""A standby that follows an embedded server by streaming replication; either can be killed, promoted and started again."""

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg

from tierkeeper.demo.server import EmbeddedPostgres, _children

COPY_SECONDS = 60
_numbers = itertools.count(1)


def follow(primary: EmbeddedPostgres, folder: Path) -> EmbeddedPostgres:
    """A running standby of `primary` in `folder`, which must not exist: with its users, its passwords and its certificate.

    Whoever calls it stops it.
    """
    runtime = primary._runtime
    base = os.fspath(runtime.bin_dir / "pg_basebackup")
    subprocess.run(
        [base, "-D", folder, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", primary.url()],
        check=True,
        timeout=COPY_SECONDS,
    )
    folder.chmod(0o700)
    runtime.own(folder)
    standby = EmbeddedPostgres(folder, runtime, primary._password)
    standby.restart()
    return standby


@contextmanager
def pair(folder: Path) -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    """A primary and a standby that follows it, in folders of their own in `folder`."""
    number = next(_numbers)
    places = [folder / f"{role}-{os.getpid()}-{number}" for role in ("primary", "standby")]
    settings = {"wal_level": "replica", "wal_keep_size": "256MB"}
    try:
        with (
            EmbeddedPostgres.start(places[0], durable=False, settings=settings) as primary,
            follow(primary, places[1]) as standby,
        ):
            yield primary, standby
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def standing_still(server: EmbeddedPostgres) -> Iterator[None]:
    """Meanwhile the system goes on taking its connections, and nobody answers them."""
    assert server.pid is not None
    processes = [server.pid, *_children(server.pid)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def ask(server: EmbeddedPostgres, sql: str) -> object:
    """The first value of the answer, if it has one; each statement is committed."""
    with closing(psycopg.connect(server.url(), autocommit=True, connect_timeout=5)) as conn:
        cursor = conn.execute(sql)  # type: ignore[call-overload]  # a test's own statements
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row is not None else None
