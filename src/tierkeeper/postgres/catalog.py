"""How the catalog is read: in one snapshot, under the pinned settings, so that every name in it comes out qualified."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from tierkeeper.postgres.link import Connection, transaction


@contextmanager
def catalog(conn: Connection) -> Iterator[psycopg.Cursor[Any]]:
    """A cursor in the `link.transaction` that `conn` is in, else in a short read-only one of its own."""
    if conn.info.transaction_status == TransactionStatus.INTRANS:
        with conn.cursor() as cur:
            yield cur
    else:
        with transaction(conn, isolation="repeatable read", read_only=True) as cur:
            yield cur
