"""COPY at the speed of libpq: rows out by the block, blocks in.

psycopg's own reader asks the event loop for each row, which costs more than reading it. This one asks libpq itself, and the
system only when libpq has nothing buffered. Rows are weighed one by one as they come: to keep them for later costs more than to
copy them into a block.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors, pq, sql

from tierkeeper.kernel.digest import RowDigest, weigh
from tierkeeper.kernel.limits import CONNECT_SECONDS, COPY_BLOCK_BYTES
from tierkeeper.kernel.ports import Block
from tierkeeper.postgres.session import Session, discard, take_row

_HEADER_BYTES = 19  # of binary COPY: signature, flags, length of an extension that Postgres has never used
_TRAILER = b"\xff\xff"  # of binary COPY: no row begins so, for no table has 65535 columns

_NOTHING = memoryview(b"")  # instead of a row that has been sent, lest it lie beside the next


def rows_out(
    cur: psycopg.Cursor,
    query: sql.Composed,
    *,
    binary: bool,
    digest: RowDigest | None = None,
    block_bytes: int = COPY_BLOCK_BYTES,
) -> Generator[Block]:
    """What a `COPY … TO STDOUT` says, in blocks of about `block_bytes`, each of whole rows. It may be under way already
    (`Cursor.all_of_then_copy`).

    A row of more than COPY_BLOCK_BYTES is a block of its own, as libpq gave it: memory is bounded by one block, or one row and
    what libpq holds of it.

    `digest` counts the rows in, without the header and the trailer of `binary`, and is whole when the generator has ended. Close
    it when you stop early: that cancels the COPY and leaves the connection usable.
    """
    pgconn = cur.connection.pgconn
    take = pgconn.get_copy_data
    with _under_way(cur, query):
        block, rows, total, size_bytes = bytearray(), 0, 0, 0
        size, row = take_row(pgconn)
        if binary and size > 0:
            rows, total, size_bytes = -1, -weigh(_TRAILER), -_HEADER_BYTES - len(_TRAILER)
            total += weigh(row[_HEADER_BYTES:]) - weigh(row)
            if size == _HEADER_BYTES:  # it came alone: there is no row
                rows, total = rows - 1, total - weigh(b"")
        while size > 0:
            rows += 1
            if digest is not None:
                total += weigh(row)
            if size >= COPY_BLOCK_BYTES:
                size_bytes += len(block) + size
                if block:
                    yield block
                yield row
                block, row = bytearray(), _NOTHING
            else:
                block += row
                if len(block) >= block_bytes:
                    size_bytes += len(block)
                    yield block
                    block = bytearray()
            size, row = take(1)
            if size == 0:
                size, row = take_row(pgconn)
        _end(pgconn)
        size_bytes += len(block)
        if block:
            yield block
        if digest is not None:
            digest.add(rows, total, size_bytes)


@contextmanager
def _under_way(cur: psycopg.Cursor, query: sql.Composed) -> Iterator[None]:
    """The COPY `query`, begun here unless it was before; cancelled where its reader gives up."""
    session = cur.connection
    if not (isinstance(session, Session) and session.takes_copy(query.as_string(session))):
        with cur.copy(query):
            yield
        return
    try:
        yield
    except BaseException:
        with suppress(psycopg.Error):
            session.cancel_safe(timeout=CONNECT_SECONDS)
        discard(session.pgconn)
        raise


def rows_in(cur: psycopg.Cursor, query: sql.Composed, blocks: Iterable[Block]) -> None:
    """Sends `blocks` to a `COPY … FROM STDIN`."""
    with cur.copy(query) as copy:
        for block in blocks:
            copy.write(block)


def _end(pgconn: pq.abc.PGconn) -> None:
    """Takes the COPY's final result. Raises as the server says, once nothing more is to come: the driver would cancel a COPY that
    seems to be under way, and tell on stderr how that went.
    """
    failed = None
    while (result := pgconn.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            failed = failed or result
    if failed is not None:
        raise errors.error_from_result(failed)
