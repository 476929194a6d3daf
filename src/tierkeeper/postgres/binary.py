"""Rows of Arrow as `COPY … (FORMAT binary)` carries them: what is sent, and what has to come back.

Pure but for the memory it uses.
"""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from tierkeeper.postgres.fields import content, together
from tierkeeper.postgres.own_form import own_form

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"


def to_binary(batch: pa.RecordBatch, types: Sequence[str] = ()) -> memoryview:
    """The rows of `batch`, at least one of at least one column, between HEADER and TRAILER.

    Its types: bool, int16 to int64, float32, float64, string, date32, timestamp[us]; ages are Postgres's own, and NaN is the one
    that it writes itself. `types`: of its columns in Postgres, where a string of one in OWN_FORM is its text, as Postgres writes
    it; of other types it goes as it is. Raises ValueError for a text that is no such value.
    """
    columns = (own_form(column, type_) for column, type_ in zip(batch.columns, types or [""] * batch.num_columns, strict=True))
    return content(together(batch.num_rows, batch.num_columns.to_bytes(2, "big"), columns))
