"""Rows between Arrow and Postgres's own text (CSV), without losing a bit: both ways, a block of whole rows at a time.

Pure but for the memory it uses; whoever calls it has the connection or the file.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from pyarrow import csv

_ARROW: Final = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "text": pa.string(),
    "varchar": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
"""Types whose text under the pinned settings Arrow reads bit for bit; of dates and times those of the years 1 to 9999."""

_COMMAS: Final = (",", '"')
_SELDOM: Final = ("\x1f", "\x1e")
COPY_TEXT: Final = sql.SQL("FORMAT csv, DELIMITER {}, QUOTE {}").format(*map(sql.Literal, _SELDOM))
"""How rows come from a server: as CSV, by marks that hardly any text has, since most JSON and arrays have commas and quotes.
What has them is quoted, and each quote in it doubled there and halved here.
"""


def schema(columns: Sequence[tuple[str, int]]) -> pa.Schema:
    """The Arrow schema of a result whose columns have these names and types (object ids): of other types, their text."""
    known = psycopg.adapters.types
    types = {known[name].oid: type_ for name, type_ in _ARROW.items()}
    return pa.schema([pa.field(name, types.get(oid, pa.string())) for name, oid in columns])


def to_csv(batch: pa.RecordBatch) -> bytes:
    """Rows as COPY … (FORMAT csv) takes them. Every value is quoted and no NULL is, so that '' and NULL stay apart."""
    return _written(batch, "all_valid")


def to_copy(batch: pa.RecordBatch) -> bytes:
    """The same rows for COPY under the pinned settings, with as few quotes and digits as it takes: Postgres reads them sooner."""
    short = pa.RecordBatch.from_arrays([_short(c) for c in batch.columns], names=batch.schema.names)
    # Without a quote '' would be NULL, and a line that is nothing but \\. the end.
    if short.num_columns > 1 and not any(_has_empty(c) for c in short.columns):
        with suppress(pa.ArrowInvalid):  # a comma, a quote or the end of a line in a value
            return _written(short, "none")
    return _written(short, "needed")


def _written(batch: pa.RecordBatch, style: str) -> bytes:
    out = io.BytesIO()
    csv.write_csv(batch, out, csv.WriteOptions(include_header=False, quoting_style=style))
    return out.getvalue()


def _short(column: pa.Array) -> pa.Array:
    """Times without their zone, which is UTC in the session (to write it costs ten times the rest), and without zeros behind
    the second.
    """
    if not pa.types.is_timestamp(column.type):
        return column
    try:
        return column.cast(pa.timestamp("s"))
    except pa.ArrowInvalid:
        return column.cast(pa.timestamp("us"))


def _has_empty(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) and pc.min(pc.binary_length(column)).as_py() == 0)


def header(schema: pa.Schema) -> bytes:
    """The names, quoted, as a CSV line."""
    return (",".join('"' + name.replace('"', '""') + '"' for name in schema.names) + "\n").encode()


def from_csv(block: bytes | bytearray | memoryview, schema: pa.Schema) -> pa.RecordBatch:
    """Whole rows that `to_csv` has written as one record batch of exactly `schema`."""
    return _parsed(block, schema, *_COMMAS)


def from_copy(block: bytes | bytearray | memoryview, schema: pa.Schema) -> pa.RecordBatch:
    """Whole rows that Postgres has written under COPY_TEXT as one record batch of exactly `schema`."""
    return _parsed(block, schema, *_SELDOM)


def _parsed(block: bytes | bytearray | memoryview, schema: pa.Schema, delimiter: str, quote: str) -> pa.RecordBatch:
    table = csv.read_csv(
        pa.BufferReader(block),
        csv.ReadOptions(column_names=schema.names, block_size=len(block) + 1, use_threads=False),
        csv.ParseOptions(delimiter=delimiter, quote_char=quote, newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types=schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t", "true"],
            false_values=["f", "false"],
        ),
    )
    return table.combine_chunks().to_batches()[0]
