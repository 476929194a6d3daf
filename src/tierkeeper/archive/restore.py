"""Brings archived rows back: into a new table or a file, whole or not at all.

Nothing becomes visible before the last byte of every segment was authenticated, and what was restored was read back and found
equal. It never touches an existing table or file; `merging` does that.
"""

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, cast
from uuid import UUID

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql

from tierkeeper.archive.digest import ContentDigest
from tierkeeper.archive.keyed import Keys, Wanted
from tierkeeper.archive.lossless import Carried, arrow_schema
from tierkeeper.archive.model import Contents, Segment
from tierkeeper.archive.reading import SegmentReader
from tierkeeper.archive.segment import PAGE_BY_PAGE, OpenSegment, parquet_writer, read_batches, row_groups
from tierkeeper.archive.sending import NotTurned, Written, as_text, in_binary, is_large, own_types, pieces
from tierkeeper.kernel.ahead import Beside, drawn
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.tables import Column, TableName, TableShape
from tierkeeper.postgres import ddl, rows, shapes
from tierkeeper.postgres.arrow import copied
from tierkeeper.postgres.link import Link, transaction, translated

_NOT_KEPT: Final = "Nothing was kept: restore into a .parquet file, or on a server of the version that the rows came from"
_TEMPORARY: Final = "pg_temp"  # the session's own schema, which is there by itself
FILE_ENDINGS: Final = (".csv", ".parquet")


@dataclass(frozen=True)
class Selection:
    """Segments of one table with equal columns, in the order of their chain, and which of their rows: age in [since, until).

    Where one of them has ages BC, which go as text, `contents` says so and the others' ages are written as Postgres writes them.
    """

    reader: SegmentReader
    segments: Sequence[Segment]
    contents: Contents
    schema: pa.Schema
    since: datetime | None
    until: datetime | None
    still_open: dict[UUID, tuple[ExitStack, OpenSegment]] = field(default_factory=dict, repr=False)
    wanted: Wanted | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, authenticated page by page."""
        for segment in self.segments:
            with self._opened(segment) as content:
                if self.wanted and not self.wanted.may_lie_between(content.bounds(self.contents.shape.key[0])):
                    continue
                for batch in content.batches(self.since, self.until):
                    same = batch if batch.schema.equals(self.schema) else _ages_as_text(batch, self.schema, self.contents.age)
                    found = same if self.wanted is None else self.wanted.among(same)
                    if found.num_rows:
                        yield found

    @contextmanager
    def _opened(self, segment: Segment) -> Iterator[OpenSegment]:
        held, content = self.still_open.pop(segment.id, (ExitStack(), None))
        with held:
            yield content or held.enter_context(self.reader.open(segment))


def names_a_file(to: str) -> bool:
    """Whether `--to` means a file: it has a slash, or ends as files do that we write."""
    return "/" in to or to.endswith(FILE_ENDINGS)


def select(
    reader: SegmentReader, segments: Sequence[Segment], since: datetime | None, until: datetime | None, keys: Keys | None = None
) -> Selection:
    """The selection from `segments` (at least one, the newest last), of `keys` alone if they are given.

    Raises UsageError where their columns differ, where ages are asked for and the rows of one have none, and for keys that they
    cannot have.
    """
    if (since, until) != (None, None) and not all(s.age for s in segments):
        cause = "its rows have no age of their own: they came with those that they refer to"
        raise UsageError(f"table {segments[-1].table}", cause, "Leave --since and --until out")
    wanted = [s for s in segments if _may_match(s, since, until)]
    newest = wanted[-1] if wanted else segments[-1]
    with ExitStack() as stack:
        content = stack.enter_context(reader.open(newest))
        contents = content.contents
        still_open = {newest.id: (stack.pop_all(), content)} if wanted else {}
    for other in {s.schema_hash: s for s in wanted if s.schema_hash != newest.schema_hash}.values():
        with reader.open(other) as content:
            theirs = content.contents
        if not fit(theirs, contents):
            what = _difference(theirs.shape, contents.shape)
            cause = f"its columns changed between segment {other.id} and segment {newest.id}: {what}"
            raise UsageError(f"table {newest.table}", cause, "Restore them one by one with --segment")
        if theirs.age_is_native != contents.age_is_native:
            contents = replace(contents, age_is_native=False)
    schema = arrow_schema(contents.carried)
    return Selection(reader, wanted, contents, schema, since, until, still_open, keys.within(contents) if keys else None)


def fit(one: Contents, other: Contents) -> bool:
    """Whether rows of both fit into one table. Where one of them does not say what its types mean, nothing speaks against it."""
    says = bool(one.shape.types and other.shape.types)
    first, second = (replace(c, age_is_native=False, shape=c.shape if says else replace(c.shape, types=())) for c in (one, other))
    return first.schema_hash == second.schema_hash


def _difference(old: TableShape, new: TableShape) -> str:
    """The first thing in which the columns of two segments differ, in words."""
    for column in new.columns:
        before = old.column(column.name)
        renamed = next((c for c in old.columns if old.oid == new.oid != 0 and c.number == column.number != 0), before)
        if renamed is not None and renamed.name != column.name:
            return f"its column {renamed.name!r} is called {column.name!r} since"
        if before is None:
            return f"its column {column.name!r} came later"
        if before.type != column.type:
            return f"its column {column.name!r} of type {before.type} is of type {column.type} since"
    gone = next((c.name for c in old.columns if new.column(c.name) is None), None)
    if gone is not None:
        return f"its column {gone!r} is gone since"
    meant = {t.name: t.meaning for t in old.types}
    other = next((t for t in new.types if meant.get(t.name) != t.meaning), None)
    if other is None:
        return "its collations or its key"
    return (
        f"its column {other.column!r} has the type {other.name}, which was {meant.get(other.name, 'none')} and is {other.meaning}"
    )


def to_table(selection: Selection, link: Link, name: TableName) -> int:
    """Makes the table `name` with the selection's rows in one transaction; how many. Raises UsageError if it exists.

    The table is invisible until it was read back and compared. A block is turned to or from text beside the link's work.
    """
    place = f"table {name} ({link.label})"
    if name.schema == "tierkeeper":
        raise UsageError(place, "that schema is tierkeeper's own", "Name a table in another schema")
    with translated(place), closing(link.connect("restore")) as conn:
        if shapes.exists(conn, name):
            remedy = "Name a table that does not exist, or say with --on-conflict what becomes of the rows in it"
            raise UsageError(place, "it exists already", remedy)
        with transaction(conn) as cur:
            rows = fill(cur, selection, name, place)
            _add_key(cur, selection.contents, name)
            reach(Point.RESTORE_BEFORE_COMMIT)
    return rows


def fill(cur: psycopg.Cursor, selection: Selection, name: TableName, place: str, columns: Sequence[Column] | None = None) -> int:
    """Makes the table `name`, without a key, with the selection's rows, and compares them; how many. In `cur`'s transaction.

    `columns`: as they are wanted in a temporary table that goes with the transaction, where all their types are there.
    """
    if columns is None:
        _create(cur, selection.contents, name)
    else:
        statement = ddl.table_statement(name, columns, ()).removeprefix("CREATE")
        cur.execute(sql.SQL(f"CREATE TEMPORARY{statement} ON COMMIT DROP"))
    _refuse_other_types(cur, selection.contents.shape, place)
    sent = _copy_in(cur, selection, name)
    _compare(sent, _read_back(cur, selection, name), place)
    return sent.rows


def to_file(selection: Selection, path: Path) -> int:
    """Writes the selection's rows to a new .csv or .parquet file (600); how many. Raises UsageError if it exists.

    The file appears under its name only when it was read back and compared.
    """
    if path.suffix not in FILE_ENDINGS:
        raise UsageError(str(path), "its ending says no format", "Let the name end with .csv or .parquet")
    with _file_errors(path):
        if path.exists():
            raise UsageError(str(path), "it exists already", "Name a file that does not exist")
        with _unnamed(path.parent) as (file, source):
            write, read = (_write_csv, _read_csv) if path.suffix == ".csv" else (_write_parquet, _read_parquet)
            sent, blocks = write(selection, file)
            file.flush()
            with Beside("fsync") as syncing:
                syncing(os.fsync, file.fileno())
                _compare(sent, read(selection.schema, file, blocks, str(path)), str(path))
            reach(Point.RESTORE_BEFORE_COMMIT)
            try:
                # Unlike a rename it never replaces a file that came meanwhile. A descriptor makes it follow /proc's link.
                os.link(source, path, src_dir_fd=file.fileno(), follow_symlinks=True)
            except FileExistsError:
                raise UsageError(str(path), "it exists already", "Name a file that does not exist") from None
    return sent.rows


@contextmanager
def _unnamed(folder: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A new file (600) in `folder`, and what to link it by. It has no name yet, so that a killed run leaves no rows behind."""
    try:
        fd, temporary = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        fd, temporary = tempfile.mkstemp(prefix=".tierkeeper-", dir=folder)  # this file system knows no unnamed files
    try:
        with os.fdopen(fd, "w+b") as file:
            yield cast("BinaryIO", file), temporary or f"/proc/self/fd/{fd}"
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _ages_as_text(batch: pa.RecordBatch, schema: pa.Schema, age: str) -> pa.RecordBatch:
    """`batch` with its native ages as Postgres's text under the pinned settings, in which the fraction has no trailing zeros."""
    at = schema.get_field_index(age)
    ages, columns = batch.column(at), batch.columns
    text = ages.cast(pa.date32() if pa.types.is_date(ages.type) else pa.timestamp("us")).cast(pa.string())
    text = pc.replace_substring_regex(text, r"\.?0*$", "") if pa.types.is_timestamp(ages.type) else text
    columns[at] = pc.binary_join_element_wise(text, "+00", "") if getattr(ages.type, "tz", None) else text
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _may_match(segment: Segment, since: datetime | None, until: datetime | None) -> bool:
    """A segment without a least age holds ages before the year 1, or nothing."""
    after = since is None or segment.max_age is None or segment.max_age >= since
    return after and (until is None or segment.min_age is None or segment.min_age < until)


def _create(cur: psycopg.Cursor, contents: Contents, name: TableName) -> None:
    there = {r[0] for r in cur.execute("SELECT nspname::text FROM pg_namespace")}
    made = {_make_schema(s) for s in there}
    needed = [*([] if name.schema == _TEMPORARY else [_make_schema(name.schema)]), *contents.shape.ddl[:-1]]
    # IF NOT EXISTS still asks for the right to create, which a plain owner of the schema may lack.
    for statement in (s for s in needed if s not in made):
        cur.execute(sql.SQL(statement))  # from the segment's own authenticated description
    cur.execute(sql.SQL(ddl.table_statement(name, contents.shape.columns, ())))


def _refuse_other_types(cur: psycopg.Cursor, shape: TableShape, place: str) -> None:
    """A value of them is the same text in both, and reads back as such, and says another thing: (a, b) for (b, a)."""
    there = ddl.read_meanings(cur, {t.name for t in shape.types})
    for known in shape.types:
        if (theirs := there.get(known.name, known.meaning)) != known.meaning:
            cause = f"its type {known.name} is {theirs} there, and was {known.meaning} when the rows were archived"
            remedy = "Nothing was changed: give that type its old definition there, or restore into a file"
            raise UsageError(f"{place}, column {known.column!r}", cause, remedy)


def _add_key(cur: psycopg.Cursor, contents: Contents, name: TableName) -> None:
    """Once the rows are there: an index that is built at once takes a fraction of one that grows row by row."""
    if contents.shape.key:
        cur.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(_table(name), _columns(contents.shape.key)))


def _make_schema(name: str) -> str:
    return f"CREATE SCHEMA IF NOT EXISTS {sql.Identifier(name).as_string(None)}"


def _copy_in(cur: psycopg.Cursor, selection: Selection, name: TableName) -> ContentDigest:
    """Fills the table; what it sends, in order. Where a value cannot be turned to its type's own form, all rows go as text."""
    types = own_types(cur, selection.contents.carried)
    if types is None:
        return _sent(cur, selection, name, as_text, "csv")
    if not any(types):
        return _sent(cur, selection, name, partial(in_binary, types), "binary")
    cur.execute("SAVEPOINT in_binary")
    try:
        return _sent(cur, selection, name, partial(in_binary, types), "binary")
    except NotTurned:
        cur.execute("ROLLBACK TO SAVEPOINT in_binary")
        cur.execute(sql.SQL("TRUNCATE {}").format(_table(name)))  # of rows that nobody will see
        return _sent(cur, selection, name, as_text, "csv")


def _sent(cur: psycopg.Cursor, selection: Selection, name: TableName, written: Written, form: str) -> ContentDigest:
    digest = ContentDigest(selection.schema)
    into = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(_table(name), _columns(selection.schema.names), sql.SQL(form))
    with Beside("digest") as counting:

        def counted() -> Iterator[pa.RecordBatch]:
            for batch in selection.batches():
                counting(digest.update, batch)
                yield batch
                del batch

        with cur.copy(into) as stream, closing(drawn(written(counted()), alone=is_large)) as blocks:
            for block in blocks:
                stream.write(block)
                del block
    return digest


def _read_back(cur: psycopg.Cursor, selection: Selection, name: TableName) -> ContentDigest:
    """The new table in the order in which it was filled: nobody else has touched it, and COPY into a new one only appends."""
    cur.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    cur.execute("SET LOCAL synchronize_seqscans = off")
    digest = ContentDigest(selection.schema)
    columns = sql.SQL(", ").join(map(_as_copy_writes, selection.contents.carried))
    query = sql.SQL("SELECT {} FROM ONLY {}").format(columns, _table(name))
    with _readable(f"table {name}"), Beside("digest") as counting, closing(copied(cur, query, selection.schema)) as batches:
        for batch in batches:
            counting(digest.update, batch)
            if batch.num_rows == 1:
                counting.settle()  # it may be a large row
            del batch
    return digest


def _as_copy_writes(carried: Carried) -> sql.Composable:
    """The column as COPY gives its text, by its type's output function, as the archive has it."""
    column = carried.column
    return sql.SQL("{}{}").format(sql.Identifier(column.name), sql.SQL(f"::{column.written_as}" if column.written_as else ""))


def _table(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def _columns(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _write_csv(selection: Selection, file: BinaryIO) -> tuple[ContentDigest, list[int]]:
    """What was written, and in blocks of how many bytes."""
    sent = ContentDigest(selection.schema)
    blocks = [file.write(rows.header(selection.schema))]
    for batch in selection.batches():
        sent.update(batch)
        blocks += (file.write(rows.to_csv(piece)) for piece in pieces(batch))
        del batch
    return sent, blocks


def _read_csv(schema: pa.Schema, file: BinaryIO, blocks: Sequence[int], place: str) -> ContentDigest:
    kept = ContentDigest(schema)
    file.seek(blocks[0])
    with _readable(place):
        for length_bytes in blocks[1:]:
            kept.update(rows.from_csv(file.read(length_bytes), schema))
    return kept


def _write_parquet(selection: Selection, file: BinaryIO) -> tuple[ContentDigest, list[int]]:
    sent = ContentDigest(selection.schema)
    metadata = {"tierkeeper": selection.contents.to_json()}
    groups = row_groups(selection.batches())
    group = next(groups, [])
    with parquet_writer(pa.PythonFile(file, mode="w"), selection.schema.with_metadata(metadata), group) as writer:
        while group:
            for batch in group:
                sent.update(batch)
            writer.write_table(pa.Table.from_batches(group, schema=selection.schema))
            del batch, group  # or they would stay while the next group is read
            group = next(groups, [])
    return sent, []


def _read_parquet(schema: pa.Schema, file: BinaryIO, _: Sequence[int], place: str) -> ContentDigest:
    kept = ContentDigest(schema)
    file.seek(0)
    with _readable(place):
        for batch in read_batches(pq.ParquetFile(pa.PythonFile(file, mode="r"), **PAGE_BY_PAGE)):
            kept.update(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    return kept


def _compare(sent: ContentDigest, kept: ContentDigest, place: str) -> None:
    if not sent.same_as(kept):
        cause = f"what was restored differs from the archive ({sent.rows} rows archived, {kept.rows} restored)"
        raise Failed(place, cause, _NOT_KEPT)


@contextmanager
def _readable(place: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise Failed(place, f"what was restored cannot be read back ({str(error).splitlines()[0]})", _NOT_KEPT) from error


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failed(
            str(path), f"it cannot be written ({error.strerror or error})", "Name a file in a folder with room that you may write"
        ) from error
