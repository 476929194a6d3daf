"""How the catalog is read: in one snapshot, under the pinned settings, so that every name in it comes out qualified."""

from collections.abc import Iterator
from contextlib import contextmanager

from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor


@contextmanager
def catalog(conn: Connection) -> Iterator[Cursor]:
    """A cursor in the `link.transaction` that `conn` is in, else in a short read-only one of its own."""
    if conn.in_transaction:
        with Cursor(conn) as cur:
            yield cur
    else:
        with transaction(conn, isolation="repeatable read", read_only=True) as cur:
            yield cur
