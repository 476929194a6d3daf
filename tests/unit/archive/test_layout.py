"""A uuid lies in the file as its sixteen bytes and comes back as its text, bit for bit; what repeats has a dictionary."""

import io
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.archive import layout as layout_
from tierkeeper.archive import segment as format_
from tierkeeper.archive.layout import carried_again, stored, stored_schema
from tierkeeper.archive.model import Contents
from tierkeeper.archive.reading import check_content
from tierkeeper.archive.segment import Written
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import Column, TableName, TableShape

KEY = bytes(range(32))
ID = UUID("00000000-0000-0000-0000-000000000001")
COLUMNS = (
    Column("id", "uuid", "uuid", not_null=True),
    Column("at", "timestamp with time zone", "timestamptz", not_null=True),
    Column("account", "uuid", "uuid"),
    Column("kind", "text", "text"),
    Column("payload", "jsonb", "jsonb"),
)
CONTENTS = Contents(ID, TableShape(TableName("public", "t"), COLUMNS, ("id",), ddl=("…",)), "at", True, {})
SCHEMA = format_.arrow_schema(CONTENTS.carried)
FILE_SCHEMA = stored_schema(CONTENTS.carried)
DAY = datetime(2013, 1, 1, tzinfo=UTC)


def rows(count: int, accounts: list[str | None]) -> pa.RecordBatch:
    columns = [
        pa.array([str(UUID(int=n * 2**100 + n)) for n in range(count)], pa.string()),
        pa.array([DAY + timedelta(minutes=n) for n in range(count)], pa.timestamp("us", "UTC")),
        pa.array([accounts[n % len(accounts)] for n in range(count)], pa.string()),
        pa.array([("view", "click", None)[n % 3] for n in range(count)], pa.string()),
        pa.array([f'{{"n": {n}}}' for n in range(count)], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def again(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([carried_again(c) for c in batch.columns], schema=SCHEMA)


@settings(deadline=None)
@given(st.lists(st.none() | st.uuids().map(str), max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_uuids_come_back_as_they_were(values: list[str | None], at: int, length: int) -> None:
    """Slices too, on both sides, and whatever lies under a NULL."""
    one = pa.array(values, pa.string()).slice(at, length)
    nulls = pa.nulls(len(one), pa.string())
    batch = pa.RecordBatch.from_arrays([one, pa.nulls(len(one), SCHEMA.field("at").type), one, nulls, nulls], schema=SCHEMA)
    kept = stored(batch, FILE_SCHEMA)
    kept.validate(full=True)
    assert [v and str(v) for v in kept.column(0).to_pylist()] == one.to_pylist()
    assert again(kept) == batch
    for start in (0, 1, 9, 17):
        found = again(kept.slice(start, 11))
        found.validate(full=True)
        assert found == batch.slice(start, 11)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 36, "zz" * 16, "6d9e2f7a-9d5c-4c8a-9a51-0123456789ab6d"])
def test_what_is_no_uuid_is_refused(text: str) -> None:
    batch = rows(3, [str(uuid4()), text])
    with pytest.raises(ValueError, match=r"length|Non-hex|Odd-length"):
        stored(batch, FILE_SCHEMA)


def written(batch: pa.RecordBatch) -> tuple[bytes, Written]:
    out = io.BytesIO()
    result = format_.write(CONTENTS, [batch], KEY, out)
    return out.getvalue(), result


def check(data: bytes, result: Written) -> None:
    check_content(
        io.BytesIO(data),
        ID,
        KEY,
        "x",
        sha256=result.sha256,
        length_bytes=result.bytes,
        rows=result.rows,
        digest=result.digest,
    )


@pytest.mark.parametrize(
    "text", ["6D9E2F7A-9D5C-4C8A-9A51-0123456789AB", "6d9e2f7a9d5c4c8a9a510123456789ab", "6d9e-2f7a9d5c-4c8a-9a51-0123456789ab"]
)
def test_a_text_that_would_not_come_back_as_it_was_is_never_proven(text: str) -> None:
    """The comparison is of the text as the source gave it, and not of what was made of it."""
    data, result = written(rows(9, [text]))
    with pytest.raises(Failed, match="its 9 rows are not the 9 that were written"):
        check(data, result)


def test_a_wrong_way_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    data, result = written(rows(9, [str(uuid4())]))
    check(data, result)
    monkeypatch.setattr(layout_, "_DASHES", ((4, 40), (28, 39), (32, 38), (31, 37)))
    with pytest.raises(Failed, match="its 9 rows are not the 9 that were written"):
        check(data, result)


def test_the_file_has_uuids_and_says_by_which_it_may_be_left_out() -> None:
    few: list[str | None] = [str(UUID(int=n)) for n in range(100)]
    batch = rows(1000, [*few, None])
    data, result = written(batch)
    check(data, result)
    with format_.opened(io.BytesIO(data), ID, KEY, "x") as content:
        columns = {c.path_in_schema: c for c in (content.parquet.metadata.row_group(0).column(i) for i in range(5))}
        assert pa.Table.from_batches(content.batches()) == pa.Table.from_batches([batch])
        window = content.batches(DAY + timedelta(minutes=500), DAY + timedelta(minutes=503), ["account"])
        assert pa.Table.from_batches(window)["account"].to_pylist() == batch.column("account").slice(500, 3).to_pylist()
        assert content.bounds("id") == (str(UUID(int=0)), str(UUID(int=999 * 2**100 + 999)))
        assert content.bounds("account") is None
        # By another an older tierkeeper would take the bytes for a damaged text.
        assert b'"version":2' in content.parquet.schema_arrow.metadata[b"tierkeeper"]
    assert columns["id"].statistics.logical_type.type == "UUID"
    assert {n for n, c in columns.items() if c.statistics is not None} == {"id", "at"}
    assert {n for n, c in columns.items() if "RLE_DICTIONARY" in c.encodings} == {"account", "kind"}


def test_a_file_that_has_uuids_as_text_is_read_as_one_that_has_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As older ones have: their rows, and by which keys they may be left out."""
    batch = rows(1000, [None, str(uuid4())])
    with monkeypatch.context() as older:
        older.setattr(layout_, "_is_uuid", lambda _: False)
        data, result = written(batch)
    check(data, result)
    with format_.opened(io.BytesIO(data), ID, KEY, "x") as content:
        assert content.parquet.schema_arrow.field("id").type == pa.string()
        assert b'"version":1' in content.parquet.schema_arrow.metadata[b"tierkeeper"]
        assert pa.Table.from_batches(content.batches()) == pa.Table.from_batches([batch])
        assert content.bounds("id") == (str(UUID(int=0)), str(UUID(int=999 * 2**100 + 999)))
