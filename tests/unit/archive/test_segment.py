"""The segment's format: authenticated to the last byte, flat in memory, pruned by age."""

import io
import secrets
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tierkeeper.archive import segment as format_
from tierkeeper.archive.model import Contents
from tierkeeper.archive.reading import check_content
from tierkeeper.archive.segment import OpenSegment, Written
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import Column, TableName, TableShape

KEY = bytes(range(32))
ID = UUID("00000000-0000-0000-0000-000000000001")
COLUMNS = (
    Column("at", "timestamp with time zone", "timestamptz", not_null=True),
    Column("id", "bigint", "int8"),
    Column("t", "text", "text"),
)
SHAPE = TableShape(TableName("public", "t"), COLUMNS, ("id",), ddl=("CREATE TABLE …",))
DAY = datetime(2013, 1, 1, tzinfo=UTC)


def contents(segment: UUID = ID) -> Contents:
    return Contents(segment, SHAPE, "at", True, {"TimeZone": "UTC"})


def batches(rows: int, size: int = 1000, text: str = "x") -> list[pa.RecordBatch]:
    schema = format_.arrow_schema(contents().carried)
    made = []
    for start in range(0, rows, size):
        numbers = range(start, min(start + size, rows))
        ages = pa.array([DAY + timedelta(minutes=n) for n in numbers], pa.timestamp("us", "UTC"))
        texts = pa.array([None if n % 7 == 0 else text + str(n) for n in numbers], pa.string())
        made.append(pa.RecordBatch.from_arrays([ages, pa.array(numbers, pa.int64()), texts], schema=schema))
    return made


def written(rows: int, **kwargs: int) -> tuple[bytes, Written]:
    out = io.BytesIO()
    result = format_.write(contents(), batches(rows, **kwargs), KEY, out)
    return out.getvalue(), result


def check(data: bytes, result: Written, *, key: bytes = KEY, segment: UUID = ID) -> OpenSegment:
    return check_content(
        io.BytesIO(data),
        segment,
        key,
        "segment x",
        sha256=result.sha256,
        length_bytes=result.bytes,
        rows=result.rows,
        digest=result.digest,
    )


def read(data: bytes, **bounds: datetime) -> pa.Table:
    with format_.opened(io.BytesIO(data), ID, KEY, "segment x") as content:
        return pa.Table.from_batches(content.batches(**bounds), schema=content.schema)


def test_what_is_written_is_read_and_says_what_it_is() -> None:
    data, result = written(2500)
    assert check(data, result).contents == contents()
    assert read(data) == pa.Table.from_batches(batches(2500))
    assert (result.rows, result.summary.first_key, result.summary.last_key) == (2500, ["0"], ["2499"])
    assert result.summary.ranges["at"] == ("2013-01-01T00:00:00", "2013-01-02T17:39:00")
    assert result.summary.ranges["id"] == ("0", "2499")
    assert [(c.name, c.nulls) for c in result.columns][:2] == [("at", 0), ("id", 0)]
    assert result.columns[2].nulls == 358
    assert data[:4] == data[-4:] == b"PARE"
    assert b"2013" not in data
    assert b"public" not in data


def test_every_flipped_byte_is_found_and_no_other_row_ever_comes_out() -> None:
    """The hash of the ciphertext finds every one; authentication alone lets through a few that carry nothing (magic, lengths)."""
    data, result = written(20)
    assert len(data) < 4_000
    rows, idle = read(data), 0
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]
        with pytest.raises(Failed):
            check(changed, result)
        try:
            assert read(changed) == rows, at
            idle += 1
        except Failed:
            continue
    assert idle < 16


def test_rows_that_change_places_on_their_way_into_the_file_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is whole and authentic then: the rows alone tell."""
    write_table = pq.ParquetWriter.write_table

    def swapping(self: pq.ParquetWriter, table: pa.Table, **kwargs: object) -> None:
        write_table(self, table.take([1, 0, *range(2, len(table))]), **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", swapping)
    data, result = written(20)
    with pytest.raises(Failed, match="its 20 rows are not the 20 that were written"):
        check(data, result)


def test_cut_short_or_lengthened_files_are_found() -> None:
    data, result = written(20)
    for length in range(0, len(data), 13):
        with pytest.raises(Failed):
            check(data[:length], result)
        with pytest.raises(Failed):
            read(data[:length])
    with pytest.raises(Failed):
        check(data + b"x", result)


def test_another_key_or_identity_opens_nothing() -> None:
    data, result = written(20)
    with pytest.raises(Failed):
        check(data, result, key=secrets.token_bytes(32))
    with pytest.raises(Failed):
        check(data, result, segment=uuid4())


def test_equal_rows_make_other_ciphertext_and_the_same_digest() -> None:
    one, two = written(100)[1], written(100, size=7)[1]
    assert one.digest == two.digest
    assert one.sha256 != two.sha256


def test_ages_bound_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_, "ROW_GROUP_ROWS", 100)
    data, _ = written(1000)
    since, until = DAY + timedelta(minutes=250), DAY + timedelta(minutes=260)
    assert read(data, since=since, until=until)["id"].to_pylist() == list(range(250, 260))
    with format_.opened(io.BytesIO(data), ID, KEY, "x") as content:
        assert content.parquet.num_row_groups == 10
        read_groups: list[int] = []
        iter_batches = content.parquet.iter_batches

        def spy(**kwargs: object) -> object:
            read_groups.extend(kwargs["row_groups"])  # type: ignore[call-overload]
            return iter_batches(**kwargs)

        monkeypatch.setattr(content.parquet, "iter_batches", spy)
        list(content.batches(since, until))
    assert read_groups == [2]
    assert read(data, since=DAY + timedelta(days=9)).num_rows == 0


@pytest.mark.parametrize("step", [1, 7])
def test_of_a_row_group_nothing_behind_its_last_wanted_row_is_read(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Every window gives exactly its rows, in order, wherever pieces end, and also where ages are in no order."""
    monkeypatch.setattr(format_, "ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(format_, "BOUNDED_ROWS", 9)
    order = [n * step % 400 for n in range(400)]
    whole = pa.Table.from_batches(batches(400)).take(pa.array(order))
    out = io.BytesIO()
    format_.write(contents(), whole.to_batches(max_chunksize=64), KEY, out)
    with format_.opened(io.BytesIO(out.getvalue()), ID, KEY, "x") as content:
        for first, rows in [(0, 1), (0, 9), (3, 10), (95, 10), (118, 64), (399, 1), (17, 383), (250, 0), (400, 9)]:
            bounds = DAY + timedelta(minutes=first), DAY + timedelta(minutes=first + rows)
            found = [n for batch in content.batches(*bounds) for n in batch.column("id").to_pylist()]
            assert found == [n for n in order if first <= n < first + rows]
        read = 0
        iter_batches = content.parquet.iter_batches

        def spy(**kwargs: object) -> object:
            nonlocal read
            for batch in iter_batches(**kwargs):
                read += batch.num_rows
                yield batch

        monkeypatch.setattr(content.parquet, "iter_batches", spy)
        list(content.batches(DAY, DAY + timedelta(minutes=3), ["t"]))
    last = [max((i for i, n in enumerate(order[at : at + 100]) if n < 3), default=-9) for at in range(0, 400, 100)]
    assert read == sum(9 * (at // 9 + 1) for at in last)


def test_ages_are_bounded_without_pandas() -> None:
    code = """
import sys
from datetime import UTC, datetime
import pyarrow as pa
from tierkeeper.archive.segment import age_mask
numbers = b"".join(n.to_bytes(8, sys.byteorder) for n in range(3))
ages = pa.Array.from_buffers(pa.timestamp("us", "UTC"), 3, [None, pa.py_buffer(numbers)])
mask = age_mask(ages, *(datetime(1970, 1, 1, microsecond=n, tzinfo=UTC) for n in (1, 2)))
print(mask.to_pylist(), "pandas" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[0] == "[False, True, False] False", "to load it takes longer than to find a day's rows"


def test_row_groups_end_at_rows_or_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = list(format_.row_groups(batches(2500, size=300)))
    assert [sum(b.num_rows for b in g) for g in groups] == [2500]
    monkeypatch.setattr(format_, "GATHERED_ROWS", 1000)
    assert [sum(b.num_rows for b in g) for g in format_.row_groups(batches(2500, size=300))] == [1000, 1000, 500]
    monkeypatch.setattr(format_, "ROW_GROUP_BYTES", 20_000)
    sizes = [sum(b.nbytes for b in g) for g in format_.row_groups(batches(2500, size=2500))]
    assert max(sizes) < 45_000
    rows = [r for g in format_.row_groups(batches(2500, size=2500)) for b in g for r in b.column(1).to_pylist()]
    assert rows == list(range(2500))


@pytest.mark.parametrize(("rows", "size_bytes"), [(1000, 10**9), (10**6, 20_000)])
def test_a_readers_units_end_at_rows_or_bytes(monkeypatch: pytest.MonkeyPatch, rows: int, size_bytes: int) -> None:
    monkeypatch.setattr(format_, "ROW_GROUP_ROWS", rows)
    monkeypatch.setattr(format_, "READ_BYTES", size_bytes)
    monkeypatch.setattr(format_, "ARROW_BATCH_BYTES", 9_000)  # so that not all are read back at once
    data, result = written(2500)
    file = check(data, result).parquet.metadata
    found = [file.row_group(g).num_rows for g in range(file.num_row_groups)]
    whole_bytes = sum(b.nbytes for b in batches(2500))
    units = max(-(-2500 // rows), round(whole_bytes / size_bytes))
    assert (sum(found), len(found)) == (2500, units)
    assert units > 1
    assert len({*found[:-1]}) == 1, "they are alike"


def test_an_empty_segment_is_a_segment() -> None:
    data, result = written(0)
    assert (result.rows, result.summary.first_key, result.summary.ranges) == (0, [], {})
    assert check(data, result).parquet.num_row_groups == 0


def test_a_failing_source_or_disk_ends_the_write() -> None:
    def broken() -> object:
        yield from batches(200)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        format_.write(contents(), broken(), KEY, io.BytesIO())  # type: ignore[arg-type]

    class Full(io.BytesIO):
        def write(self, block: object) -> int:
            raise OSError(28, f"No space left on device for {block!r}")

    with pytest.raises(OSError, match="No space left"):
        format_.write(contents(), batches(200), KEY, Full())


def test_any_parquet_reader_with_the_key_can_read_it() -> None:
    import pyarrow.parquet.encryption as pe

    data, _ = written(50)
    properties = pe.create_decryption_properties(KEY, aad_prefix=b"tierkeeper segment 1 " + ID.bytes)
    table = pq.read_table(pa.BufferReader(data), decryption_properties=properties)
    assert table["id"].to_pylist() == list(range(50))


@pytest.mark.parametrize(
    ("base", "groups", "told"),
    [
        ("text", [["b", None], [None, None], ["é", "z", ""]], ("", "é")),
        ("text", [["b"], ["c" * 64]], ("b", "c" * 64)),
        ("text", [["b"], ["c" * 65]], None),
        ("text", [["b" * 5000], ["c"]], None),
        ("text", [[None], [None]], None),
        ("int2", [[None], [10, -9], [9, None]], ("-9", "10")),
        ("date", [[date(1970, 1, 1)], [date(1, 1, 1), date(9999, 12, 31)]], ("0001-01-01", "9999-12-31")),
        ("timestamp", [[datetime(1969, 12, 31, 23, 59, 59, 1)], [DAY.replace(tzinfo=None)]],
         ("1969-12-31T23:59:59.000001", "2013-01-01T00:00:00")),
        ("float8", [[1.0]], None),
        ("bool", [[True]], None),
        ("numeric", [["10"], ["9"]], None),
    ],
)  # fmt: skip
def test_a_summary_tells_the_extremes_over_all_row_groups(
    monkeypatch: pytest.MonkeyPatch, base: str, groups: list[list[object]], told: tuple[str, str] | None
) -> None:
    monkeypatch.setattr(format_, "row_groups", lambda batches: ([b] for b in batches))
    table = TableShape(SHAPE.name, (COLUMNS[1], Column("v", base, base)), ("id",), ddl=("CREATE TABLE …",))
    age = "v" if base in ("date", "timestamp") else "id"
    described, out = Contents(ID, table, age, True, {}), io.BytesIO()
    schema = format_.arrow_schema(described.carried)
    rows = [
        pa.RecordBatch.from_arrays([pa.array(range(len(g)), pa.int64()), pa.array(g, schema.field("v").type)], schema=schema)
        for g in groups
    ]
    assert format_.write(described, rows, KEY, out).summary.ranges.get("v") == told


@pytest.mark.parametrize(
    ("base", "values", "wanted"),
    [
        ("int2", [n % 3 for n in range(1000)], "BYTE_STREAM_SPLIT"),
        ("int8", [n * 10**12 for n in range(1000)], "BYTE_STREAM_SPLIT"),
        ("int8", [n % 400 * 10**12 for n in range(1000)], "RLE_DICTIONARY"),
        ("float8", [n / 7 for n in range(1000)], "BYTE_STREAM_SPLIT"),
        ("float8", [n % 9 / 7 for n in range(1000)], "RLE_DICTIONARY"),
        ("float4", [None] * 900 + [1.5] * 100, "RLE_DICTIONARY"),
    ],
)
def test_numbers_have_no_dictionary_unless_it_is_short(base: str, values: list[float | None], wanted: str) -> None:
    table = TableShape(SHAPE.name, (COLUMNS[1], Column("n", base, base)), ("id",), ddl=("CREATE TABLE …",))
    described, out = Contents(ID, table, "id", True, {}), io.BytesIO()
    schema = format_.arrow_schema(described.carried)
    rows = pa.RecordBatch.from_arrays(
        [pa.array(range(1000), pa.int64()), pa.array(values, schema.field("n").type)], schema=schema
    )
    format_.write(described, [rows], KEY, out)
    with format_.opened(io.BytesIO(out.getvalue()), ID, KEY, "segment x") as content:
        column = content.parquet.metadata.row_group(0).column(1)
        assert wanted in column.encodings
        assert column.statistics is None, "nobody leaves rows out by it"
        assert content.bounds("n") is None
        assert content.parquet.metadata.row_group(0).column(0).statistics.has_min_max
        assert pa.Table.from_batches(content.batches()) == pa.Table.from_batches([rows])
