"""Fields of rows as Postgres's binary form has them, their lengths ahead of them, laid out by the column.

Pure but for the memory it uses. No value is looked at in Python: bytes that every row has at the same place are laid out by the
column, and Arrow puts them together with those whose number differs from row to row.
"""

import sys
from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

EPOCH_DAYS: Final = 10_957  # from Arrow's first day, 1970, to that of Postgres, 2000
EPOCH_MICROSECONDS: Final = EPOCH_DAYS * 86_400_000_000
_NULL: Final = -1  # instead of a length
_LAID_OUT_BYTES: Final = 12  # of a text; a byte laid out in each row takes a tenth of what a further piece of each row does


def together(rows: int, first: bytes, columns: Iterable[tuple[pa.Array, bytes]]) -> pa.Array:
    """What each of `rows` rows is, at least one: `first`, then a field of each of `columns`, whose values have these bytes ahead.

    Types of the columns: bool, int16 to int64, float32, float64, date32, timestamp[us], strings, and bytes, of one length or of
    many, which are sent as they are. Of at least one of `first` and `columns` there is something.
    """
    done, same = list[pa.Array](), _Same()
    same.add(first)
    for values, ahead in columns:
        width = _common_width(values)
        if width is not None:
            same.add((len(ahead) + width).to_bytes(4, "big") + ahead)
            same.put(values)
        else:
            same.put(_lengths(values, len(ahead)))
            if ahead and not values.null_count:
                same.add(ahead)
            done.append(same.of(rows))
            if ahead and values.null_count:
                done.append(_fixed(values.is_valid(), ahead * (rows - values.null_count), len(ahead)))
            done.append(_text(values) if _varies(values.type) else _without_nulls(values))
            same = _Same()
    if same.width:
        done.append(same.of(rows))
    return pc.binary_join_element_wise(*done, _EMPTY) if len(done) > 1 else done[0]


class _Same:
    """Bytes that each row has at the same place, most of them equal in all rows."""

    def __init__(self) -> None:
        self._first = bytearray()
        self._differing: list[tuple[int, bytearray]] = []

    @property
    def width(self) -> int:
        return len(self._first)

    def add(self, constant: bytes) -> None:
        self._first += constant

    def put(self, values: pa.Array) -> None:
        """The bytes of `values`, which are all as many, without NULL; of numbers the most significant one first."""
        text = _varies(values.type)
        body = bytearray(content(_text(values) if text else _as_sent(values)))
        width = len(body) // len(values)
        in_order = text or pa.types.is_fixed_size_binary(values.type) or sys.byteorder == "big"
        for at in range(width) if in_order else reversed(range(width)):
            one = body[at::width]
            if one.count(one[0]) < len(one):
                self._differing.append((len(self._first), one))
            self._first.append(one[0])

    def of(self, rows: int) -> pa.Array:
        body, width = bytearray(bytes(self._first) * rows), self.width
        for at, one in self._differing:
            body[at::width] = one
        return _binary(number(width, rows), body)


def _common_width(column: pa.Array) -> int | None:
    """How many bytes each value has; None where they differ, one is NULL, or they are texts of more than it pays to lay out."""
    if column.null_count:
        return None
    if not _varies(column.type):
        return _width(column.type)
    ends = pc.min_max(pc.binary_length(column))
    least, greatest = ends["min"].as_py(), ends["max"].as_py()
    return int(least) if least == greatest <= _LAID_OUT_BYTES else None


def _varies(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _width(kind: pa.DataType) -> int:
    return 1 if pa.types.is_boolean(kind) else int(kind.bit_width // 8)


def _lengths(column: pa.Array, ahead_bytes: int) -> pa.Array:
    if _varies(column.type):
        lengths = pc.binary_length(column)
        lengths = pc.add(lengths, number(ahead_bytes)[0]) if ahead_bytes else lengths
        return lengths.fill_null(number(_NULL)[0]) if column.null_count else lengths
    return pc.if_else(column.is_valid(), number(_width(column.type))[0], number(_NULL)[0])


def _text(column: pa.Array) -> pa.Array:
    binary = column.cast(pa.binary())
    return binary.fill_null(_EMPTY) if column.null_count else binary


def _without_nulls(column: pa.Array) -> pa.Array:
    """The fixed-width values as bytes, none where there is a NULL."""
    there, width = column.drop_null(), _width(column.type)
    if not len(there):
        return _fixed(column.is_valid(), b"", width)
    same = _Same()
    same.put(there)
    return _fixed(column.is_valid(), content(same.of(len(there))), width)


def _fixed(valid: pa.Array, body: memoryview | bytes, width: int) -> pa.Array:
    """`width` of the bytes of `body` in each valid row, none in the others."""
    return _binary(pc.if_else(valid, number(width)[0], number(0)[0]), body)


def _as_sent(column: pa.Array) -> pa.Array:
    """Values without NULL as numbers of the bits that Postgres gives them."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return column.cast(pa.uint8())
    if pa.types.is_timestamp(kind):
        return pc.subtract(column.view(pa.int64()), number(EPOCH_MICROSECONDS, kind=pa.int64())[0])
    if pa.types.is_date(kind):
        return pc.subtract(column.view(pa.int32()), number(EPOCH_DAYS)[0])
    if pa.types.is_floating(kind) and pc.any(pc.is_nan(column)).as_py():
        return pc.if_else(pc.is_nan(column), _NAN.cast(kind), column)
    return column


def number(value: int, times: int = 1, kind: pa.DataType = pa.int32()) -> pa.Array:  # noqa: B008 - it has no state
    """Made of bytes: of a Python value Arrow makes one only once it has loaded pandas, if that is installed."""
    body = value.to_bytes(kind.bit_width // 8, sys.byteorder, signed=True) * times
    return pa.Array.from_buffers(kind, times, [None, pa.py_buffer(body)])


def _binary(lengths: pa.Array, body: bytearray | memoryview | bytes) -> pa.Array:
    ends = bytes(4) + content(pc.cumulative_sum(lengths))
    return pa.Array.from_buffers(pa.binary(), len(lengths), [None, pa.py_buffer(ends), pa.py_buffer(body)])


def content(array: pa.Array) -> memoryview:
    """The bytes of all values, one after the other."""
    if pa.types.is_binary(array.type):
        _, offsets, values = array.buffers()
        ends = memoryview(offsets).cast("B").cast("i")
        return memoryview(values if values is not None else b"").cast("B")[ends[array.offset] : ends[array.offset + len(array)]]
    width = array.type.bit_width // 8
    return memoryview(array.buffers()[1]).cast("B")[array.offset * width : (array.offset + len(array)) * width]


_EMPTY: Final = pa.Array.from_buffers(pa.binary(), 1, [None, pa.py_buffer(bytes(8)), pa.py_buffer(b"")])[0]
_NAN: Final = pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer((0x7FF8000000000000).to_bytes(8, sys.byteorder))])[0]
