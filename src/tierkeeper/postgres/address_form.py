"""inet and cidr in Postgres's own form, of their text: addresses of four bytes by the column, those of sixteen one by one.

Pure.
"""

import socket
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tierkeeper.postgres.columns import Numbers, chosen, of_one_length, placed, spans, with_nulls_of

_FAMILY_4, _FAMILY_6 = 2, 3
_BYTES_4, _BYTES_6 = 4, 16
_NINE, _SLASH, _COLON = b"9/:"
_BITS_4: Final = 32
_BYTE: Final = 256
_NUMBERS: Final = (_BYTES_4, _BYTES_4 + 1)  # without and with how many bits count
_MOST_DIGITS: Final = 3  # of a byte


def addresses(column: pa.Array, type_: str) -> pa.Array:
    """What `inet_recv` and `cidr_recv` read. Raises ValueError for a text that is no address as Postgres writes it."""
    values = column.drop_null()
    text, ends = spans(values)
    is_long = np.zeros(len(values), np.bool_)
    is_long[np.searchsorted(ends, np.flatnonzero(text == _COLON), "right") - 1] = True
    short, long = np.flatnonzero(~is_long), np.flatnonzero(is_long)
    parts = []
    if len(short):
        text, ends = spans(chosen(values, short))
        parts.append((short, of_one_length(_short(text, ends, type_ == "cidr"))))
    if len(long):
        made = b"".join(_long(one, type_ == "cidr") for one in chosen(values, long).to_pylist())
        parts.append((long, of_one_length(np.frombuffer(made, np.uint8).reshape(len(long), -1))))
    return with_nulls_of(column, placed(parts, len(values)))


def _short(text: NDArray[np.uint8], ends: Numbers, is_cidr: bool) -> NDArray[np.uint8]:
    """`a.b.c.d` or `a.b.c.d/bits`: each number ends before a byte that is no digit, or where its value does."""
    rows = len(ends) - 1
    stops = np.flatnonzero(np.append(text, 0) <= _SLASH)
    last = np.zeros(len(text) + 1, np.bool_)
    last[stops] = last[ends[1:]] = True
    upto = np.flatnonzero(last)
    last[:] = True
    last[ends] = False
    begins = np.concatenate([[0], upto[:-1] + last[upto[:-1]]])  # a value's end is the next one's beginning, which is a digit
    digits = upto - begins
    of_row = np.searchsorted(upto, ends[1:]) + 1
    numbers = np.diff(of_row, prepend=0)
    fits = len(text) and text.max() <= _NINE and digits.min() > 0 and digits.max() <= _MOST_DIGITS
    if not fits or not np.isin(numbers, _NUMBERS).all():
        raise ValueError("a text that is no address")
    value = np.zeros(len(upto), np.int64)
    for at in range(_MOST_DIGITS):
        value += np.where(digits > at, (text.take(upto - 1 - at, mode="clip").astype(np.int64) - ord("0")) * 10**at, 0)
    if value.max() >= _BYTE or value.min() < 0:
        raise ValueError("a text that is no address")
    first = of_row - numbers
    made = np.empty((rows, 4 + _BYTES_4), np.uint8)
    made[:, 0], made[:, 2], made[:, 3] = _FAMILY_4, is_cidr, _BYTES_4
    made[:, 1] = np.where(numbers > _BYTES_4, value[of_row - 1], _BITS_4)
    for at in range(_BYTES_4):
        made[:, 4 + at] = value[first + at]
    return made


def _long(text: str, is_cidr: bool) -> bytes:
    address, _, bits = text.partition("/")
    try:
        raw = socket.inet_pton(socket.AF_INET6, address)
        return bytes([_FAMILY_6, int(bits or 8 * _BYTES_6), is_cidr, _BYTES_6]) + raw
    except OSError:
        raise ValueError("a text that is no address") from None
