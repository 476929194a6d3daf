"""COPY at the speed of libpq: rows out one by one, blocks in.

psycopg's own reader asks the event loop for each row, which costs more than reading it. This one takes what libpq has
buffered directly and asks psycopg only to wait for more.
"""

from collections.abc import Generator, Iterable

import psycopg
from psycopg import errors, pq, sql

from tierkeeper.kernel.limits import COPY_BLOCK_BYTES

Row = bytes | bytearray | memoryview


def rows_out(cur: psycopg.Cursor, query: sql.Composed) -> Generator[Row]:
    """The rows of a `COPY … TO STDOUT`, one a block; a binary header rides with the first, its trailer comes alone.

    Close it when you stop early: that cancels the COPY and leaves the connection usable.
    """
    pgconn = cur.connection.pgconn
    with cur.copy(query) as copy:
        while True:
            size, data = pgconn.get_copy_data(1)
            if size > 0:
                yield data
            elif size == 0:  # nothing is buffered
                waited = copy.read()
                if not waited:
                    return
                yield waited
            else:
                _end(pgconn)
                return


def rows_in(cur: psycopg.Cursor, query: sql.Composed, rows: Iterable[Row]) -> None:
    """Sends `rows` to a `COPY … FROM STDIN` in large blocks."""
    with cur.copy(query) as copy:
        block, held_bytes = [], 0
        for row in rows:
            block.append(row)
            held_bytes += len(row)
            if held_bytes >= COPY_BLOCK_BYTES:
                copy.write(b"".join(block))
                block, held_bytes = [], 0
        copy.write(b"".join(block))


def _end(pgconn: pq.abc.PGconn) -> None:
    """Takes the COPY's final result. Raises as the server says."""
    while (result := pgconn.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result)
