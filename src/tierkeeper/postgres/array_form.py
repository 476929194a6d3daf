"""Arrays in Postgres's own form, of their text: those of one dimension by the column, others one by one.

Pure. It takes the text apart; what the elements are turned to is their own type's matter.
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tierkeeper.postgres.columns import Numbers, bytes_of, chosen, flags, placed, spans, texts, with_nulls_of
from tierkeeper.postgres.fields import together

ELEMENTS: Final = {
    "bool": 16,
    "bpchar": 1042,
    "cidr": 650,
    "date": 1082,
    "float4": 700,
    "float8": 701,
    "inet": 869,
    "int2": 21,
    "int4": 23,
    "int8": 20,
    "numeric": 1700,
    "text": 25,
    "timestamp": 1114,
    "timestamptz": 1184,
    "uuid": 2950,
    "varchar": 1043,
}
"""Types of elements, and the number that each has on every server."""

_NATIVE: Final = {"float4": pa.float32(), "float8": pa.float64(), "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64()}
_COMMA, _QUOTE, _OPEN, _CLOSE, _ESCAPE = b',"{}\\'
_NULL: Final = b"NULL"
_EMPTY_BYTES: Final = 12  # no dimension, no NULL, the type of the elements it has not
_HEAD_BYTES: Final = 20  # and of one dimension its length and where it begins
_TOKEN: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"\\]+)|(.)', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_BEGINS: Final = re.compile(r"\[(-?\d+):-?\d+\]")

Turned = Callable[[pa.Array, str], tuple[pa.Array, bytes]]


def arrays(column: pa.Array, element: str, turned: Turned) -> pa.Array:
    """What `array_recv` reads; `turned`: what to send of elements. Raises ValueError for a text that is no such array."""
    values = column.drop_null()
    text, ends = spans(values)
    starts = ends[:-1]
    if np.diff(ends).min() < len("{}"):
        raise ValueError("a text that is no array")
    is_odd = (text[starts] != _OPEN) | (text[starts + 1] == _OPEN)
    has_escape = flags(pc.match_substring(values, "\\")) & ~is_odd
    parts = []
    for some in map(np.flatnonzero, (~is_odd & ~has_escape, has_escape)):
        if len(some):
            parts.append((some, _plain(chosen(values, some), element, turned)))
    odd = np.flatnonzero(is_odd)
    if len(odd):
        parts.append((odd, _odd(chosen(values, odd).to_pylist(), element, turned)))
    return with_nulls_of(column, placed(parts, len(values)))


def _plain(values: pa.Array, element: str, turned: Turned) -> pa.Array:
    """Of one dimension that begins at 1: what lies between two quotes is no comma."""
    text, ends = spans(values)
    opening, closing = ends[:-1], ends[1:] - 1
    if (text[closing] != _CLOSE).any():
        raise ValueError("a text that is no array")
    quote, stop, escape = text == _QUOTE, text == _COMMA, text == _ESCAPE
    if escape.any():
        escape, quote = _escaping(escape, quote)
    if quote.any():
        stop &= ~np.logical_xor.accumulate(quote)
    stop[closing] = True
    upto = np.flatnonzero(stop)
    begins = np.concatenate([[0], upto[:-1] + 1])
    counts = np.diff(np.searchsorted(upto, closing) + 1, prepend=0)
    begins[np.cumsum(counts) - counts] += 1  # behind the brace
    kept = ~(quote | stop | escape)
    kept[opening] = False
    is_there = (upto > begins) | (np.repeat(counts, counts) > 1)
    rows, begins, upto = np.repeat(np.arange(len(values)), counts)[is_there], begins[is_there], upto[is_there]
    if (upto == begins).any():  # Postgres quotes an empty text
        raise ValueError("a text that is no array")
    is_null = _nulls(text, begins, upto)
    lengths = upto - begins - 2 * quote[begins]
    if escape.any():
        lengths -= np.bincount(np.searchsorted(upto, np.flatnonzero(escape)), minlength=len(upto))
    elements = bytes_of(_ends(lengths), text[kept], pa.string())
    counts = np.bincount(rows, minlength=len(values))
    heads = _heads(counts, np.bincount(rows[is_null], minlength=len(values)) > 0, ELEMENTS[element])
    return _with_elements(heads, counts, _without(elements, is_null), element, turned)


def _escaping(escape: NDArray[np.bool_], quote: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of these the first, third, … in a row, which stand for nothing, and the quotes that do not come behind such a one."""
    places = np.arange(len(escape))
    before = places - np.maximum.accumulate(np.where(escape, -1, places))  # in a row up to here
    escape = before % 2 == 1
    quote = quote.copy()
    quote[1:] &= ~escape[:-1]
    return escape, quote


def _ends(lengths: NDArray[Any]) -> Numbers:
    """Where each begins, and the last one ends."""
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _nulls(text: NDArray[np.uint8], begins: Numbers, upto: Numbers) -> NDArray[np.bool_]:
    """Which elements are the word NULL, without quotes."""
    found: NDArray[np.bool_] = upto - begins == len(_NULL)
    for at, letter in enumerate(_NULL):
        found &= text.take(begins + at, mode="clip") == letter
    return found


def _heads(counts: Numbers, has_null: NDArray[np.bool_], type_: int) -> pa.Array:
    """Dimensions, whether there is a NULL, the elements' type; of the one dimension, if it is there, length and beginning."""
    heads = np.ones((len(counts), _HEAD_BYTES // 4), ">i4")
    heads[:, 0], heads[:, 1], heads[:, 2], heads[:, 3] = counts > 0, has_null, type_, counts
    shown = (counts > 0)[:, None] | (np.arange(_HEAD_BYTES) < _EMPTY_BYTES)
    return bytes_of(_ends(shown.sum(1)), heads.view(np.uint8)[shown])


def _without(elements: pa.Array, is_null: NDArray[np.bool_]) -> pa.Array:
    """`elements` with NULL at these places."""
    there = np.flatnonzero(~is_null)
    return placed([(there, chosen(elements, there))], len(elements))


def _with_elements(heads: pa.Array, counts: Numbers, elements: pa.Array, element: str, turned: Turned) -> pa.Array:
    """Each of `heads`, and behind it the fields of its `counts` of `elements`."""
    if not len(elements):
        return heads
    body, ends = spans(together(len(elements), b"", [_sent(elements, element, turned)]))
    return pc.binary_join_element_wise(heads, bytes_of(ends[_ends(counts)], body), bytes_of(np.zeros(2, np.int64), b"")[0])


def _sent(elements: pa.Array, element: str, turned: Turned) -> tuple[pa.Array, bytes]:
    if element in _NATIVE:
        return elements.cast(_NATIVE[element]), b""
    if element == "bool":
        return _truths(elements), b""
    return turned(elements, element)


def _truths(elements: pa.Array) -> pa.Array:
    if not pc.all(pc.is_in(elements.drop_null(), value_set=texts(["f", "t"]))).as_py():
        raise ValueError("a text that is no bool")
    return pc.equal(elements, texts(["t"])[0])


def _odd(values: Sequence[str], element: str, turned: Turned) -> pa.Array:
    """Arrays of any shape, one by one."""
    heads, counts, leaves = list[bytes](), list[int](), list[str | None]()
    for value in values:
        dimensions, found = _taken_apart(value)
        words = [len(dimensions), None in found, ELEMENTS[element], *chain.from_iterable(dimensions)]
        heads.append(b"".join(int(word).to_bytes(4, "big", signed=True) for word in words))
        counts.append(len(found))
        leaves += found
    head = bytes_of(_ends(np.array([*map(len, heads)])), b"".join(heads))
    is_null = np.array([leaf is None for leaf in leaves], np.bool_)
    elements = _without(texts([leaf or "" for leaf in leaves]), is_null)
    return _with_elements(head, np.array(counts), elements, element, turned)


def _taken_apart(text: str) -> tuple[list[tuple[int, int]], list[str | None]]:
    """Length and beginning of each dimension, and the elements."""
    given, _, body = text.partition("=") if text[0] == "[" else ("", "", text)
    begins, opened, leaves, depth = [int(one) for one in _BEGINS.findall(given)], list[int](), list[str | None](), 0
    for token in _TOKEN.finditer(body):
        quoted, plain, mark = token.groups()
        if quoted is not None:
            leaves.append(_ESCAPED.sub(r"\1", quoted))
        elif plain is not None:
            leaves.append(None if plain == "NULL" else plain)
        elif mark == "{":
            opened += [0] * (depth == len(opened))
            opened[depth] += 1
            depth += 1
        elif mark in "},":
            depth -= mark == "}"
        else:
            raise ValueError("a text that is no array")
    if not opened or body[0] != "{":
        raise ValueError("a text that is no array")
    lengths = [below // above for above, below in zip(opened, [*opened[1:], len(leaves)], strict=True)]
    if depth or not leaves or prod(lengths) != len(leaves) or len(begins) not in (0, len(opened)):
        raise ValueError("a text that is no array")
    return list(zip(lengths, begins or [1] * len(lengths), strict=True)), leaves
