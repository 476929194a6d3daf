"""What is read of a batch at its source: as COPY for another server, as Arrow for the archive. It decides nothing."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import errors, sql

from tierkeeper.kernel.digest import RowDigest
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.ports import Batch, Block, Extent
from tierkeeper.kernel.tables import TableShape
from tierkeeper.mover import model, places
from tierkeeper.mover.places import Arm
from tierkeeper.postgres import met
from tierkeeper.postgres.arrow import in_order
from tierkeeper.postgres.copy import rows_out
from tierkeeper.postgres.link import Link, translate
from tierkeeper.postgres.session import Cursor

if TYPE_CHECKING:
    import pyarrow as pa

_SOURCES: Final = (errors.DataError, errors.ProgrammingError, errors.RaiseException, errors.DiskFull)
"""What is told here, for where the rows go it would be taken for that server's: bytes that are no text, a full disk."""


def copy_out(arms: Sequence[Arm], shape: TableShape, columns: Sequence[str], binary: bool) -> sql.Composed:
    """COPY of `columns` of the arms' rows."""
    query = sql.SQL("COPY ({}) TO STDOUT").format(places.rows(arms, model.sent(shape, columns)))
    return query + sql.SQL(" (FORMAT binary)") if binary else query


@dataclass(frozen=True)
class Snapshot:
    """S1: implements `kernel.ports.SourceSnapshot` inside one REPEATABLE READ, READ ONLY transaction."""

    link: Link
    cursor: Cursor
    shape: TableShape
    batch: Batch
    extent: Extent
    arms: Sequence[Arm]
    ends: bool = True

    def copy(self, columns: Sequence[str], *, binary: bool, digest: RowDigest | None = None) -> Generator[Block]:
        query = copy_out(self.arms, self.shape, columns, binary)
        try:
            with closing(rows_out(self.cursor, query, binary=binary, digest=digest)) as blocks:
                yield from islice(blocks, 1)
                reach(Point.SOURCE_READ)
                yield from blocks
        except _SOURCES as error:
            raise translate(error, f"{self.batch.table} ({self.link.tier})") from error
        except psycopg.Error as error:
            met.note(error, self.link.label)
            raise

    @contextmanager
    def arrow(self, projection: Sequence[tuple[str, str]], order_by: Sequence[str]) -> Iterator["pa.RecordBatchReader"]:
        columns = sql.SQL(", ").join(sql.SQL("{} AS {}").format(sql.SQL(e), sql.Identifier(name)) for name, e in projection)
        rows = places.rows(self.arms, model.names([c.name for c in self.shape.columns]))
        query = sql.SQL("SELECT {} FROM ({}) AS kept ORDER BY {}").format(columns, rows, model.names(order_by))
        text = query.as_string(self.cursor)
        with in_order(self.cursor, sql.SQL(text), f"tiers.{self.link.tier} ({self.link.shown})") as reader:
            reach(Point.SOURCE_READ)
            yield reader

    def close(self) -> None:
        if self.ends:
            self.cursor.connection.end_reading()
