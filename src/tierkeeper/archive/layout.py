"""How a segment's columns lie in its Parquet file: as which bytes, in which encodings, with which dictionaries and statistics.

Pure. What it makes of a value it makes back bit for bit; that it did, only the comparison with what the source gave proves.
"""

from array import array as array_of_ends
from binascii import unhexlify
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tierkeeper.archive.lossless import Carried, arrow_schema
from tierkeeper.archive.model import BYTES_VERSION, TEXTS_VERSION, Contents

_NARROW_BITS: Final = 16  # of a number: two planes of bytes
_UUID_BYTES: Final = 16
_UUID_TEXT_BYTES: Final = 36
_NIL: Final = str(UUID(int=0)).encode()
_DASHES: Final = ((4, 40), (28, 39), (32, 38), (36, 37))
"""Of sixteen bytes in hexadecimal, a dash after every second one, the dashes too many: place and length of a row, one by one."""

_NUMBER_WORK: Final = 20  # to read one, its text, or a uuid's: as much as so many bytes of a long text, as measured
_TEXT_WORK: Final = 60
_UUID_WORK: Final = 120


@dataclass(frozen=True)
class Layout:
    """`schema` is the file's; Parquet's `encodings` by column, and which others have dictionaries; which have statistics."""

    schema: pa.Schema
    encodings: dict[str, str]
    dictionaries: list[str]
    statistics: list[str]

    @property
    def version(self) -> int:
        """Of what the file says of itself."""
        return BYTES_VERSION if pa.uuid() in self.schema.types else TEXTS_VERSION


def layout(contents: Contents, first: Sequence[pa.RecordBatch]) -> Layout:
    """For rows that begin like `first`. Least and greatest values have only those columns by which a reader leaves rows out."""
    carried = contents.carried
    encodings = {c.column.name: how for c in carried if (how := _encoding(c, contents, first)) is not None}
    pruned = list(dict.fromkeys(n for n in (contents.age, *contents.shape.key) if n))
    short = [c.column.name for c in carried if c.column.name not in encodings and _repeats(first, c)]
    return Layout(stored_schema(carried), encodings, short, pruned)


def stored_schema(carried: Sequence[Carried]) -> pa.Schema:
    """What the file has: a uuid, whose text Postgres writes in one way only, as its sixteen bytes."""
    schema = arrow_schema(carried)
    return pa.schema([f.with_type(pa.uuid()) if _is_uuid(c) else f for c, f in zip(carried, schema, strict=True)])


def stored(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`batch` as the file has it. Raises ValueError for a text that is no uuid."""
    columns = [_bytes_of_uuids(a) if f.type == pa.uuid() else a for a, f in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def carried_again(array: pa.Array) -> pa.Array:
    """A column of the file as it came."""
    return _text_of_uuids(array.storage) if array.type == pa.uuid() else array


def uuid_told(raw: bytes) -> str:
    """A uuid of a file's statistics: older files have its text. Both sort alike."""
    return str(UUID(bytes=raw)) if len(raw) == _UUID_BYTES else raw.decode()


def shares(file: pq.FileMetaData, schema: pa.Schema, names: Sequence[str], count: int) -> list[list[str]]:
    """The columns `names` in at most `count` shares, none of them empty, that take about as long to read and to digest each.

    `schema` is the file's. In a share the columns are in the order of `names`.
    """
    groups = [file.row_group(g) for g in range(file.num_row_groups)]
    work = dict.fromkeys(names, 0)
    for index in range(file.num_columns):
        name = file.schema.column(index).path
        if name in work:
            kind = schema.field(name).type
            each = _UUID_WORK if kind == pa.uuid() else _TEXT_WORK if pa.types.is_string(kind) else _NUMBER_WORK
            work[name] = file.num_rows * each + sum(g.column(index).total_uncompressed_size for g in groups)
    made: list[list[str]] = [[] for _ in range(min(count, len(names)))]
    loads = [0] * len(made)
    for name in sorted(names, key=lambda name: -work[name]):
        least = loads.index(min(loads))
        made[least].append(name)
        loads[least] += work[name]
    return [[name for name in names if name in some] for some in made]


def _is_uuid(carried: Carried) -> bool:
    return carried.column.base == "uuid" and not carried.native


def _encoding(carried: Carried, contents: Contents, first: Sequence[pa.RecordBatch]) -> str | None:
    """How a column's values are laid out if not by a dictionary, whose making takes longer than all the rest of the writing.

    Neighbours of a sorted column differ by small numbers. Of other numbers all first bytes lie together, then all second ones:
    smaller than a dictionary where most values differ, and nowhere much larger for those of two bytes.
    """
    name, kind = carried.column.name, carried.type
    if carried.delta and name in (contents.age, *contents.shape.key):
        return "DELTA_BINARY_PACKED"
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    if kind.bit_width > _NARROW_BITS and _repeats(first[:1], carried):
        return None
    return "BYTE_STREAM_SPLIT"


def _repeats(rows: Sequence[pa.RecordBatch], carried: Carried) -> bool:
    """Whether a dictionary of the column's values is much shorter than they are: another is made in vain, and is large."""
    name = carried.column.name
    seen = pa.chunked_array([b.column(name) for b in rows], carried.type)
    return bool(pc.count_distinct(seen).as_py() * 2 < len(seen))


def _bytes_of_uuids(array: pa.Array) -> pa.Array:
    filled = array.fill_null(pa.Array.from_buffers(array.type, 1, [None, _ends(1), pa.py_buffer(_NIL)])[0])
    _, ends, values = filled.buffers()
    places = memoryview(ends).cast("B").cast("i")[filled.offset : filled.offset + len(array) + 1] if len(array) else [0, 0]
    body = unhexlify(memoryview(values or b"")[places[0] : places[-1]].tobytes().translate(None, b"-"))
    if len(body) != len(array) * _UUID_BYTES:
        raise ValueError("a uuid of another length than sixteen bytes")
    made = pa.Array.from_buffers(pa.binary(_UUID_BYTES), len(array), [None, pa.py_buffer(body)])
    return pa.ExtensionArray.from_storage(pa.uuid(), _with_nulls_of(array, made))


def _text_of_uuids(array: pa.Array) -> pa.Array:
    values, start = array.buffers()[1], array.offset * _UUID_BYTES
    body = memoryview(values if values is not None else b"")[start : start + len(array) * _UUID_BYTES]
    text = bytearray(body.hex("-", 2).encode() + b"-") if len(array) else bytearray()
    for place, length in _DASHES:
        del text[place::length]
    made = pa.Array.from_buffers(pa.string(), len(array), [None, _ends(len(array)), pa.py_buffer(bytes(text))])
    return _with_nulls_of(array, made)


def _with_nulls_of(array: pa.Array, made: pa.Array) -> pa.Array:
    return pc.if_else(array.is_valid(), made, pa.nulls(1, made.type)[0]) if array.null_count else made


def _ends(rows: int) -> pa.Buffer:
    """Where each of so many texts of a uuid's length begins, and the last ends."""
    return _at_least_so_many_ends(1 << rows.bit_length()).slice(0, (rows + 1) * 4)


@cache
def _at_least_so_many_ends(rows: int) -> pa.Buffer:
    """To make them anew takes as long as to make the texts."""
    return pa.py_buffer(array_of_ends("i", range(0, (rows + 1) * _UUID_TEXT_BYTES, _UUID_TEXT_BYTES)))
