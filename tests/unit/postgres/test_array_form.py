"""Arrays in Postgres's own form: taken apart by hand, each has the shape and the elements that its text says."""

import struct
from itertools import product
from math import prod
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tierkeeper.postgres.array_form import ELEMENTS, arrays
from tierkeeper.postgres.own_form import own_form

Shape = tuple[tuple[int, int], ...]
"""Length and beginning of each dimension."""


def read(sent: bytes, element: str) -> tuple[Shape, list[bytes | None]]:
    """As `array_recv` takes it."""
    dimensions, has_null, type_ = struct.unpack(">iii", sent[:12])
    assert type_ == ELEMENTS[element]
    shape = tuple(struct.unpack_from(">ii", sent, 12 + 8 * n) for n in range(dimensions))
    at, found = 12 + 8 * dimensions, list[bytes | None]()
    while at < len(sent):
        (length,) = struct.unpack_from(">i", sent, at)
        found.append(None if length < 0 else sent[at + 4 : at + 4 + length])
        at += 4 + max(length, 0)
    assert has_null == (None in found)
    assert len(found) == (prod(length for length, _ in shape) if shape else 0)
    return shape, found


def written(shape: Shape, leaves: list[str | None]) -> str:
    """As `array_out` does."""

    def one(leaf: str | None) -> str:
        if leaf is None:
            return "NULL"
        plain = leaf and leaf.upper() != "NULL" and not set(leaf) & set('{},"\\ \t\n\r\v\f')
        return leaf if plain else '"' + leaf.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def nested(left: Shape, mine: list[str | None]) -> str:
        step = len(mine) // left[0][0]
        parts = [mine[n * step : n * step + step] for n in range(left[0][0])]
        return "{" + ",".join(nested(left[1:], part) if left[1:] else one(part[0]) for part in parts) + "}"

    bounds = "".join(f"[{begin}:{begin + length - 1}]" for length, begin in shape)
    return ("" if all(begin == 1 for _, begin in shape) else f"{bounds}=") + nested(shape, leaves) if shape else "{}"


TEXTS = (
    st.none()
    | st.text(st.sampled_from('ab,{}"\\ é\n=[1:'), max_size=5)
    | st.sampled_from(["NULL", "null", "", "\\\\", '"', "\\"])
)
WORDS = st.none() | st.text("abc", min_size=1)


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[Shape, list[str | None]] | None]:
    """Arrays of texts, and NULL."""
    leaf = draw(st.sampled_from([TEXTS, WORDS]))
    flat = st.sampled_from([(), *(((n, 1),) for n in (1, 2, 5))])
    shapes = flat | st.sampled_from([((2, 0),), ((2, 1), (3, 1)), ((1, -5), (1, 2)), ((2, 1), (1, 1), (2, 1))])
    return draw(
        st.lists(
            st.none()
            | (flat if draw(st.booleans()) else shapes).flatmap(
                lambda s: st.tuples(st.just(s), st.lists(leaf, min_size=(n := prod(x for x, _ in s) if s else 0), max_size=n))
            ),
            min_size=1,
            max_size=6,
        ).filter(any)
    )


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(tables(), st.booleans())
@example([(((2, 1),), ["\\", ","]), (((1, 1),), ['"'])], False)
def test_texts_in_arrays_are_what_they_are_by_hand(rows: list[tuple[Shape, list[str | None]] | None], cut: bool) -> None:
    column = pa.array([*(['{"x y"}'] if cut else []), *(None if r is None else written(*r) for r in rows)], pa.string()).slice(
        cut
    )
    encoded = [None if r is None else (r[0], [None if t is None else t.encode() for t in r[1]]) for r in rows]
    assert [None if s is None else read(s, "text") for s in arrays(column, "text", own_form).to_pylist()] == encoded


@pytest.mark.parametrize(
    ("element", "texts", "packed"),
    [
        ("bool", ["t", "f"], [b"\1", b"\0"]),
        ("int2", ["-32768", "1"], [b"\x80\0", b"\0\1"]),
        ("int8", ["-1", "2"], [b"\xff" * 8, struct.pack(">q", 2)]),
        ("float4", ["1.1", "-0"], [struct.pack(">f", 1.1), struct.pack(">f", -0.0)]),
        ("float8", ["5e-324", "NaN", "-Infinity"], [bytes(7) + b"\1", b"\x7f\xf8" + bytes(6), b"\xff\xf0" + bytes(6)]),
        ("date", ["2000-01-02", "infinity"], [struct.pack(">i", 1), struct.pack(">i", 2**31 - 1)]),
        ("inet", ["1.2.3.4", "::1"], [b"\2\x20\0\4\1\2\3\4", b"\3\x80\0\x10" + bytes(15) + b"\1"]),
    ],
)  # fmt: skip
def test_elements_go_in_their_types_own_form(element: str, texts: list[str], packed: list[bytes]) -> None:
    for (leaves, sent), shape in product([(texts, packed), ([None, *texts], [None, *packed])], [1, 0]):
        text = written(((len(leaves), shape),), leaves)
        (made,) = arrays(pa.array([text]), element, own_form).to_pylist()
        assert read(made, element) == (((len(leaves), shape),), sent)


@pytest.mark.parametrize("text", ["", "{", "1,2", "{a,}", "{,a}", "{a,b", "{{a},{b,c}}", "[0:1]={{a}}", "{{a}", "[0:1]={}"])
def test_a_text_that_is_no_array_is_refused(text: str) -> None:
    for texts in ([text], ["{x}", text, '{"x y"}']):
        with pytest.raises(ValueError, match="no array"):
            arrays(pa.array(texts), "text", own_form)


def test_an_element_that_is_none_of_its_type_is_refused() -> None:
    cases: list[tuple[str, Any]] = [("int4", "{a}"), ("bool", "{true}"), ("uuid", "{1}"), ("numeric", "{x}"), ("int2", "{99999}")]
    for element, text in cases:
        with pytest.raises(ValueError, match=r"."):
            arrays(pa.array([text]), element, own_form)
