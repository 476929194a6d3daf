"""Postgres's own form of values that came as its text: what to send where its servers would have to read that text.

Pure but for the memory it uses. Values are turned by the column; one by one only those that Arrow does not know.
"""

import re
from array import array
from binascii import unhexlify
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

OWN_FORM: Final = frozenset({"date", "jsonb", "timestamp", "timestamptz", "uuid"})
"""Types that `own_form` knows; their text is the one under the pinned settings."""

EPOCH_DAYS: Final = 10_957  # from Arrow's first day, 1970, to that of Postgres, 2000
EPOCH_MICROSECONDS: Final = EPOCH_DAYS * 86_400_000_000
_TIMES: Final = {"date": pa.date32(), "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC")}
_JSONB_VERSION: Final = b"\1"
_ZERO_UUID: Final = b"00000000-0000-0000-0000-000000000000"
_ORDINARY: Final = r"^\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d{1,6})?(\+00)?)?$"
_ANY_TIME: Final = re.compile(r"(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:\+00)?)?( BC)?", re.ASCII)


def own_form(column: pa.Array, type_: str) -> tuple[pa.Array, bytes]:
    """What to send of the values of `column` if they are text of a type in OWN_FORM, else as they are; and bytes ahead of each.

    Times come as the integers that Postgres has of them. Raises ValueError for a text that is no such value.
    """
    if not pa.types.is_string(column.type) or type_ not in OWN_FORM:
        return column, b""
    if type_ == "jsonb":
        return column, _JSONB_VERSION
    return (_uuids(column) if type_ == "uuid" else _times(column, _TIMES[type_])), b""


def _uuids(column: pa.Array) -> pa.Array:
    """Their 16 bytes, of 32 digits and four dashes."""
    filled = column.fill_null(_ZERO)
    ends = pc.min_max(pc.binary_length(filled))
    digits = _text(filled).translate(None, b"-")
    if not ends["min"].as_py() == ends["max"].as_py() == len(_ZERO_UUID) or len(digits) != 32 * len(column):
        raise ValueError("a text that is no uuid")
    kind = pa.binary(16)
    uuids = pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(unhexlify(digits))])
    return pc.if_else(column.is_valid(), uuids, pa.nulls(1, kind)[0]) if column.null_count else uuids


def _times(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Days, or microseconds, since 2000."""
    try:
        return _since_2000(column.cast(kind))
    except pa.ArrowInvalid:  # infinity, or a year that Arrow does not read
        ordinary = pc.match_substring_regex(column, _ORDINARY)
    known = _since_2000(pc.if_else(ordinary, column, pa.nulls(1, column.type)[0]).cast(kind))
    odd = pc.and_not(column.is_valid(), ordinary.fill_null(True))
    values = array("i" if pa.types.is_date(kind) else "q", (_odd(text, kind) for text in column.filter(odd).to_pylist()))
    return pc.replace_with_mask(known, odd, pa.Array.from_buffers(known.type, len(values), [None, pa.py_buffer(values)]))


def _since_2000(times: pa.Array) -> pa.Array:
    is_date = pa.types.is_date(times.type)
    numbers = times.view(pa.int32() if is_date else pa.int64())
    epoch = array("i", [EPOCH_DAYS]) if is_date else array("q", [EPOCH_MICROSECONDS])
    return pc.subtract(numbers, pa.Array.from_buffers(numbers.type, 1, [None, pa.py_buffer(epoch)])[0])


def _odd(text: str, kind: pa.DataType) -> int:
    greatest = (1 << int(kind.bit_width) - 1) - 1
    if text in ("infinity", "-infinity"):
        return greatest if text == "infinity" else -greatest - 1
    found = _ANY_TIME.fullmatch(text)
    if found is None:
        raise ValueError("a text that is no time")
    year, month, day, hour, minute, second = (int(found[n] or 0) for n in range(1, 7))
    days = _days(1 - year if found[8] else year, month, day) - EPOCH_DAYS
    if pa.types.is_date(kind):
        return days
    return ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + int((found[7] or "").ljust(6, "0"))


def _days(year: int, month: int, day: int) -> int:
    """Since 1970, in the calendar of today, whose years begin in March here so that the leap day is the last."""
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)  # noqa: PLR2004 - February
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - 719_468


def _text(column: pa.Array) -> bytes:
    _, offsets, values = column.buffers()
    ends = memoryview(offsets).cast("B").cast("i")
    return bytes(memoryview(values).cast("B")[ends[column.offset] : ends[column.offset + len(column)]])


_ZERO: Final = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(array("i", [0, len(_ZERO_UUID)])), pa.py_buffer(_ZERO_UUID)]
)[0]
