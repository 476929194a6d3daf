"""The digest sees content and nothing else."""

import math
import struct
from datetime import UTC, date, datetime
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.archive.digest import ContentDigest

SCHEMA = pa.schema({
    "i": pa.int32(),
    "f": pa.float64(),
    "g": pa.float32(),
    "b": pa.bool_(),
    "s": pa.string(),
    "d": pa.date32(),
    "t": pa.timestamp("us", "UTC"),
})  # fmt: skip
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | st.floats(),
        st.none() | st.floats(width=32),
        st.none() | st.booleans(),
        st.none() | st.text(max_size=5),
        st.none() | st.dates(),
        st.none() | st.datetimes(),
    ),
    max_size=30,
)


def batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    return pa.RecordBatch.from_arrays([pa.array(list(c), f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def taken(*batches: pa.RecordBatch) -> ContentDigest:
    made = ContentDigest(batches[0].schema)
    for b in batches:
        made.update(b)
    return made


def digest(*batches: pa.RecordBatch) -> str:
    return taken(*batches).hexdigest()


@settings(max_examples=60, deadline=None)
@given(ROWS, st.lists(st.integers(0, 30), max_size=5))
def test_chunk_boundaries_and_offsets_do_not_count(rows: list[tuple[object, ...]], cuts: list[int]) -> None:
    whole = batch(rows)
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    pieces = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    assert digest(*pieces) == digest(whole)
    assert taken(*pieces).same_as(taken(whole))


@settings(max_examples=60, deadline=None)
@given(ROWS, st.data())
def test_a_changed_lost_or_swapped_row_counts(rows: list[tuple[object, ...]], data: st.DataObject) -> None:
    if not rows:
        return
    at = data.draw(st.integers(0, len(rows) - 1))
    lost = rows[:at] + rows[at + 1 :]
    assert digest(batch(lost)) != digest(batch(rows))
    assert not taken(batch(lost)).same_as(taken(batch(rows)))
    row = list(rows[at])
    row[4] = None if row[4] is not None else ""
    changed = batch([*rows[:at], tuple(row), *rows[at + 1 :]])
    assert digest(changed) != digest(batch(rows))
    assert not taken(changed).same_as(taken(batch(rows)))


def test_neighbours_cannot_borrow_from_each_other() -> None:
    schema = pa.schema({"a": pa.string(), "b": pa.string()})

    def of(a: list[str | None], b: list[str | None]) -> str:
        return digest(pa.RecordBatch.from_arrays([pa.array(a, pa.string()), pa.array(b, pa.string())], schema=schema))

    assert (
        len(
            {
                of(["ab"], ["c"]),
                of(["a"], ["bc"]),
                of(["", "abc"], ["", ""]),
                of(["abc", ""], ["", ""]),
                of(["abc", None], ["", ""]),
            }
        )
        == 5
    )


@pytest.mark.parametrize("type_", [pa.float32(), pa.float64()])
def test_negative_zero_is_its_own_and_every_nan_is_one(type_: pa.DataType) -> None:
    schema = pa.schema({"f": type_})

    def of(*values: float | None) -> str:
        return digest(pa.RecordBatch.from_arrays([pa.array(values, type_)], schema=schema))

    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
    assert of(0.0) != of(-0.0)
    assert of(math.nan) == of(odd) == of(-math.nan)
    assert of(math.nan, 1.0) != of(None, 1.0)
    assert of(None, 1.0) == of(None, 1.0)


def test_what_lies_under_a_null_does_not_count() -> None:
    values, validity = pa.py_buffer(struct.pack("<2i", 7, 9)), pa.py_buffer(b"\x02")
    hidden = pa.Array.from_buffers(pa.int32(), 2, [validity, values])
    schema = pa.schema({"i": pa.int32()})
    assert digest(pa.RecordBatch.from_arrays([hidden], schema=schema)) == digest(
        pa.RecordBatch.from_arrays([pa.array([None, 9], pa.int32())], schema=schema)
    )


@pytest.mark.parametrize(("type_", "filler"), [(pa.string(), ""), (pa.int16(), 0), (pa.bool_(), False), (pa.float64(), 0.0)])
def test_the_place_of_a_null_counts(type_: pa.DataType, filler: object) -> None:
    schema = pa.schema({"c": type_})

    def of(*values: object) -> str:
        return digest(pa.RecordBatch.from_arrays([pa.array(values, type_)], schema=schema))

    rows = [filler, None], [None, filler], [None, None], [filler, filler], [None], [filler, None, filler]
    assert len({of(*values) for values in rows}) == len(rows)


def test_names_and_types_count_and_others_are_refused() -> None:
    one = pa.RecordBatch.from_pydict({"a": pa.array([1], pa.int32())})
    assert digest(one) != digest(pa.RecordBatch.from_pydict({"b": pa.array([1], pa.int32())}))
    assert not taken(one).same_as(taken(pa.RecordBatch.from_pydict({"b": pa.array([1], pa.int32())})))
    assert digest(one) != digest(pa.RecordBatch.from_pydict({"a": pa.array([1], pa.int64())}))
    with pytest.raises(ValueError, match="expected columns"):
        ContentDigest(SCHEMA).update(one)


def test_the_format_is_fixed() -> None:
    """Manifests keep these digests: another value here means old archives no longer verify."""
    fixed = batch(
        [
            (1, 1.5, -0.0, True, "é", date(2013, 1, 1), datetime(2013, 1, 1, tzinfo=UTC)),
            (None, None, None, None, None, None, None),
        ]
    )
    assert digest(fixed) == "0b05df5952de928cc5f2e3dcb364066bd800beda202c1cf0389fa848026fbe5c"


def test_digests_of_columns_join_to_that_of_the_rows_and_none_may_be_missing_or_shorter() -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.bool_())])
    batch = pa.RecordBatch.from_arrays([pa.array([1, None]), pa.array(["x", ""]), pa.array([True, None])], schema=schema)

    def part(*names: str, rows: int = 2) -> ContentDigest:
        made = ContentDigest(pa.schema([schema.field(name) for name in names]))
        made.update(batch.select(list(names)).slice(0, rows))
        return made

    whole = ContentDigest(schema)
    whole.update(batch)
    for parts in ([part("a", "b", "c")], [part("c", "a"), part("b")], [part("a"), part("b"), part("c")]):
        joined = ContentDigest.joined(schema, parts)
        assert (joined.hexdigest(), joined.rows) == (whole.hexdigest(), 2)
        assert joined.same_as(whole)
    for wrong in (
        [part("a", "b")],
        [part("a", "b", "c"), part("a")],
        [part("a", "b"), part("c", rows=1)],
        [part("a"), part("a"), part("b")],
        [],
    ):
        with pytest.raises(ValueError, match="no digests of the columns"):
            ContentDigest.joined(schema, wrong)
