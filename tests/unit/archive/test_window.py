"""What of a segment's file is asked for: its end once, a row group once, and nothing else for a point question."""

import io
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.archive import segment as format_
from tierkeeper.archive.model import Contents
from tierkeeper.archive.window import WindowedFile
from tierkeeper.kernel.tables import Column, TableName, TableShape

KEY = bytes(range(32))
ID = UUID("00000000-0000-0000-0000-000000000001")
DAY = datetime(2013, 1, 1, tzinfo=UTC)
COLUMNS = (
    Column("at", "timestamp with time zone", "timestamptz", not_null=True),
    Column("id", "bigint", "int8", not_null=True),
    Column("t", "text", "text"),
)
CONTENTS = Contents(ID, TableShape(TableName("public", "t"), COLUMNS, ("id",), ddl=("…",)), "at", True, {})


class Counted(io.BytesIO):
    given = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.given += len(data)
        return data


def segment(rows: int) -> bytes:
    schema = format_.arrow_schema(CONTENTS.carried)
    columns = [
        pa.array([DAY + timedelta(minutes=n) for n in range(rows)], schema.field("at").type),
        pa.array(range(rows), pa.int64()),
        pa.array([secrets.token_hex(20) for _ in range(rows)], pa.string()),
    ]
    out = io.BytesIO()
    format_.write(CONTENTS, [pa.RecordBatch.from_arrays(columns, schema=schema)], KEY, out)
    return out.getvalue()


def footer_bytes(data: bytes) -> int:
    return int.from_bytes(data[-8:-4], "little") + 8


@pytest.mark.parametrize(("rows", "most_rows"), [(20_000, 1_000), (20_000, 40)])
def test_a_point_question_reads_the_end_and_one_row_group_once(
    monkeypatch: pytest.MonkeyPatch, rows: int, most_rows: int
) -> None:
    """With a footer that is shorter than what is looked at first, and with one that is longer."""
    monkeypatch.setattr(format_, "ROW_GROUP_ROWS", most_rows)
    data = segment(rows)
    file, at = Counted(data), DAY + timedelta(minutes=rows // 3)
    with format_.opened(file, ID, KEY, "x") as content:
        assert file.given == max(64 * 1024, footer_bytes(data))
        known = content.parquet.metadata.row_group(rows // 3 // most_rows)
        group = sum(known.column(i).total_compressed_size for i in range(3))
        before = file.given
        assert sum(b.num_rows for b in content.batches(at, at + timedelta(minutes=1))) == 1
        assert file.given - before == group
        assert (footer_bytes(data) > 64 * 1024) == (most_rows == 40)
        list(content.batches(at, at + timedelta(minutes=1)))
        assert file.given - before == group, "what is at hand is not fetched again"


def test_of_a_column_alone_its_pages_are_read_and_no_others() -> None:
    data = segment(10_000)
    file = Counted(data)
    with format_.opened(file, ID, KEY, "x") as content:
        before = file.given
        found = pa.Table.from_batches(content.batches(DAY, DAY + timedelta(minutes=10_000), ["id"]))
    assert found["id"].to_pylist() == list(range(10_000))
    assert file.given - before < len(data) // 4


@settings(deadline=None)
@given(
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, 400), st.integers(-1, 400), st.booleans()), max_size=20),
)
def test_it_reads_as_the_file_does(body: bytes, steps: list[tuple[int, int, bool]]) -> None:
    """Whatever its last bytes say of a footer, and whatever is held."""
    plain, windowed = io.BytesIO(body), WindowedFile(io.BytesIO(body))
    assert windowed.seek(0, io.SEEK_END) == len(body)
    for at, size, held in steps:
        if held:
            windowed.hold(at, at + max(0, size))
        assert windowed.seek(at) == plain.seek(at)
        assert windowed.read(size) == plain.read(size)
        assert windowed.tell() == plain.tell()
