"""numeric in Postgres's own form, of its text: digits to the base of 10,000 about the decimal point, sign and scale.

Pure. All values of a column at once, a place of a digit after the other: nothing is rounded, and a scale stays what it is.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tierkeeper.postgres.columns import Numbers, bytes_of, chosen, flags, of_one_length, placed, spans, texts, with_nulls_of

_FIRST_DIGITS: Final = 16  # on one side of the point at most; four times as many in the next class of values, and so on
_DIGITS: Final = 4  # of ten in one of Postgres's
_BASE: Final = 10**_DIGITS
_FEW: Final = 3  # of Postgres's digits behind the point leave some of an integer of 64 bits for before it
_INT64_DIGITS: Final = 18
_HEAD_BYTES: Final = 8  # how many digits, what the first is worth, sign, and digits behind the point to be shown
_NEGATIVE: Final = 0x40
_SPECIAL: Final = {"NaN": 0xC0, "Infinity": 0xD0, "-Infinity": 0xF0}
_ZERO, _MINUS, _POINT = b"0-."


def numerics(column: pa.Array) -> pa.Array:
    """What `numeric_recv` reads. Raises ValueError for a text that is no numeric as Postgres writes it.

    Values of very different length are turned in classes, so that the longest does not say how long all of them get. Zeros
    that a shorter one has for it Postgres drops.
    """
    values = column.drop_null()
    text, ends = spans(values)
    strange = text.tobytes().translate(None, b"0123456789.-")
    made = None if strange else _few_digits(text, ends)
    if made is None:
        made = placed(_parts(values, np.arange(len(values))) if not strange else _with_special(values), len(values))
    return with_nulls_of(column, made)


def _few_digits(text: NDArray[np.uint8], ends: Numbers) -> pa.Array | None:
    """Values that are integers of 64 bits once the point of each is where that of the longest scale is; None if one is not."""
    scale = _scales(text, ends)
    behind = -(-int(scale.max()) // _DIGITS)
    if behind > _FEW:
        return None
    upto = ends.copy()
    np.subtract(upto[1:], np.cumsum(scale > 0), out=upto[1:])
    try:
        shown = bytes_of(upto, text.tobytes().translate(None, b"."), pa.string()).cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    value = np.frombuffer(shown.buffers()[1], np.int64, len(shown))
    negative = value < 0
    value = np.abs(value)
    if int(value.min()) < 0:  # the least of them has no opposite
        return None
    if int(scale.min()) < behind * _DIGITS:
        if int(value.max()) >= 10 ** (_INT64_DIGITS - _DIGITS * behind):
            return None
        value = value * (10 ** np.arange(_DIGITS * behind + 1))[_DIGITS * behind - scale]
    groups = list[NDArray[np.uint16]]()
    greatest = int(value.max())
    while greatest or len(groups) <= behind:
        left = value // _BASE
        groups.append((value - left * _BASE).astype(np.uint16))
        value, greatest = left, greatest // _BASE
    return of_one_length(_written(groups[::-1], len(groups) - behind, scale, negative))


def _with_special(values: pa.Array) -> list[tuple[Numbers, pa.Array]]:
    """Where some are no numbers."""
    is_special = flags(pc.is_in(values, value_set=texts(list(_SPECIAL))))
    special, ordinary = np.flatnonzero(is_special), np.flatnonzero(~is_special)
    heads = np.zeros((len(special), _HEAD_BYTES), np.uint8)
    heads[:, 4] = [_SPECIAL[one] for one in chosen(values, special).to_pylist()]
    parts = [(special, of_one_length(heads))] if len(special) else []
    return parts + (_parts(chosen(values, ordinary), ordinary) if len(ordinary) else [])


def _parts(values: pa.Array, places: Numbers) -> list[tuple[Numbers, pa.Array]]:
    """Finite values, by the class of their length, and where each of them lies."""
    text, ends = spans(values)
    if not np.diff(ends).all():
        raise ValueError("a text that is no numeric")
    negative = text[ends[:-1]] == _MINUS
    scale = _scales(text, ends)
    lengths = np.diff(ends) - negative - (scale > 0)
    digits = np.frombuffer(text.tobytes().translate(None, b"-."), np.uint8)
    before = lengths - scale
    if int(lengths.sum()) != len(digits) or int(before.min()) < 1 or text.tobytes().translate(None, b"0123456789.-"):
        raise ValueError("a text that is no numeric")
    digits_from = np.cumsum(lengths) - scale  # the point of each
    longest, done, bound = np.maximum(before, scale), list[tuple[Numbers, pa.Array]](), _FIRST_DIGITS
    left = np.arange(len(values))
    while len(left):
        fits = longest[left] <= bound
        now, left = left[fits], left[~fits]
        bound *= 4
        if len(now):
            made = _turned(digits, digits_from[now], before[now], scale[now], negative[now])
            done.append((places[now], of_one_length(made)))
    return done


def _scales(text: NDArray[np.uint8], ends: Numbers) -> Numbers:
    """How many digits each has behind the point. Raises ValueError where a text has two of these, or nothing behind it."""
    points = np.flatnonzero(text == _POINT)
    if len(points) == len(ends) - 1 and (points > ends[:-1]).all() and (points < ends[1:]).all():
        rows = np.arange(len(points))
    else:
        rows = np.searchsorted(ends, points, "right") - 1
    scale = np.zeros(len(ends) - 1, np.int64)
    scale[rows] = ends[rows + 1] - points - 1
    if np.count_nonzero(scale) != len(points) or (points == ends[rows]).any():
        raise ValueError("a text that is no numeric")
    return scale


def _turned(
    digits: NDArray[np.uint8], points: Numbers, before: Numbers, scale: Numbers, negative: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Values whose `digits` lie around `points`, `before` each and `scale` behind it, as bytes of one length."""
    whole, behind = -(-int(before.max()) // _DIGITS), -(-int(scale.max()) // _DIGITS)
    groups = list[NDArray[np.uint16]]()
    for group in range(-whole, behind):
        value = np.zeros(len(points), np.uint16)
        for at in range(group * _DIGITS, group * _DIGITS + _DIGITS):
            digit = digits.take(points + at, mode="clip") - np.uint8(_ZERO)
            value *= np.uint16(10)
            value += np.where((before >= -at) & (scale > at), digit, np.uint8(0))
        groups.append(value)
    return _written(groups, whole, scale, negative)


def _written(groups: list[NDArray[np.uint16]], whole: int, scale: Numbers, negative: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Values of these digits to the base of 10,000, of which `whole` stand before the point."""
    made = np.zeros((len(scale), _HEAD_BYTES + 2 * len(groups)), np.uint8)
    made[:, :4] = np.array([len(groups), whole - 1], ">u2").view(np.uint8)
    made[:, 4] = np.where(negative, _NEGATIVE, 0)
    made[:, 6], made[:, 7] = scale >> 8, scale & 0xFF
    for place, group in zip(range(_HEAD_BYTES, made.shape[1], 2), groups, strict=True):
        made[:, place], made[:, place + 1] = group >> 8, group & 0xFF
    return made
