"""Rows between Arrow and Postgres's own text (CSV), without losing a bit: both ways, a block of whole rows at a time.

Pure but for the memory it uses; whoever calls it has the connection or the file.
"""

import io
from collections.abc import Sequence
from typing import Final

import psycopg
import pyarrow as pa
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


def schema(columns: Sequence[tuple[str, int]]) -> pa.Schema:
    """The Arrow schema of a result whose columns have these names and types (object ids). Raises ValueError for other types."""
    known = psycopg.adapters.types
    types = {known[name].oid: type_ for name, type_ in _ARROW.items()}
    if other := next((name for name, oid in columns if oid not in types), None):
        raise ValueError(f"column {other!r} has a type whose text Arrow does not read")
    return pa.schema([pa.field(name, types[oid]) for name, oid in columns])


def to_csv(batch: pa.RecordBatch, *, quote_all: bool = True) -> bytes:
    """Rows as COPY … (FORMAT csv) takes them: texts are quoted and no NULL is, so that '' and NULL stay apart.

    `quote_all`: so are all other values, as some readers want it; Postgres takes them sooner without.
    """
    out = io.BytesIO()
    style = "all_valid" if quote_all else "needed"
    csv.write_csv(batch, out, csv.WriteOptions(include_header=False, quoting_style=style))
    return out.getvalue()


def in_utc(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same instants without their zone, for a session whose TimeZone is UTC: to write the zone costs ten times the rest."""
    columns = [c.cast(pa.timestamp(c.type.unit)) if getattr(c.type, "tz", None) == "UTC" else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def header(schema: pa.Schema) -> bytes:
    """The names, quoted, as a CSV line."""
    return (",".join('"' + name.replace('"', '""') + '"' for name in schema.names) + "\n").encode()


def from_csv(block: bytes | bytearray | memoryview, schema: pa.Schema) -> pa.RecordBatch:
    """Whole CSV rows, written by `to_csv` or by Postgres with FORCE_QUOTE, as one record batch of exactly `schema`."""
    table = csv.read_csv(
        pa.BufferReader(block),
        csv.ReadOptions(column_names=schema.names, block_size=len(block) + 1, use_threads=False),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
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
