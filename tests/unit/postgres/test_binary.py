"""Rows in Postgres's binary form: byte for byte what a row at a time, written out by hand, would be."""

import struct
from datetime import UTC, date, datetime, timedelta
from math import inf, nan
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierkeeper.postgres.binary import to_binary

NAN_BITS = {"d": bytes.fromhex("7ff8000000000000"), "f": bytes.fromhex("7fc00000")}
ODD_NANS = {"d": bytes.fromhex("fff8000000000001"), "f": bytes.fromhex("ffc00001")}
FIRST = datetime(2000, 1, 1, tzinfo=UTC)
TIMES = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))


def whole(code: str, bits: int) -> tuple[st.SearchStrategy[object], str]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) | st.sampled_from([0, 1, -1, 255, 256]), code


KINDS = {
    pa.int16(): whole("h", 16),
    pa.int32(): whole("i", 32),
    pa.int64(): whole("q", 64),
    pa.float32(): (st.floats(width=32) | st.sampled_from([nan, -0.0, inf]), "f"),
    pa.float64(): (st.floats() | st.sampled_from([nan, -0.0, -inf]), "d"),
    pa.bool_(): (st.booleans(), "?"),
    pa.string(): (st.text() | st.just("") | st.just("é" * 300), "text"),
    pa.date32(): (st.dates(), "date"),
    pa.timestamp("us"): (TIMES, "time"),
    pa.timestamp("us", "UTC"): (TIMES.map(lambda t: t.replace(tzinfo=UTC)), "time"),
}


ODD_TIMES = {  # as timestamp_send() gives them
    "infinity": 2**63 - 1,
    "-infinity": -(2**63),
    "10000-01-01 00:00:00": 252_455_616_000_000_000,
    "294276-12-31 23:59:59.999999": 9_223_371_331_199_999_999,
    "0001-12-31 23:59:59.5 BC": -63_082_281_600_500_000,
    "0001-02-29 12:00:00 BC": -63_108_763_200_000_000,
    "4714-11-24 00:00:00 BC": -211_813_488_000_000_000,
}
ODD_DATES = {"infinity": 2**31 - 1, "-infinity": -(2**31), "5874897-12-31": 2_145_031_948, "4713-01-01 BC": -2_451_507}


def written(time: datetime) -> str:
    """As Postgres writes it."""
    return f"{time:%H:%M:%S}".join([f"{time.year:04}-{time:%m-%d} ", f"{time:.%f}".rstrip("0").rstrip(".")])


OWN = {
    "date": st.dates().map(lambda d: d.isoformat()) | st.sampled_from(list(ODD_DATES)),
    "timestamp": TIMES.map(written) | st.sampled_from(list(ODD_TIMES)),
    "timestamptz": st.tuples(TIMES.map(written) | st.sampled_from(list(ODD_TIMES))).map(lambda t: with_zone(*t)),
    "uuid": st.uuids().map(str) | st.just("0" * 8 + ("-" + "0" * 4) * 3 + "-" + "0" * 12),
    "jsonb": st.sampled_from(["{}", "null", '{"é": [1, 2]}', '"' + "x" * 300 + '"']),
}


def by_hand(value: object, code: str) -> bytes:
    """One field as the manual says: its length and its bytes, or -1."""
    if value is None:
        return struct.pack(">i", -1)
    if isinstance(value, str):
        body = own_by_hand(value, code)
    elif isinstance(value, datetime):
        body = struct.pack(">q", (value.replace(tzinfo=UTC) - FIRST) // timedelta(microseconds=1))
    elif isinstance(value, date):
        body = struct.pack(">i", (value - FIRST.date()).days)
    elif isinstance(value, float) and value != value:  # noqa: PLR0124 - what NaN is known by
        body = NAN_BITS[code]
    else:
        body = struct.pack(f">{code}", value)
    return struct.pack(">i", len(body)) + body


def with_zone(text: str) -> str:
    head, bc = text.removesuffix(" BC"), text.endswith(" BC")
    return text if text.endswith("infinity") else f"{head}+00{' BC' if bc else ''}"


def own_by_hand(value: str, code: str) -> bytes:
    if code == "date":
        odd = ODD_DATES.get(value)
        return struct.pack(">i", (date.fromisoformat(value) - FIRST.date()).days if odd is None else odd)
    if code.startswith("timestamp"):
        plain = value.replace("+00", "")
        odd = ODD_TIMES.get(plain)
        return struct.pack(
            ">q", (datetime.fromisoformat(plain + "+00") - FIRST) // timedelta(microseconds=1) if odd is None else odd
        )
    return UUID(value).bytes if code == "uuid" else b"\1" * (code == "jsonb") + value.encode()


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.RecordBatch, list[str], bytes]:
    """A batch of up to five columns with and without NULLs, maybe a slice of a larger one, their types, and its rows by hand."""
    drawn = draw(st.lists(st.sampled_from([*KINDS, *OWN]), min_size=1, max_size=5))
    types = [k if k in OWN else "" for k in drawn]
    kinds = [pa.string() if k in OWN else k for k in drawn]
    rows = draw(st.integers(1, 6))
    columns = []
    for kind, own in zip(kinds, types, strict=True):
        values = OWN[own] if own else KINDS[kind][0]
        with_nulls = draw(st.sampled_from([values, values | st.none(), st.none(), st.just(draw(values))]))
        columns.append(draw(st.lists(with_nulls, min_size=rows, max_size=rows)))
    names = [str(n) for n in range(len(kinds))]
    batch = pa.RecordBatch.from_arrays([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names=names)
    start = draw(st.integers(0, rows - 1))
    taken = [c[start:] for c in columns]
    codes = [own or KINDS[k][1] for k, own in zip(kinds, types, strict=True)]
    hand = [
        struct.pack(">h", len(kinds)) + b"".join(by_hand(v, c) for v, c in zip(row, codes, strict=True))
        for row in zip(*taken, strict=True)
    ]
    return batch.slice(start), types, b"".join(hand)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # the first draw loads pandas, if that is installed
@given(tables())
def test_rows_are_what_they_are_by_hand(made: tuple[pa.RecordBatch, list[str], bytes]) -> None:
    batch, types, hand = made
    assert bytes(to_binary(batch, types)) == hand


@pytest.mark.parametrize(
    "texts", [["a" * 35], ["a" * 36], ["0" * 31 + "----", "0" * 33 + "----"], ["z" * 8 + ("-" + "0" * 4) * 3 + "-" + "0" * 12]]
)
def test_a_text_that_is_no_uuid_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"uuid|[Nn]on-hexadecimal"):
        to_binary(pa.RecordBatch.from_arrays([pa.array(texts)], names=["u"]), ["uuid"])


@pytest.mark.parametrize(
    ("type_", "texts"), [("date", [*ODD_DATES]), ("timestamp", [*ODD_TIMES]), ("timestamptz", [with_zone(t) for t in ODD_TIMES])]
)
def test_times_that_arrow_does_not_read(type_: str, texts: list[str]) -> None:
    ordinary = (
        "2013-07-04"
        if type_ == "date"
        else with_zone("2013-07-04 01:02:03.5")
        if type_ == "timestamptz"
        else "2013-07-04 01:02:03.5"
    )
    for values in ([*texts], [None, *texts, ordinary, None], *([t] for t in texts)):
        batch = pa.RecordBatch.from_arrays([pa.array(values, pa.string())], names=["t"])
        assert bytes(to_binary(batch, [type_])) == b"".join(b"\0\1" + by_hand(v, type_) for v in values)


@pytest.mark.parametrize("text", ["", "now", "2013-7-4", "2013-07-04 00:00:00+01", "2013-07-04 00:00:00.1234567+00", "99999"])
@pytest.mark.parametrize("type_", ["date", "timestamptz"])
def test_a_text_that_is_no_time_is_refused(type_: str, text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        to_binary(pa.RecordBatch.from_arrays([pa.array([text, "infinity"])], names=["t"]), [type_])


@pytest.mark.parametrize(("kind", "code"), [(pa.float64(), "d"), (pa.float32(), "f")])
def test_each_nan_is_the_one_that_postgres_writes(kind: pa.DataType, code: str) -> None:
    """As in the comparison of rows: which of its NaNs a processor chose does not count. -0.0 is not 0.0."""
    odd = ODD_NANS[code][::-1] + struct.pack(f"<{code}", -0.0)
    batch = pa.RecordBatch.from_arrays([pa.Array.from_buffers(kind, 2, [None, pa.py_buffer(odd)])], names=["x"])
    assert bytes(to_binary(batch)) == b"".join(b"\0\1" + by_hand(v, code) for v in (nan, -0.0))


def test_what_lies_under_a_null_is_not_sent() -> None:
    offsets, values = struct.pack("=iii", 0, 6, 9), pa.py_buffer(b"secretyes")
    text = pa.Array.from_buffers(pa.string(), 2, [pa.py_buffer(b"\2"), pa.py_buffer(offsets), values])
    numbers = pa.Array.from_buffers(pa.int32(), 2, [pa.py_buffer(b"\2"), pa.py_buffer(struct.pack("=ii", 7, 8))])
    batch = pa.RecordBatch.from_arrays([text, numbers], names=["t", "n"])
    rows = [(None, None), ("yes", 8)]
    assert bytes(to_binary(batch)) == b"".join(b"\0\2" + by_hand(t, "text") + by_hand(n, "i") for t, n in rows)


@pytest.mark.parametrize(
    "texts", [["a", "bbb"], ["bbb", "a"], ["ab", "cd"], ["", ""], ["x" * 12, "y" * 12], ["x" * 13, "y" * 13]]
)
def test_texts_of_one_length_and_of_several(texts: list[str]) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(texts)], names=["t"])
    assert bytes(to_binary(batch)) == b"".join(b"\0\1" + by_hand(t, "text") for t in texts)
