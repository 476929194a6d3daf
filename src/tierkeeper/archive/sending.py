"""Archived rows on their way into a table: in the form that its server has least to do with.

Of what may go in binary it asks the server once; it changes nothing there.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Final

import psycopg
import pyarrow as pa

from tierkeeper.archive.lossless import Carried
from tierkeeper.archive.segment import rows_in
from tierkeeper.kernel.limits import ARRAY_BYTES_MAX, ARROW_BATCH_BYTES, COPY_BLOCK_BYTES
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import rows
from tierkeeper.postgres.statements import load

_TEXT_IN_BINARY: Final = frozenset({"bpchar", "json", "name"})
"""Types, beside those that stay native, that Postgres reads from text alone, and gives back as text, in binary too."""
_SQL: Final = load("tierkeeper.archive", "restore.sql")
_BINARY_BYTES: Final = 4 * COPY_BLOCK_BYTES  # of rows are turned to binary at once, since that is done by the column
_SHORT_BYTES: Final = 64  # of an array's text, on average: to take a longer one apart takes more here than to read it does there

Written = Callable[[Iterator[pa.RecordBatch]], Iterator[bytes | memoryview]]
"""Rows as they are sent."""


class NotTurned(Exception):  # noqa: N818 - whoever sends the rows sends them as text instead
    """A value has no form of its type's own that is known here, or is too large for it to pay."""


def own_types(cur: psycopg.Cursor, carried: Sequence[Carried]) -> list[str] | None:
    """For each column its type if its values are turned to the form that is its own, else ""; None if rows have to go as text.

    They go in binary, which has not to be read there, where its form of all values is what the archive has, the same number or
    the same text, or is made of it here, for which numpy is needed: Lambda's artifacts have no room for it. What a type of
    somebody's own is, its server says.
    """
    if find_spec("numpy") is None:
        return None
    from tierkeeper.postgres.own_form import OWN_FORM

    known = _TEXT_IN_BINARY | OWN_FORM
    others = {c.column.base for c in carried if not c.native and c.column.base not in known}
    if not all("." in base for base in others):
        return None
    asked = {TableName.parse(base, "a type's name") for base in others}
    names = {"schemas": [one.schema for one in asked], "names": [one.name for one in asked]}
    if asked and asked != {TableName(*found) for found in cur.execute(_SQL["read_from_text"], names)}:
        return None
    return ["" if c.native or c.column.base not in OWN_FORM else c.column.base for c in carried]


def in_binary(types: Sequence[str], batches: Iterator[pa.RecordBatch]) -> Iterator[bytes | memoryview]:
    """Raises NotTurned, where arrays are long before the first row. `types`: as `own_types` gives them."""
    from tierkeeper.postgres.binary import HEADER, TRAILER

    yield HEADER
    bound_bytes = _SHORT_BYTES
    for batch in batches:
        for piece in pieces(batch, _BINARY_BYTES):
            yield _turned(piece, types, min(bound_bytes * piece.num_rows, ARRAY_BYTES_MAX))
            bound_bytes = ARRAY_BYTES_MAX
            del piece
        del batch
    yield TRAILER


def _turned(piece: pa.RecordBatch, types: Sequence[str], bound_bytes: int) -> memoryview:
    """`bound_bytes`: of all arrays of a column."""
    if any(t.startswith("_") and c.nbytes > bound_bytes for c, t in zip(piece.columns, types, strict=True)):
        raise NotTurned
    from tierkeeper.postgres.binary import to_binary

    try:
        return to_binary(piece, types)
    except ValueError as error:
        raise NotTurned from error


def as_text(batches: Iterator[pa.RecordBatch]) -> Iterator[bytes | memoryview]:
    """As CSV."""
    for batch in batches:
        yield from map(rows.to_copy, pieces(batch))
        del batch


def is_large(block: bytes | memoryview) -> bool:
    """Much more than it was cut to: a row of many megabytes is in it."""
    return len(block) > ARROW_BATCH_BYTES


def pieces(batch: pa.RecordBatch, size_bytes: int = COPY_BLOCK_BYTES) -> Iterator[pa.RecordBatch]:
    """`batch` in pieces of about `size_bytes`."""
    step = rows_in(batch, size_bytes)
    return (batch.slice(at, step) for at in range(0, batch.num_rows, step))
