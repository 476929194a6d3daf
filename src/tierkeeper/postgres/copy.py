"""COPY at the speed of libpq: rows out by the block, blocks in.

psycopg's own reader asks the event loop for each row, which costs more than reading it. This one asks libpq itself, and the
system only when libpq has nothing buffered.
"""

import select
from collections.abc import Generator, Iterable, Sequence

import psycopg
from psycopg import errors, pq, sql

from tierkeeper.kernel.limits import COPY_BLOCK_BYTES

Row = bytes | bytearray | memoryview
Block = Sequence[Row]
"""Whole rows as COPY sends them; the header of binary COPY rides with the first row, its trailer comes as a row of its own."""


def rows_out(cur: psycopg.Cursor, query: sql.Composed) -> Generator[Block]:
    """The rows of a `COPY … TO STDOUT`, in blocks of about `COPY_BLOCK_BYTES`: memory is bounded by one block and one row.

    Close it when you stop early: that cancels the COPY and leaves the connection usable.
    """
    pgconn = cur.connection.pgconn
    take, consume = pgconn.get_copy_data, pgconn.consume_input
    readable = select.poll()
    readable.register(pgconn.socket, select.POLLIN)
    with cur.copy(query):
        block: list[Row] = []
        held_bytes = 0
        while True:
            size, row = take(1)
            if size > 0:
                block.append(row)
                held_bytes += size
                if held_bytes >= COPY_BLOCK_BYTES:
                    yield block
                    block, held_bytes = [], 0
            elif size == 0:  # nothing is buffered
                readable.poll()
                consume()
            else:
                _end(pgconn)
                break
        if block:
            yield block


def rows_in(cur: psycopg.Cursor, query: sql.Composed, blocks: Iterable[Block]) -> None:
    """Sends the rows of `blocks` to a `COPY … FROM STDIN`."""
    with cur.copy(query) as copy:
        for block in blocks:
            copy.write(b"".join(block))


def _end(pgconn: pq.abc.PGconn) -> None:
    """Takes the COPY's final result. Raises as the server says."""
    while (result := pgconn.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result)
