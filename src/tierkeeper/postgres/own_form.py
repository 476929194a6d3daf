"""Postgres's own form of values that came as its text: what to send where its servers would have to read that text.

Pure but for the memory it uses. Values are turned by the column; one by one only those that Arrow does not know. Other types than
those of OWN_FORM go as text: numbers of objects (reg*) and what holds values of types that have other numbers on every server
(arrays of enums, composites, ranges); xml, which Postgres reads in the encoding that it says it has; json within arrays, whose
text is all escapes; interval, timetz, money, bits, "char" and what few tables have.
"""

import re
from array import array
from binascii import unhexlify
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tierkeeper.postgres.address_form import addresses
from tierkeeper.postgres.array_form import ELEMENTS, arrays
from tierkeeper.postgres.columns import bytes_of, spans, texts, with_nulls_of
from tierkeeper.postgres.fields import EPOCH_DAYS, EPOCH_MICROSECONDS
from tierkeeper.postgres.numeric_form import numerics

_TIMES: Final = {"date": pa.date32(), "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC")}
_HEXADECIMAL: Final = {"macaddr": (6, b":"), "macaddr8": (8, b":"), "uuid": (16, b"-")}
"""How many bytes a value has, and what stands between their digits."""

OWN_FORM: Final = frozenset(
    {"bytea", "cidr", "inet", "jsonb", "numeric", "oid", "time", *_TIMES, *_HEXADECIMAL, *(f"_{one}" for one in ELEMENTS)}
)
"""Types that `own_form` knows; their text is the one under the pinned settings."""

_LAST_OF_DAY: Final = "24:00:00"
_DAY_MICROSECONDS: Final = 86_400_000_000
_JSONB_VERSION: Final = b"\1"
_ORDINARY: Final = r"^\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d{1,6})?(\+00)?)?$"
_ANY_TIME: Final = re.compile(r"(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:\+00)?)?( BC)?", re.ASCII)


def own_form(column: pa.Array, type_: str) -> tuple[pa.Array, bytes]:
    """What to send of the values of `column` if they are text of a type in OWN_FORM, else as they are; and bytes ahead of each.

    Times and numbers come as the integers that Postgres has of them, all else as the bytes that it reads. Raises ValueError for a
    text that is no such value.
    """
    if not pa.types.is_string(column.type) or type_ not in OWN_FORM or column.null_count == len(column):
        return column, b""
    if type_ == "jsonb":
        return column, _JSONB_VERSION
    return _turned(column, type_), b""


def _turned(column: pa.Array, type_: str) -> pa.Array:
    if type_ in _TIMES:
        return _times(column, _TIMES[type_])
    if type_ in _HEXADECIMAL:
        return _hexadecimal(column, type_)
    if type_.startswith("_"):
        return arrays(column, type_.removeprefix("_"), own_form)
    if type_ in ("cidr", "inet"):
        return addresses(column, type_)
    return {"bytea": _bytea, "numeric": numerics, "oid": _oids, "time": _clock}[type_](column)


def _oids(column: pa.Array) -> pa.Array:
    return column.cast(pa.uint32()).view(pa.int32())


def _clock(column: pa.Array) -> pa.Array:
    """Microseconds since midnight; the last of them belongs to no day that Arrow knows."""
    is_last = pc.equal(column, texts([_LAST_OF_DAY])[0])
    times = pc.binary_join_element_wise(texts(["1970-01-01"])[0], column, texts([" "])[0])
    known = pc.if_else(is_last, texts(["1970-01-02 00:00:00"])[0], times).cast(pa.timestamp("us")).view(pa.int64())
    if pc.max(known).as_py() > _DAY_MICROSECONDS:
        raise ValueError("a text that is no time")
    return known


def _hexadecimal(column: pa.Array, type_: str) -> pa.Array:
    """Their bytes, of two digits each and what stands between them at the same places in each."""
    (size, between), values = _HEXADECIMAL[type_], column.drop_null()
    text, _ = spans(values)
    digits = text.tobytes().translate(None, between)
    ends = pc.min_max(pc.binary_length(values))
    length = 2 * size + (4 if type_ == "uuid" else size - 1)
    if not ends["min"].as_py() == ends["max"].as_py() == length or len(digits) != 2 * size * len(values):
        raise ValueError(f"a text that is no {type_}")
    made = pa.Array.from_buffers(pa.binary(size), len(values), [None, pa.py_buffer(unhexlify(digits))])
    return with_nulls_of(column, made)


def _bytea(column: pa.Array) -> pa.Array:
    """Of `\\x` and two digits a byte."""
    values = column.drop_null()
    text, ends = spans(values)
    digits = text.tobytes().translate(None, b"\\x")
    if len(digits) != len(text) - 2 * len(values) or not pc.all(pc.starts_with(values, "\\x")).as_py():
        raise ValueError("a text that is no bytea")
    return with_nulls_of(column, bytes_of((ends - 2 * np.arange(len(ends))) // 2, unhexlify(digits)))


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
