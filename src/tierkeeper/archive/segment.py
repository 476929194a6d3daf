"""The segment's format: Parquet under Modular Encryption, an open format that any Parquet reader with the key can read.

It writes and reads files that are ciphertext from their first byte to their last; it knows no store, catalog or server.
Magic and version lie in the file's encrypted metadata; the segment's identity is the associated data of every module in it,
so that no page of one segment can stand in another.
"""

import hashlib
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Any, BinaryIO, Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from tierkeeper.archive.digest import ContentDigest
from tierkeeper.archive.layout import Layout, carried_again, layout, stored, uuid_told
from tierkeeper.archive.lossless import arrow_schema
from tierkeeper.archive.model import ColumnSummary, Contents
from tierkeeper.archive.summary import Summarizer, Summary
from tierkeeper.archive.window import WindowedFile, native
from tierkeeper.kernel.ahead import Beside
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.limits import (
    ARROW_BATCH_BYTES,
    BOUNDED_ROWS,
    COPY_BLOCK_BYTES,
    DIGEST_ROWS,
    GATHERED_ROWS,
    READ_BYTES,
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    STORE_PART_BYTES,
)

DATA_KEY_BYTES: Final = 32  # AES-256
_METADATA: Final = b"tierkeeper"
_ZSTD_LEVEL: Final = 3
PAGE_BY_PAGE: Final = MappingProxyType({"pre_buffer": False, "buffer_size": COPY_BLOCK_BYTES})
"""How a Parquet file is opened so that a column's pages are read one by one, and not the column of a row group at once."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MICROSECONDS: Final = 86_400_000_000


@dataclass(frozen=True)
class Written:
    """A finished file: `bytes` and `sha256` are of the ciphertext, `rows` and `digest` of what was written into it."""

    bytes: int
    sha256: str
    rows: int
    digest: str
    columns: tuple[ColumnSummary, ...]
    summary: Summary


def write(contents: Contents, batches: Iterable[pa.RecordBatch], data_key: bytes, out: BinaryIO) -> Written:
    """Writes `batches`, sorted by age and key, as one encrypted file, row group by row group.

    Reading the next row group overlaps with digesting and with compressing the last one, which are each in a thread; memory
    holds two of them. One of wide rows, whose compression alone takes three times a row, is compressed before the next is read.
    Raises ValueError if `batches` have other columns than `contents` says.
    """
    carried = contents.carried
    schema = arrow_schema(carried)
    digest, summary, sink = ContentDigest(schema), Summarizer(carried, contents.shape.key), _HashingSink(out)
    properties = pe.create_encryption_properties(data_key, aad_prefix=_aad(contents.segment), store_aad_prefix=False)

    def count(group: Sequence[pa.RecordBatch]) -> None:
        for batch in group:
            digest.update(batch)
        summary.update(group)

    groups = row_groups(batches)
    group = next(groups, [])
    lies = layout(contents, group)
    described = {_METADATA: contents.to_json(lies.version)}
    with (
        parquet_writer(sink, lies.schema.with_metadata(described), group, lies, encryption_properties=properties) as writer,
        Beside("digest") as counting,
        Beside("segment-writer") as writing,
    ):
        while group:
            counting(count, group)
            table = pa.Table.from_batches([stored(b, lies.schema) for b in group])
            writing(writer.write_table, table, row_group_size=_unit_rows(table))
            if _wide(table.num_rows, table.nbytes):
                counting.settle()
                writing.settle()
            del group, table  # or they would stay while the next group is read
            group = next(groups, [])
    return Written(sink.length_bytes, sink.sha256, digest.rows, digest.hexdigest(), summary.columns(), summary.summary())


def parquet_writer(
    sink: Any,
    schema: pa.Schema,
    first: Sequence[pa.RecordBatch],
    lies: Layout | None = None,
    **options: Any,
) -> pq.ParquetWriter:
    """A writer of rows, the first of which are `first`, laid out as `lies` says, or, without, in Parquet's own way.

    Columns with wide values get no dictionary and no least and greatest value: these would lie in memory beside the values.
    """
    size_bytes = {n: max((b.column(n).nbytes for b in first), default=0) for n in schema.names}
    narrow = [f.name for f in schema if not pa.types.is_string(f.type) or size_bytes[f.name] < ROW_GROUP_BYTES // 2]
    encodings = lies.encodings if lies else {}
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=[n for n in narrow if lies is None or n in lies.dictionaries],
        column_encoding=encodings or None,
        write_statistics=[n for n in narrow if lies is None or n in lies.statistics],
        **options,
    )


def row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """`batches` cut and gathered into groups of at most GATHERED_ROWS rows, sooner ended where they reach ROW_GROUP_BYTES.

    Nothing of a group is held here once the next is asked for. One of wide rows ends at half of it: the last row comes on top.
    """
    group: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    for batch in batches:
        step, at = rows_in(batch, ROW_GROUP_BYTES), 0
        while at < batch.num_rows:
            group.append(batch.slice(at, min(step, GATHERED_ROWS - rows)))
            at += group[-1].num_rows
            rows += group[-1].num_rows
            size_bytes += group[-1].nbytes
            if rows == GATHERED_ROWS or size_bytes >= ROW_GROUP_BYTES // (2 if _wide(rows, size_bytes) else 1):
                yield group
                group, rows, size_bytes = [], 0, 0
        del batch
    if group:
        yield group


def _unit_rows(table: pa.Table) -> int:
    """Of how many rows a reader's units are that `table` is cut into, all alike. Wide rows stay together."""
    rows, size_bytes = int(table.num_rows), int(table.nbytes)
    if not rows or _wide(rows, size_bytes):
        return max(1, rows)
    return -(-rows // max(-(-rows // ROW_GROUP_ROWS), round(size_bytes / READ_BYTES)))


def _wide(rows: int, size_bytes: int) -> bool:
    return size_bytes >= rows * COPY_BLOCK_BYTES


def rows_in(batch: pa.RecordBatch, size_bytes: int) -> int:
    """How many rows of `batch` have about `size_bytes`; at least one."""
    return max(1, int(batch.num_rows * size_bytes // max(1, batch.nbytes)))


@contextmanager
def opened(file: BinaryIO, segment: UUID, data_key: bytes, place: str) -> Iterator["OpenSegment"]:
    """The encrypted `file` for reading. Raises Failed, naming `place`, at the first byte that is not what was written."""
    properties = pe.create_decryption_properties(data_key, aad_prefix=_aad(segment))
    with authenticated(place):
        own = native(file)
        windowed = WindowedFile(file) if own is None else None
        source = own or pa.PythonFile(windowed, mode="r")
        parquet = pq.ParquetFile(source, decryption_properties=properties, **PAGE_BY_PAGE)
        description = (parquet.schema_arrow.metadata or {}).get(_METADATA, b"")
    contents = Contents.from_json(description, place)
    if contents.segment != segment:
        raise Failed(place, f"the file is that of segment {contents.segment}", "Run `tierkeeper archive verify`")
    yield OpenSegment(parquet, contents, place, windowed)


@contextmanager
def authenticated(place: str) -> Iterator[None]:
    """Turns what pyarrow says of a file that does not decrypt or decode into Failed at `place`."""
    try:
        yield
    except (pa.ArrowException, OSError, OverflowError, MemoryError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Failed(place, f"its bytes are not what was written ({cause})", "Restore the store from its copy") from error


@dataclass(frozen=True)
class OpenSegment:
    """A segment being read: every batch that comes out was authenticated, page by page. `window` is on a file elsewhere."""

    parquet: pq.ParquetFile
    contents: Contents
    place: str
    window: WindowedFile | None

    @cached_property
    def schema(self) -> pa.Schema:
        return arrow_schema(self.contents.carried)

    def batches(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        columns: Sequence[str] | None = None,
        *,
        threads: bool = True,
    ) -> Iterator[pa.RecordBatch]:
        """Rows, in order, with age in [since, until); row groups that cannot hold any are not read. Without an age all come.

        Just `columns` if given. Raises Failed at the first page that is not what was written, or for a column that is not there.
        `threads`: whether Arrow's own decode several columns at once, of rows that nothing bounds.
        """
        wanted = self.schema if columns is None else pa.schema([self._field(name) for name in columns])
        bounded = bool(self.contents.age) and (since is not None or until is not None)
        read = list(dict.fromkeys([*wanted.names, *([self.contents.age] if bounded else [])]))
        with authenticated(self.place):
            if bounded:
                found = self._bounded(since, until, read)
            else:
                found = read_batches(self.parquet, None, read if columns is not None else None, threads=threads)
            for rows in found:
                if rows.num_rows:
                    yield pa.RecordBatch.from_arrays([carried_again(rows.column(n)) for n in wanted.names], schema=wanted)

    def _bounded(self, since: datetime | None, until: datetime | None, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows with age in [since, until). A row group's ages are read first: of the other columns nothing behind the last
        such row is.
        """
        for group in range(self.parquet.num_row_groups):
            if not self._may_match(group, since, until):
                continue
            self._hold(group, columns)
            ages = self.parquet.read_row_group(group, columns=[self.contents.age]).column(0).combine_chunks()
            wanted = age_mask(ages, since, until)
            left = pc.sum(wanted).as_py() or 0
            at = 0
            for batch in read_batches(self.parquet, [group], columns, BOUNDED_ROWS) if left else ():
                here, at = wanted.slice(at, batch.num_rows), at + batch.num_rows
                count = pc.sum(here).as_py() or 0
                left -= count
                if count:
                    yield batch.filter(here)
                if not left:
                    break

    def _hold(self, group: int, columns: Sequence[str]) -> None:
        """Fetches the row group at once where most of it is wanted: it lies together, its columns are asked for one by one."""
        if self.window is None:
            return
        known = self.parquet.metadata.row_group(group)
        chunks = [known.column(i) for i in range(known.num_columns)]
        wanted = sum(c.total_compressed_size for c in chunks if c.path_in_schema in columns)
        starts = [min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in chunks]
        start, end = min(starts), max(s + c.total_compressed_size for s, c in zip(starts, chunks, strict=True))
        if wanted * 2 >= end - start and end - start <= STORE_PART_BYTES:
            self.window.hold(start, end)

    def bounds(self, name: str) -> tuple[str, str] | None:
        """The least and the greatest value of a column, as Postgres reads them; None where its type's order is not the file's."""
        index = self.schema.get_field_index(name)
        base = next((c.column.base for c in self.contents.carried if c.column.name == name), None)
        kind = self.schema.field(index).type if index >= 0 else pa.null()
        if not (pa.types.is_integer(kind) or pa.types.is_temporal(kind) or base == "uuid"):
            return None
        found = [self.parquet.metadata.row_group(g).column(index).statistics for g in range(self.parquet.num_row_groups)]
        if not found or any(one is None or not one.has_min_max for one in found):
            return None
        if pa.types.is_temporal(kind):  # as numbers: some machines have no table of zones
            unit = _DAY_MICROSECONDS if pa.types.is_date(kind) else 1
            ends = min(one.min_raw for one in found) * unit, max(one.max_raw for one in found) * unit
            return str(_EPOCH + timedelta(microseconds=ends[0])), str(_EPOCH + timedelta(microseconds=ends[1]))
        least, greatest = min(one.min_raw for one in found), max(one.max_raw for one in found)
        return (uuid_told(least), uuid_told(greatest)) if base == "uuid" else (str(least), str(greatest))

    def _field(self, name: str) -> pa.Field:
        index = self.schema.get_field_index(name)
        if index < 0:
            raise Failed(
                self.place, f"it has no column {name!r}: the table got it later", "Narrow the ages, or leave the column out"
            )
        return self.schema.field(index)

    def _may_match(self, group: int, since: datetime | None, until: datetime | None) -> bool:
        index = self.schema.get_field_index(self.contents.age)
        field = self.schema.field(index)
        statistics = self.parquet.metadata.row_group(group).column(index).statistics
        if not pa.types.is_temporal(field.type) or statistics is None or not statistics.has_min_max:
            return True
        unit = _DAY_MICROSECONDS if pa.types.is_date(field.type) else 1
        after = since is None or statistics.max_raw * unit >= _microseconds(since)
        return bool(after and (until is None or statistics.min_raw * unit < _microseconds(until)))


def read_batches(
    parquet: pq.ParquetFile,
    groups: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
    most_rows: int = DIGEST_ROWS,
    *,
    threads: bool = True,
) -> Iterator[pa.RecordBatch]:
    """The rows of all row groups, or of `groups`, in order, at most `most_rows` at a time, and of wide rows few."""
    for some in _together(parquet.metadata, range(parquet.num_row_groups) if groups is None else groups, most_rows):
        known = [parquet.metadata.row_group(group) for group in some]
        few = sum(g.num_rows for g in known) * ARROW_BATCH_BYTES // max(1, sum(g.total_byte_size for g in known))
        size = min(most_rows, max(1, few))
        yield from parquet.iter_batches(batch_size=size, row_groups=some, columns=columns, use_threads=threads)


def _together(file: pq.FileMetaData, groups: Sequence[int], most_rows: int) -> Iterator[list[int]]:
    """`groups` in lists that make one batch each: to begin to read costs as much for a few rows as for many."""
    some: list[int] = []
    rows = size_bytes = 0
    for group in groups:
        known = file.row_group(group)
        rows, size_bytes = rows + known.num_rows, size_bytes + known.total_byte_size
        if some and (rows > most_rows or size_bytes > ARROW_BATCH_BYTES):
            yield some
            some, rows, size_bytes = [], known.num_rows, known.total_byte_size
        some.append(group)
    if some:
        yield some


def age_mask(ages: pa.Array, since: datetime | None, until: datetime | None) -> pa.Array:
    """Which of `ages` lie in [since, until). Ages as text are Postgres's ISO form; those BC lie before every bound."""
    if pa.types.is_string(ages.type):
        ages = _ages_of_text(ages)
    micros = ages.cast(pa.timestamp("us")).view(pa.int64())  # a time without a zone is UTC
    mask = pc.is_valid(micros)
    if since is not None:
        mask = pc.and_(mask, pc.greater_equal(micros, _scalar(_microseconds(since))))
    if until is not None:
        mask = pc.and_(mask, pc.less(micros, _scalar(_microseconds(until))))
    return mask


def _scalar(value: int) -> pa.Scalar:
    """Made of bytes: of a Python value Arrow makes one only once it has loaded pandas, if that is installed."""
    body = value.to_bytes(8, sys.byteorder, signed=True)
    return pa.Array.from_buffers(pa.int64(), 1, [None, pa.py_buffer(body)])[0]


def _ages_of_text(ages: pa.Array) -> pa.Array:
    before_all = pa.scalar(-(2**62), pa.int64()).cast(pa.timestamp("us"))
    ancient = pc.ends_with(ages, " BC")
    text = pc.replace_substring_regex(pc.if_else(ancient, "0001-01-01", ages), r"\+00$", "")
    return pc.if_else(ancient, before_all, text.cast(pa.timestamp("us")))


def _microseconds(instant: datetime) -> int:
    """Since 1970, as Arrow and Parquet count; exact, which timestamp() is not. An instant without a zone is UTC."""
    return (instant.replace(tzinfo=instant.tzinfo or UTC) - _EPOCH) // timedelta(microseconds=1)


def sha256_of(file: BinaryIO) -> tuple[str, int]:
    """SHA-256 and length of `file` from its beginning; leaves it there."""
    digest, length_bytes = hashlib.sha256(), 0
    file.seek(0)
    while block := file.read(COPY_BLOCK_BYTES):
        digest.update(block)
        length_bytes += len(block)
    file.seek(0)
    return digest.hexdigest(), length_bytes


def _aad(segment: UUID) -> bytes:
    return b"tierkeeper segment 1 " + segment.bytes


class _HashingSink(io.RawIOBase):
    """Passes ciphertext on, counting and hashing it, so that the file need not be read again to be named."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__()
        self._out = out
        self._digest = hashlib.sha256()
        self.length_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        self._out.write(block)
        self._digest.update(block)
        self.length_bytes += len(block)
        return len(block)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
