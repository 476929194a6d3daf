"""A segment is read back by three threads at once: what any of them finds is told as if it were one, and none is left behind."""

import hashlib
import io
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tierkeeper.archive import reading
from tierkeeper.archive import segment as format_
from tierkeeper.archive.digest import ContentDigest
from tierkeeper.archive.layout import shares
from tierkeeper.archive.model import Contents
from tierkeeper.archive.reading import check_content
from tierkeeper.archive.segment import OpenSegment, Written
from tierkeeper.archive.window import native
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import Column, TableName, TableShape

KEY = bytes(range(32))
ID = UUID("00000000-0000-0000-0000-000000000001")
COLUMNS = (
    Column("id", "uuid", "uuid", not_null=True),
    Column("n", "bigint", "int8"),
    Column("t", "text", "text"),
)
CONTENTS = Contents(ID, TableShape(TableName("public", "t"), COLUMNS, ("id",), ddl=("…",)), "", False, {})
ROWS, UNIT = 2_000, 100


@pytest.fixture(autouse=True)
def many_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_, "ROW_GROUP_ROWS", UNIT)
    monkeypatch.setattr(format_, "GATHERED_ROWS", 2 * UNIT)
    monkeypatch.setattr(format_, "ARROW_BATCH_BYTES", 4_096)


@pytest.fixture
def put(tmp_path: Path) -> Callable[[], tuple[Path, Written]]:
    def make() -> tuple[Path, Written]:
        path = tmp_path / "segment"
        schema = format_.arrow_schema(CONTENTS.carried)
        columns = [
            pa.array([str(uuid4()) for _ in range(ROWS)]),
            pa.array(range(ROWS), pa.int64()),
            pa.array([None if n % 7 == 0 else f"text {n}" for n in range(ROWS)], pa.string()),
        ]
        with path.open("w+b") as out:
            return path, format_.write(CONTENTS, [pa.RecordBatch.from_arrays(columns, schema=schema)], KEY, out)

    return make


def check(path: Path, result: Written, *, here: bool = True) -> OpenSegment:
    """As of a file of this machine, or of one that is elsewhere. Whatever comes of it, no thread is left."""
    threads = threading.active_count()
    with path.open("rb") if here else nullcontext(io.BytesIO(path.read_bytes())) as file:
        try:
            return check_content(
                file,
                ID,
                KEY,
                "segment x",
                sha256=result.sha256,
                length_bytes=result.bytes,
                rows=result.rows,
                digest=result.digest,
            )
        finally:
            assert threading.active_count() == threads


def flipped(path: Path, at: int) -> str:
    """Flips a bit there; the SHA-256 of the file then."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def last_page_of(path: Path, name: str) -> int:
    """Where a column's pages begin in the last row group, and a little more."""
    with path.open("rb") as file, format_.opened(file, ID, KEY, "x") as content:
        metadata = content.parquet.metadata
        assert metadata.num_row_groups == ROWS // UNIT
        group = metadata.row_group(metadata.num_row_groups - 1)
        chunk = next(c for i in range(group.num_columns) if (c := group.column(i)).path_in_schema == name)
        return int(chunk.data_page_offset + chunk.total_compressed_size - 20)


@pytest.mark.parametrize("here", [True, False])
def test_what_was_written_is_proven_here_and_elsewhere(put: Callable[[], tuple[Path, Written]], here: bool) -> None:
    path, result = put()
    assert check(path, result, here=here).contents == CONTENTS
    with path.open("rb") as file:
        assert (native(file) is not None, native(io.BytesIO(b""))) == (True, None)


@pytest.mark.parametrize("here", [True, False])
def test_of_a_wrong_file_its_bytes_are_told_whatever_else_is_found_sooner(
    put: Callable[[], tuple[Path, Written]], here: bool
) -> None:
    path, result = put()
    whole = path.read_bytes()
    for at in (0, last_page_of(path, "id"), last_page_of(path, "t"), len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole)
        flipped(path, at)
        with pytest.raises(Failed, match="bytes in the store are not the") as told:
            check(path, result, here=here)
        assert told.value.place == "segment x"
    for data in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"x"):
        path.write_bytes(data)
        with pytest.raises(Failed, match=f"its {len(data)} bytes in the store are not the {len(whole)}"):
            check(path, result, here=here)


@pytest.mark.parametrize("name", [c.name for c in COLUMNS])
@pytest.mark.parametrize("here", [True, False])
def test_a_page_that_does_not_decrypt_is_found_by_whichever_thread_reads_it(
    put: Callable[[], tuple[Path, Written]], name: str, here: bool
) -> None:
    """In the last row group, and with a hash that says that all is well."""
    path, result = put()
    sha256 = flipped(path, last_page_of(path, name))
    with pytest.raises(Failed, match="its bytes are not what was written") as told:
        check(path, replace(result, sha256=sha256), here=here)
    assert told.value.place == "segment x"


@pytest.mark.parametrize(("name", "value"), [("id", str(UUID(int=7))), ("n", None), ("n", -1), ("t", "text 1998"), ("t", "")])
@pytest.mark.parametrize("here", [True, False])
def test_a_difference_in_the_last_row_alone_is_found_in_every_column(
    put: Callable[[], tuple[Path, Written]], monkeypatch: pytest.MonkeyPatch, name: str, value: object, here: bool
) -> None:
    """The file is whole and authentic: what was digested on the way to it is not what it holds."""
    write_table = pq.ParquetWriter.write_table
    left = ROWS

    def changing(self: pq.ParquetWriter, table: pa.Table, **kwargs: object) -> None:
        nonlocal left
        left -= len(table)
        if left == 0:
            at = table.schema.get_field_index(name)
            kind = table.schema.field(at).type
            last = pa.array([UUID(str(value)).bytes if kind == pa.uuid() else value], getattr(kind, "storage_type", kind))
            last = pa.ExtensionArray.from_storage(kind, last) if kind == pa.uuid() else last
            column = pa.chunked_array([*table.column(at).slice(0, len(table) - 1).chunks, last])
            table = table.set_column(at, table.schema.field(at), column)
        write_table(self, table, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", changing)
        path, result = put()
    assert left == 0
    with pytest.raises(Failed, match=f"its {ROWS} rows are not the {ROWS} that were written"):
        check(path, result, here=here)


@pytest.mark.parametrize("here", [True, False])
def test_a_row_too_few_is_told_by_its_number(put: Callable[[], tuple[Path, Written]], here: bool) -> None:
    path, result = put()
    with pytest.raises(Failed, match=f"its {ROWS} rows are not the {ROWS + 1} that were written"):
        check(path, replace(result, rows=ROWS + 1), here=here)


@pytest.mark.parametrize("broken", [0, 1])
def test_whatever_one_thread_dies_of_comes_out_when_all_have_ended(
    put: Callable[[], tuple[Path, Written]], monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    path, result = put()
    update, done = ContentDigest.update, [0, 0]
    halves = [0 if "id" in names else 1 for names in halves_of(path)]

    def dying(self: ContentDigest, batch: pa.RecordBatch) -> None:
        half = 0 if "id" in self.schema.names else 1
        if half == halves[broken]:
            raise MemoryError
        update(self, batch)
        done[half] += batch.num_rows

    monkeypatch.setattr(ContentDigest, "update", dying)
    with pytest.raises(MemoryError):
        check(path, result)
    assert done[halves[1 - broken]] == ROWS
    assert done[halves[broken]] == 0


def halves_of(path: Path) -> list[list[str]]:
    with path.open("rb") as file, format_.opened(file, ID, KEY, "x") as content:
        parquet = content.parquet
        return shares(parquet.metadata, parquet.schema_arrow, content.schema.names, 2)


def test_the_work_is_halved_and_no_column_is_left_out(put: Callable[[], tuple[Path, Written]]) -> None:
    path, _ = put()
    assert sorted(map(sorted, halves_of(path))) == [["id"], ["n", "t"]]
    with path.open("rb") as file, format_.opened(file, ID, KEY, "x") as content:
        given = content.parquet.metadata, content.parquet.schema_arrow, ["id", "n", "t"]
    assert shares(*given, 1) == [["id", "n", "t"]]
    assert sorted(map(len, shares(*given, 9))) == [1, 1, 1]
    assert shares(*given[:2], ["n"], 2) == [["n"]]


def test_a_column_that_no_thread_has_digested_stops_the_proof(
    put: Callable[[], tuple[Path, Written]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, result = put()
    monkeypatch.setattr(reading, "shares", lambda *_: [["id"], ["t"]])
    with pytest.raises(ValueError, match="no digests of the columns"):
        check(path, result)
