"""The source's side of a batch: its markers, the snapshot it is read in (S1) and the delete that ends it (S2)."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, LiteralString, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors, sql

from tierkeeper.kernel.digest import RowDigest
from tierkeeper.kernel.errors import Failed, Fenced, NotNow, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Batch, Extent, LedgerRow
from tierkeeper.kernel.tables import Part, TableName, TableShape
from tierkeeper.mover import fitness, model, references, width
from tierkeeper.mover.model import Bound, Piece, Selection
from tierkeeper.postgres import shapes
from tierkeeper.postgres.arrow import snapshot_reader
from tierkeeper.postgres.copy import rows_out
from tierkeeper.postgres.link import Connection, Link, transaction
from tierkeeper.postgres.statements import load

if TYPE_CHECKING:
    import pyarrow as pa

_SQL = load("tierkeeper.mover", "source.sql")
_CHANGED = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.ObjectInUse,  # rows that have just arrived here, in the range of a batch that leaves: the guard keeps them
)
_REFERRED = (errors.ForeignKeyViolation, errors.RestrictViolation)  # a row that came since the proof refers to one that would go
T = TypeVar("T")


class Changed(Exception):  # noqa: N818 - a state of the world that the runner answers by trying smaller, not an error
    """The batch's rows changed between S1 and S2; everything was rolled back."""


class Resting(Exception):  # noqa: N818 - a row's time has not come; the run ends with this as its reason
    """Rows of the table arrived in this tier so lately that a reader could still mistake them; nothing was changed."""


@dataclass(frozen=True)
class Snapshot:
    """S1: implements `kernel.ports.SourceSnapshot` inside one REPEATABLE READ, READ ONLY transaction."""

    link: Link
    cursor: psycopg.Cursor
    shape: TableShape
    batch: Batch
    extent: Extent
    ends: bool = True

    def copy(self, columns: Sequence[str], *, binary: bool, digest: RowDigest | None = None) -> Generator[bytearray]:
        query = sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE {}) TO STDOUT").format(
            model.names(columns), model.qualified(self.batch.heap), _text(self.batch.predicate)
        )
        query = query + sql.SQL(" (FORMAT binary)") if binary else query
        with closing(rows_out(self.cursor, query, binary=binary, digest=digest)) as blocks:
            yield from islice(blocks, 1)
            reach(Point.SOURCE_READ)
            yield from blocks

    @contextmanager
    def arrow(self, projection: Sequence[tuple[str, str]], order_by: Sequence[str]) -> Iterator["pa.RecordBatchReader"]:
        columns = sql.SQL(", ").join(sql.SQL("{} AS {}").format(_text(e), sql.Identifier(name)) for name, e in projection)
        query = sql.SQL("SELECT {} FROM ONLY {} WHERE {} ORDER BY {}").format(
            columns, model.qualified(self.batch.heap), _text(self.batch.predicate), model.names(order_by)
        )
        exported = self.cursor.execute("SELECT pg_export_snapshot()").fetchone()
        assert exported is not None  # noqa: S101 - a function's SELECT gives one row
        with snapshot_reader(self.link, str(exported[0]), query.as_string(self.cursor), purpose="mover") as reader:
            reach(Point.SOURCE_READ)
            yield reader

    def close(self) -> None:
        if self.ends:
            self.cursor.execute("COMMIT")


class Source:
    """A Postgres tier that rows leave. Its marker decides every batch.

    Keeps I3 and I4: `delete` takes away exactly the rows whose versions S1 read, in one transaction with the marker's change
    from open to moved, or nothing at all.
    """

    def __init__(self, link: Link, conn: Connection, tier: Tier) -> None:
        self.tier: Tier = tier
        self.link = link
        self.conn = conn

    def now(self) -> datetime:
        """The server's clock."""
        with transaction(self.conn, read_only=True) as cur:
            return _one(cur.execute("SELECT clock_timestamp()"), datetime)

    def parts(self, selection: Selection) -> list[TableName | None]:
        """Where the selection's rows lie now: as `Batch.part` names it, None for a table without others below it."""
        if not selection.shape.is_tree:
            return [None]
        with transaction(self.conn, read_only=True) as cur:
            return [part.name for part in self._fitting_parts(cur, selection)]

    def _fitting_parts(self, cur: psycopg.Cursor, selection: Selection) -> Iterator[Part]:
        """Raises UsageError for one with columns that the table does not have: they would be lost."""
        for part in shapes.parts(cur, selection.shape.name, selection.apart):
            if part.more:
                raise UsageError(
                    f"{selection.shape.name} ({self.tier})",
                    f"{part.name} inherits from it and has columns of its own ({', '.join(part.more)})",
                    f"Give {part.name} a [[tables]] entry of its own",
                )
            yield part

    def refuse_unfit(self, selection: Selection) -> None:
        """Raises UsageError where rows of the selection could not be taken away here, before anything is changed."""
        for table in dict.fromkeys([selection.shape.name, *(p for p in self.parts(selection) if p is not None)]):
            self._refuse_unfit(table)

    def _refuse_unfit(self, table: TableName) -> None:
        with transaction(self.conn, read_only=True) as cur:
            row = cur.execute(_SQL["fitness"], {"schema": table.schema, "table": table.name}).fetchone()
        replica, allowed = row or (False, True)
        if replica:
            raise UsageError(f"tiers.{self.tier}", "this is a replica, which takes no writes", "Give the address of its primary")
        if not allowed:
            raise UsageError(
                f"{table} ({self.tier})",
                "the role may not read and delete its rows",
                f"There: GRANT SELECT, DELETE ON {table}, or connect as its owner",
            )
        around = fitness.look(self.conn, table)
        unfit = around and fitness.fault(around, table, self.tier, arrives=False)
        if unfit:
            raise unfit

    def keys_here(self, shape: TableShape, keys: Sequence[str]) -> list[str]:
        """Those of `keys` (JSON arrays of the key's text forms) that have a row here now."""
        query = _SQL["keys_here"].format(
            keys=sql.Literal(list(keys)), table=model.rows_of(shape), same=model.same_key(shape, "given")
        )
        with transaction(self.conn, read_only=True) as cur:
            return [str(r[0]) for r in cur.execute(query)]

    def count(self, selection: Selection) -> int:
        """How many rows the selection has now."""
        with transaction(self.conn, read_only=True) as cur:
            query = sql.SQL("SELECT count(*) FROM {} WHERE {} AND {}").format(
                model.rows_of(selection.shape), self._not_apart(cur, selection), selection.eligible(None)
            )
            return _one(cur.execute(query), int)

    def _not_apart(self, cur: psycopg.Cursor, selection: Selection) -> sql.Composable:
        """SQL that holds for rows that do not lie in a part which moves by itself."""
        if not selection.apart:
            return sql.SQL("true")
        parts = [model.regclass(part.name) for part in shapes.parts(cur, selection.shape.name, selection.apart)]
        return sql.SQL("tableoid = ANY (ARRAY[{}]::regclass[])").format(sql.SQL(", ").join(parts))

    def pieces(self, selection: Selection, step: int, conflicts: Sequence[Bound]) -> list[Piece]:
        """Where in the heaps the selection's rows lie, in pieces of `step` pages, those without any left out.

        Reads the table once, whatever indexes it has. A part that is gone meanwhile has none.
        """
        found: list[Piece] = []
        for part in self.parts(selection):
            try:
                found += self._pieces(selection, part, step, conflicts)
            except errors.UndefinedTable:
                if part is None:
                    raise
        return found

    def _pieces(self, selection: Selection, part: TableName | None, step: int, conflicts: Sequence[Bound]) -> list[Piece]:
        name = part or selection.shape.name
        regclass = model.regclass(name)
        with transaction(self.conn, read_only=True) as cur:
            toastable, _ = width.toasted(cur, name)
            sizes = [sql.SQL("coalesce(sum(pg_column_size({})), 0)").format(sql.Identifier(c)) for c in toastable]
            query = _SQL["pieces"].format(
                step=sql.Literal(step),
                regclass=regclass,
                toasted=sql.SQL("({})").format(sql.SQL(" + ").join([sql.SQL("0"), *sizes])),
                widest=width.of(selection.shape, toastable).most,
                table=model.qualified(name),
                eligible=selection.eligible(None, conflicts),
            )
            return [Piece(page, page + step, rows, size_bytes, part, wide) for page, rows, size_bytes, wide in cur.execute(query)]

    def weigh(self, selection: Selection, limit: int | None) -> tuple[int, dict[str, int]]:
        """The number of the selection's first `limit` rows, and what each column's values take as they are stored."""
        columns = [c.name for c in selection.shape.columns]
        sizes = [sql.SQL("coalesce(sum(pg_column_size({})), 0)").format(sql.Identifier(c)) for c in columns]
        first = sql.SQL("ORDER BY {} LIMIT {}").format(model.names(selection.order), sql.Literal(limit))
        with transaction(self.conn, read_only=True) as cur:
            query = _SQL["weigh"].format(
                sizes=sql.SQL(", ").join(sizes),
                names=model.names(columns),
                table=model.rows_of(selection.shape),
                here=self._not_apart(cur, selection),
                eligible=selection.eligible(None),
                first=sql.SQL("") if limit is None else first,
            )
            rows, *weights = cur.execute(query).fetchone() or (0,)
        return int(rows), dict(zip(columns, map(int, weights), strict=False))

    def next_bound(
        self, selection: Selection, after: Bound | None, limit: int, conflicts: Sequence[Bound], part: TableName | None = None
    ) -> tuple[Bound, int] | None:
        """The last (age, key…) of the next `limit` rows behind `after`, with their number; None when no row is left.

        Of all the selection, or of one `part` of it.
        """
        order = selection.order
        with transaction(self.conn, read_only=True) as cur:
            query = _SQL["next_bound"].format(
                columns=sql.SQL(", ").join(model.text_of(c, "page") for c in order),
                names=model.names(order),
                backwards=sql.SQL(", ").join(sql.SQL("page.{} DESC").format(sql.Identifier(c)) for c in order),
                order=model.names(order),
                table=sql.SQL("ONLY {}").format(model.qualified(part)) if part else model.rows_of(selection.shape),
                here=sql.SQL("true") if part else self._not_apart(cur, selection),
                eligible=selection.eligible(after, conflicts),
                limit=sql.Literal(limit),
            )
            row = cur.execute(query).fetchone()
        return (tuple(str(v) for v in row[:-1]), int(row[-1])) if row else None

    def open_marker(self, row: LedgerRow, destination: Tier) -> None:
        """The marker, open and durable. Nobody may delete the batch's rows before."""
        self.open_marker_of([row], destination)

    def open_marker_of(self, bundle: Sequence[LedgerRow], destination: Tier) -> None:
        """The markers of a bundle, all of them or none: from here on they change together."""
        with transaction(self.conn) as cur:
            for row in bundle:
                cur.execute(_SQL["marker_open"], {
                    "batch": row.batch.id, "seq": row.seq, "destination": destination,
                    "schema": row.batch.table.schema, "table": row.batch.table.name,
                })  # fmt: skip
                if row.batch.bundle is not None:
                    cur.execute(_SQL["bundle_note"], {"batch": row.batch.id, "bundle": row.batch.bundle})

    @contextmanager
    def snapshot(self, batch: Batch, shape: TableShape) -> Iterator[Snapshot]:
        """S1. Raises Resting where rows of the table have only just arrived here, NotNow where its columns were altered, Changed
        where the batch's part is none of the table's any more.
        """
        with self._transaction_over([batch], "ACCESS SHARE", read_only=True) as cur:
            yield self.look(cur, batch, shape)

    def look(self, cur: psycopg.Cursor, batch: Batch, shape: TableShape, *, last: bool = True) -> Snapshot:
        """The batch as `cur`'s transaction sees it; only the `last` of several that share it ends it."""
        name = batch.table
        query = _SQL["extent"].format(
            fingerprint=model.FINGERPRINT,
            age=sql.Identifier(batch.age),
            table=model.qualified(batch.heap),
            regclass=model.regclass(batch.heap),
            schema=sql.Literal(name.schema),
            name=sql.Literal(name.name),
            predicate=_text(batch.predicate),
        )
        found = cur.execute(query).fetchone()
        assert found is not None  # noqa: S101 - an aggregate gives one row
        rows, versions, min_age, max_age, filenode, arriving = found
        if arriving:  # in this very snapshot: a row seen here whose batch is not forgotten here must not move on
            raise Resting(f"resting: {arriving} batches arrived in {self.tier} within the longest reader's time")
        columns = shapes.columns_now(cur, batch.heap)
        if {column for column, _ in columns} != {c.name for c in shape.columns}:
            raise NotNow(f"{shape.name} ({self.tier})", "its columns were altered during the run", "Run the same command again")
        fingerprint = model.whole_fingerprint(versions, filenode, columns)
        return Snapshot(self.link, cur, shape, batch, Extent(rows, fingerprint, min_age, max_age), last)

    def delete(self, bundle: Sequence[LedgerRow]) -> None:
        """S2 of a batch, or of all that are tied to it. Raises Changed where a row or a table is not as S1 read it or a row that
        stays refers to one that would go, Fenced where a marker is no longer open, Failed where a trigger keeps rows; all
        change nothing.

        One statement deletes and returns the versions that it took, so that no row can slip between the check and the deed,
        and a foreign key is asked when parents and children are both gone.
        """
        tables = [row.batch.table for row in bundle]
        tied = bundle[0].batch.bundle is not None
        place = f"{', '.join(map(str, tables))} ({self.tier})"
        try:
            with self._transaction_over([row.batch for row in bundle], "ROW EXCLUSIVE", read_only=False) as cur:
                changed = cur.execute(_SQL["marker_change"], {"batch": bundle[0].batch.id, "to": "moved"}).rowcount
                if changed != len(bundle):
                    raise Fenced(place, "another run has settled this batch", "Run the same command again")
                if tied and references.reaching(cur, {row.batch.table: row.batch.predicate for row in bundle}) is not None:
                    raise Changed
                if not tied and _one(cur.execute(_SQL["referred_to"].format(model.regclass(bundle[0].batch.heap))), bool):
                    raise Changed  # by a foreign key that was made during the run: what it does on DELETE nobody has weighed
                taken = cur.execute(references.delete_all([row.batch for row in bundle])).fetchall()
                for (_, rows, versions, filenode), row in zip(sorted(taken), bundle, strict=True):
                    fingerprint = model.whole_fingerprint(versions, filenode, shapes.columns_now(cur, row.batch.heap))
                    if row.extent is None or (rows, fingerprint) != (row.extent.rows, row.extent.fingerprint):
                        self._refuse_kept(cur, row.batch)
                        raise Changed
                if tied:
                    cur.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a deferred check that fails must fail here
                reach(Point.DELETE_BEFORE_COMMIT)
        except _CHANGED as error:
            raise Changed from error
        except _REFERRED as error:
            if not tied:
                raise
            raise Changed from error

    @contextmanager
    def _transaction_over(self, batches: Sequence[Batch], mode: LiteralString, *, read_only: bool) -> Iterator[psycopg.Cursor]:
        """A REPEATABLE READ transaction that has the batches' tables locked before its snapshot.

        So a part stays one of the table's until it ends, and foreign keys stay those that the catalog tells of. Raises Changed
        where the part is none any more.
        """
        batch = batches[0]
        tables = sql.SQL(", ").join(sql.SQL("ONLY {}").format(model.qualified(b.heap)) for b in batches)
        lock = sql.SQL("LOCK TABLE {} IN {} MODE").format(tables, sql.SQL(mode))
        try:
            with transaction(self.conn, isolation="repeatable read", read_only=read_only, lock=lock) as cur:
                if batch.part is not None:
                    names = {"part": model.regclass(batch.part), "table": model.regclass(batch.table)}
                    if not _one(cur.execute(_SQL["is_part"].format(**names)), bool):
                        raise Changed
                yield cur
        except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
            if batch.part is None:
                raise
            raise Changed from error

    def _refuse_kept(self, cur: psycopg.Cursor, batch: Batch) -> None:
        """Raises Failed where rows are left that the delete just before was for: then no further try would take them either."""
        query = _SQL["left"].format(table=model.qualified(batch.heap), predicate=_text(batch.predicate))
        left = _one(cur.execute(query), int)
        if left:
            raise Failed(
                f"{batch.table} ({self.tier})",
                f"{left} rows stay when they are deleted",
                "Look for a trigger or rule on DELETE there that keeps rows; nothing was moved",
            )

    def abort(self, batch_id: UUID) -> str | None:
        """Tries to change the marker from open to aborted, then reads, in a new statement, who won.

        The change waits for a delete that is still committing: a look alone could miss it. Returns the marker's state, None
        where there is none.
        """
        with transaction(self.conn) as cur:
            cur.execute(_SQL["marker_change"], {"batch": batch_id, "to": "aborted"})
        return self.marker(batch_id)

    def marker(self, batch_id: UUID) -> str | None:
        with transaction(self.conn, read_only=True) as cur:
            row = cur.execute(_SQL["marker_state"], {"batch": batch_id}).fetchone()
        return str(row[0]) if row else None

    def open_markers(self, table: TableName, destination: Tier) -> list[UUID]:
        """Markers that are open for `table`, whoever opened them."""
        with transaction(self.conn, read_only=True) as cur:
            rows = cur.execute(_SQL["markers_open"], {"destination": destination, "schema": table.schema, "table": table.name})
            return [r[0] for r in rows]

    def settled_markers(self, destination: Tier) -> dict[UUID, str]:
        """Markers that are moved or aborted, oldest first."""
        with transaction(self.conn, read_only=True) as cur:
            return {r[0]: str(r[1]) for r in cur.execute(_SQL["markers_settled"], {"destination": destination})}

    def drop_markers(self, batch_ids: Sequence[UUID], destination: Tier) -> None:
        """Drops settled markers; one that is missing is a fence, so only what the destination has forgotten or undone may go.

        The newest `moved` one stays: it shows a destination that was put back from a backup.
        """
        if not batch_ids:
            return
        with transaction(self.conn) as cur:
            cur.execute(_SQL["markers_drop"], {"batches": list(batch_ids), "destination": destination})
            cur.execute(_SQL["bundles_drop"])
        reach(Point.MARKER_DROPPED)


def _text(condition: str) -> sql.SQL:
    """SQL that this package composed before and that the ledger kept."""
    return sql.SQL(condition)


def _one(cur: psycopg.Cursor, kind: type[T]) -> T:
    row = cur.fetchone()
    if row is None or not isinstance(row[0], kind):
        raise TypeError(f"expected one {kind.__name__}, got {row!r}")
    return row[0]
