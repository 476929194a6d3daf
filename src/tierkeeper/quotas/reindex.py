"""REINDEX CONCURRENTLY, bounded in time, and the removal of what an interrupted one leaves. Readers and writers go on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import sql

from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import WAIT_EXTRA_SECONDS
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.quotas import look

BYTES_PER_SECOND: Final = 2_000_000  # of the index: the slowest build that is still waited for
POLL_SECONDS: Final = 0.2


def reindex(
    conn: Connection, table: TableName, index: str, *, size_bytes: int, longest_reader_seconds: float, stop: Stop
) -> str | None:
    """None once `index` is built anew; else why it stayed as it is.

    It waits for every transaction that is older than itself; one that outlives the longest reader must not hold the run. What
    was half built is dropped, at once or, where that transaction has a lock on the table, by the next run.
    The old index serves, and takes every write, until the new one is complete: Postgres keeps that promise at a crash, too.
    """
    statement = sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(sql.Identifier(table.schema, index))
    with _bounded(conn, longest_reader_seconds + WAIT_EXTRA_SECONDS + size_bytes / BYTES_PER_SECOND, stop) as why:
        try:
            conn.execute(statement)
        except psycopg.errors.QueryCanceled:
            ended = why[0] if why else "the server cancelled its rebuilding"
        except (psycopg.errors.LockNotAvailable, psycopg.errors.TransactionRollback, psycopg.errors.UniqueViolation) as error:
            ended = f"its rebuilding failed ({error.diag.message_primary})"
        else:
            reach(Point.REINDEXED)
            return None
    clean(conn, table)
    return ended


def clean(conn: Connection, table: TableName) -> list[str]:
    """Drops what an interrupted rebuild left of `table`'s indexes, and returns the names. It waits for no lock.

    I10: a rebuild that somebody else has under way holds a lock that this one conflicts with, so that it is left alone.
    """
    dropped: list[str] = []
    for name in look.leftovers(conn, table):
        try:
            with transaction(conn) as cur:
                lock = sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE NOWAIT")
                cur.execute(lock.format(sql.Identifier(table.schema, table.name)))
                if name in look.leftovers(conn, table):
                    cur.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(table.schema, name)))
                    dropped.append(name)
        except psycopg.errors.LockNotAvailable:
            break
    return dropped


@contextmanager
def _bounded(conn: Connection, seconds: float, stop: Stop) -> Iterator[list[str]]:
    """Cancels what runs on `conn` after `seconds`, or when the run must end, and says which. No session setting is needed."""
    done, why = threading.Event(), list[str]()

    def watch() -> None:
        left = seconds
        while not done.wait(POLL_SECONDS):
            left -= POLL_SECONDS
            reason = stop()
            if reason is None and left <= 0:
                reason = f"an older transaction did not end within {seconds:.0f} s, and its rebuilding waits for all of them"
            if reason is not None:
                why.append(reason)
                conn.cancel_safe()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield why
    finally:
        done.set()
        watcher.join()
