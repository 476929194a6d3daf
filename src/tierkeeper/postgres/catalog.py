"""How the catalog is read: in one snapshot, under the pinned settings, so that every name in it comes out qualified."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from tierkeeper.postgres.keeping import asked_once
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor, Shared


@contextmanager
def catalog(conn: Connection) -> Iterator[Cursor]:
    """A cursor in the `link.transaction` that `conn` is in, else in a short read-only one of its own, which its `last` ends."""
    if conn.in_transaction:
        with Shared(conn) as cur:
            yield cur
    else:
        with transaction(conn, isolation="repeatable read", read_only=True) as cur:
            yield cur


@asked_once
def server_now(conn: Connection) -> datetime:
    """The clock of the server that `conn` leads to, in UTC; in one look the same for all."""
    with catalog(conn) as cur:
        (instant,) = cur.last("SELECT clock_timestamp()").fetchone() or (None,)
    assert isinstance(instant, datetime)  # noqa: S101 - a function's SELECT gives one row
    return instant.astimezone(UTC)
