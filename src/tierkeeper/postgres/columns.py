"""Columns of text as numbers of numpy's, and what was made of them as columns again.

Pure, and free of Arrow's own ways from and to Python: they load pandas, if that is installed.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Body = bytes | bytearray | memoryview | NDArray[np.uint8]
_END_BITS: Final = 31  # of where a value ends in a column


def spans(column: pa.Array) -> tuple[NDArray[np.uint8], Numbers]:
    """The bytes of all values, none of which is NULL, one after the other; and where each begins, the last one more: its end."""
    _, offsets, values = column.buffers()
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4).astype(np.int64)
    text = np.frombuffer(values if values is not None else b"", np.uint8)[ends[0] : ends[-1]]
    return text, ends - ends[0]


def bytes_of(ends: NDArray[Any], body: Body, kind: pa.DataType | None = None) -> pa.Array:
    """The column that `spans` would give so. Raises ValueError where its end lies too far for Arrow to count."""
    if ends[-1] >> _END_BITS:
        raise ValueError("more than two gigabytes of values at once")
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(body)]
    return pa.Array.from_buffers(kind or pa.binary(), len(ends) - 1, buffers)


def of_one_length(values: NDArray[np.uint8]) -> pa.Array:
    """A column of the rows of `values`."""
    return pa.Array.from_buffers(pa.binary(values.shape[1]), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def with_nulls_of(column: pa.Array, made: pa.Array) -> pa.Array:
    """`made` of the values of `column` that are none, and NULL where it has one."""
    if not column.null_count:
        return made
    return placed([(np.flatnonzero(flags(column.is_valid())), made)], len(column))


def placed(parts: Sequence[tuple[Numbers, pa.Array]], rows: int) -> pa.Array:
    """A column of `rows` values, of each part at these places, and NULL elsewhere."""
    if len(parts) == 1 and len(parts[0][0]) == rows:
        return parts[0][1]
    kinds = {made.type for _, made in parts}
    made = pa.concat_arrays([one if len(kinds) == 1 else one.cast(pa.binary()) for _, one in parts])
    source = np.full(rows, -1, np.int32)
    source[np.concatenate([places for places, _ in parts])] = np.arange(len(made), dtype=np.int32)
    there = np.packbits(source >= 0, bitorder="little")
    return made.take(pa.Array.from_buffers(pa.int32(), rows, [pa.py_buffer(there), pa.py_buffer(source)]))


def chosen(column: pa.Array, places: Numbers) -> pa.Array:
    """The values at these places."""
    if len(places) == len(column):
        return column
    return column.take(pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places)]))


def flags(truths: pa.Array) -> NDArray[np.bool_]:
    """A column of true and false."""
    bits = np.frombuffer(truths.buffers()[1], np.uint8)
    return np.unpackbits(bits, count=truths.offset + len(truths), bitorder="little")[truths.offset :].astype(np.bool_)


def texts(values: Sequence[str]) -> pa.Array:
    """A column of few texts."""
    encoded = [value.encode() for value in values]
    return bytes_of(np.cumsum([0, *map(len, encoded)]), b"".join(encoded), pa.string())
