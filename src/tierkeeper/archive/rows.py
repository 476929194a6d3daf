"""Rows between Arrow and Postgres's own text (CSV), without losing a bit: both ways, a block of whole rows at a time.

Pure but for the memory it uses; whoever calls it has the connection or the file.
"""

import io
from collections.abc import Iterable, Iterator
from typing import Final

import pyarrow as pa
from pyarrow import csv

_BLOCK_BYTES: Final = 2**20  # rows are gathered to about this much before they are parsed


def to_csv(batch: pa.RecordBatch) -> bytes:
    """Rows as COPY … (FORMAT csv) takes them. Every value is quoted and no NULL is, so that '' and NULL stay apart."""
    out = io.BytesIO()
    csv.write_csv(batch, out, csv.WriteOptions(include_header=False, quoting_style="all_valid"))
    return out.getvalue()


def header(schema: pa.Schema) -> bytes:
    """The names, quoted, as a CSV line."""
    return (",".join('"' + name.replace('"', '""') + '"' for name in schema.names) + "\n").encode()


def from_csv(block: bytes, schema: pa.Schema) -> pa.RecordBatch:
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


def gathered(rows: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks of whole rows, so that the longest row, and not the table, bounds the memory."""
    held: list[bytes] = []
    size_bytes = 0
    for row in rows:
        held.append(row)
        size_bytes += len(row)
        if size_bytes >= _BLOCK_BYTES:
            yield b"".join(held)
            held, size_bytes = [], 0
    if held:
        yield b"".join(held)
