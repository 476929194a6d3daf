"""The source's side of a batch: its markers, the snapshot it is read in (S1) and the delete that ends it (S2)."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import errors, sql

from tierkeeper.kernel.digest import RowDigest
from tierkeeper.kernel.errors import Failed, Fenced, NotNow
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Batch, Block, Extent, LedgerRow
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import fitness, model, references
from tierkeeper.mover.holdings import Holdings, one
from tierkeeper.mover.model import Selection
from tierkeeper.postgres import shapes
from tierkeeper.postgres.arrow import snapshot_reader
from tierkeeper.postgres.catalog import server_now
from tierkeeper.postgres.copy import rows_out
from tierkeeper.postgres.link import Connection, Link, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

if TYPE_CHECKING:
    import pyarrow as pa

_SQL = load("tierkeeper.mover", "source.sql")
_CHANGED = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.ObjectInUse,  # a copy in flight in another table, which the delete would have reached: its guard keeps it
)
_REFERRED = (errors.ForeignKeyViolation, errors.RestrictViolation)  # a row that came since the proof refers to one that would go


class Changed(Exception):  # noqa: N818 - a state of the world that the runner answers by trying smaller, not an error
    """The batch's rows changed between S1 and S2; everything was rolled back."""


class Resting(Exception):  # noqa: N818 - a row's time has not come; the run ends with this as its reason
    """Rows of the table arrived in this tier so lately that a reader could still mistake them; nothing was changed."""


class Markers(NamedTuple):
    """What a source remembers: `settled` batches (`moved` or `aborted`), oldest first, and `open` ones of each table."""

    settled: dict[UUID, str]
    open: dict[TableName, list[UUID]]


@dataclass(frozen=True)
class Snapshot:
    """S1: implements `kernel.ports.SourceSnapshot` inside one REPEATABLE READ, READ ONLY transaction."""

    link: Link
    cursor: Cursor
    shape: TableShape
    batch: Batch
    extent: Extent
    ends: bool = True

    def copy(self, columns: Sequence[str], *, binary: bool, digest: RowDigest | None = None) -> Generator[Block]:
        query = sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE {}) TO STDOUT").format(
            model.sent(self.shape, columns), model.qualified(self.batch.heap), model.among_pinned(self.batch.predicate)
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
            columns, model.qualified(self.batch.heap), model.among_pinned(self.batch.predicate), model.names(order_by)
        )
        exported = self.cursor.execute("SELECT pg_export_snapshot()").fetchone()
        assert exported is not None  # noqa: S101 - a function's SELECT gives one row
        text, own_path = query.as_string(self.cursor), not model.is_ours(self.batch.predicate)
        with snapshot_reader(self.link, str(exported[0]), text, purpose="mover", own_path=own_path) as reader:
            reach(Point.SOURCE_READ)
            yield reader

    def close(self) -> None:
        if self.ends:
            self.cursor.connection.end_reading()


class Source:
    """A Postgres tier that rows leave. Its marker decides every batch.

    Keeps I3 and I4: `delete` takes away exactly the rows whose versions S1 read, in one transaction with the marker's change
    from open to moved, or nothing at all. None of them is a copy in flight, which the guard would have to keep: S1 found no such
    copy in its snapshot, and what came since has another version.
    """

    def __init__(self, link: Link, conn: Connection, tier: Tier) -> None:
        self.tier: Tier = tier
        self.link = link
        self.conn = conn
        self.holdings = Holdings(conn, tier)
        self._around: dict[TableName, fitness.Surroundings | None] = {}

    def learn(self, table: TableName, aside: fitness.Aside) -> None:
        """What was asked of `table` already, a moment ago."""
        self._around[table] = aside.around
        self.holdings.learn(table, aside.toasted)

    def now(self) -> datetime:
        """The server's clock."""
        return server_now(self.conn)

    def refuse_unfit(self, selection: Selection) -> None:
        """Raises UsageError where rows of the selection could not be taken away here, before anything is changed."""
        for table in dict.fromkeys([selection.shape.name, *(p for p in self.holdings.parts(selection) if p is not None)]):
            around = self._around[table] if table in self._around else fitness.look(self.conn, table)
            unfit = around and fitness.fault(around, table, self.tier, arrives=False)
            if unfit:
                raise unfit

    def keys_here(self, shape: TableShape, keys: Sequence[str]) -> list[str]:
        """Those of `keys` (JSON arrays of the key's text forms) that have a row here now."""
        query = _SQL["keys_here"].format(
            keys=sql.Literal(list(keys)), table=model.rows_of(shape), same=model.same_key(shape, "given")
        )
        with transaction(self.conn, read_only=True) as cur:
            return [str(r[0]) for r in cur.last(query)]

    def open_marker_of(self, bundle: Sequence[LedgerRow], destination: Tier) -> None:
        """The markers of a bundle, open and durable, all of them or none: from here on they change together.

        Nobody may delete the batches' rows before.
        """
        notes = self._opening(bundle, destination)
        with transaction(self.conn) as cur:
            for note in notes[:-1]:
                cur.execute(note)
            cur.last(notes[-1])

    @staticmethod
    def _opening(bundle: Sequence[LedgerRow], destination: Tier) -> list[sql.Composed]:
        notes = []
        for row in bundle:
            batch, table = row.batch, row.batch.table
            known = {"batch": batch.id, "seq": row.seq, "destination": destination, "schema": table.schema, "table": table.name}
            notes.append(_SQL["marker_open"].format(**{k: sql.Literal(v) for k, v in known.items()}))
            if batch.bundle is not None:
                notes.append(_SQL["bundle_note"].format(batch=sql.Literal(batch.id), bundle=sql.Literal(batch.bundle)))
        return notes

    @contextmanager
    def snapshot(self, batch: Batch, shape: TableShape, *, opens: tuple[LedgerRow, Tier] | None = None) -> Iterator[Snapshot]:
        """S1. Raises Resting where rows of the table have only just arrived here, NotNow where its columns were altered, Changed
        where the batch's part is none of the table's any more.

        `opens`: the marker of that ledger row is made open and durable first, as `open_marker_of` does, in the same message.
        """
        ahead = [] if opens is None else self._opening([opens[0]], opens[1])
        with self._transaction_over([batch], "ACCESS SHARE", read_only=True, ahead=ahead) as cur:
            yield self.look(cur, batch, shape)

    def look(self, cur: Cursor, batch: Batch, shape: TableShape, *, last: bool = True) -> Snapshot:
        """The batch as `cur`'s transaction sees it; only the `last` of several that share it ends it."""
        name = batch.table
        query = _SQL["extent"].format(
            fingerprint=model.FINGERPRINT,
            age=sql.Identifier(batch.age) if batch.age else sql.SQL("NULL::timestamptz"),
            table=model.qualified(batch.heap),
            regclass=model.regclass(batch.heap),
            schema=sql.Literal(name.schema),
            name=sql.Literal(name.name),
            predicate=_text(batch.predicate),
        )
        found = cur.together([query, shapes.columns_query(batch.heap)]).fetchone()
        assert found is not None  # noqa: S101 - an aggregate gives one row
        rows, versions, min_age, max_age, filenode, arriving = found
        if arriving:  # in this very snapshot: a row seen here whose batch is not forgotten here must not move on
            raise Resting(f"resting: {arriving} batches arrived in {self.tier} within the longest reader's time")
        cur.nextset()
        columns = shapes.columns_of(cur)
        if columns.names != {c.name for c in shape.columns}:
            raise NotNow(f"{shape.name} ({self.tier})", "its columns were altered during the run", "Run the same command again")
        fingerprint = model.whole_fingerprint(versions, filenode, columns.versions)
        return Snapshot(self.link, cur, shape, batch, Extent(rows, fingerprint, min_age, max_age), last)

    def delete(self, bundle: Sequence[LedgerRow]) -> None:
        """S2 of a batch, or of all that are tied to it. Raises Changed where a row or a table is not as S1 read it or a row that
        stays refers to one that would go, Fenced where a marker is no longer open, Failed where a trigger keeps rows; all
        change nothing.
        """
        tied = bundle[0].batch.bundle is not None
        try:
            with self._transaction_over([row.batch for row in bundle], "ROW EXCLUSIVE", read_only=False) as cur:
                change = _SQL["marker_change"].format(batch=sql.Literal(bundle[0].batch.id), to=sql.Literal("moved"))
                if tied:
                    self._win(cur.execute(change), bundle)
                    self._delete_tied(cur, bundle)
                else:
                    self._delete_one(cur, change, bundle[0])
                reach(Point.DELETE_BEFORE_COMMIT)
        except _CHANGED as error:
            raise Changed from error
        except _REFERRED as error:
            if not tied:
                raise
            raise Changed from error

    def _win(self, cur: Cursor, bundle: Sequence[LedgerRow]) -> None:
        """Raises Fenced unless the statement that `cur` stands at changed every marker of the bundle."""
        if cur.rowcount != len(bundle):
            place = f"{', '.join(str(row.batch.table) for row in bundle)} ({self.tier})"
            raise Fenced(place, "another run has settled this batch", "Run the same command again")

    def _delete_one(self, cur: Cursor, change: sql.Composed, row: LedgerRow) -> None:
        """All in one message: what it did is judged before the commit.

        Both statements at the end see the same rows, for they share a snapshot and a condition that holds for a row or does
        not. A user's condition may say something else each time: then the delete itself gives the versions that it took.
        """
        batch = row.batch
        heap, regclass, predicate = model.qualified(batch.heap), model.regclass(batch.heap), _text(batch.predicate)
        taking: list[sql.Composed] = [references.delete_all([batch])]
        if model.is_ours(batch.predicate):
            asked = {"fingerprint": model.FINGERPRINT, "table": heap, "regclass": regclass, "predicate": predicate}
            taking = [_SQL["versions"].format(**asked), _SQL["delete"].format(table=heap, predicate=predicate)]
        interfered = _SQL["interfered"].format(regclass=regclass)
        self._win(cur.together([change, interfered, shapes.columns_query(batch.heap), *taking]), [row])
        cur.nextset()
        reaches, fires = cur.fetchone() or (True, True)
        if reaches:
            raise Changed  # by what was made during the run: what it does on DELETE nobody has weighed
        cur.nextset()
        columns = shapes.columns_of(cur)
        cur.nextset()
        *_, rows, versions, filenode = cur.fetchone() or (0, "", 0)
        gone = cur.rowcount if cur.nextset() else rows
        self._compare(cur, row, (rows, versions, filenode), columns, gone)
        if fires:
            cur.execute("SET CONSTRAINTS ALL IMMEDIATE")  # those that are deferred as well
            self._refuse_written(cur, batch)

    def _delete_tied(self, cur: Cursor, bundle: Sequence[LedgerRow]) -> None:
        """One statement deletes for all tables: a foreign key is asked when parents and children are both gone."""
        if references.reaching(cur, {row.batch.table: row.batch.predicate for row in bundle}) is not None:
            raise Changed
        taken = cur.execute(references.delete_all([row.batch for row in bundle])).fetchall()
        for (_, *found), row in zip(sorted(taken), bundle, strict=True):
            self._compare(cur, row, found, shapes.columns_now(cur, row.batch.heap), found[0])
        cur.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a deferred check that fails must fail here
        for row in bundle:
            if one(cur.execute(_SQL["fires"].format(regclass=model.regclass(row.batch.heap))), bool):
                self._refuse_written(cur, row.batch)

    def _compare(self, cur: Cursor, row: LedgerRow, found: Sequence[Any], columns: shapes.Columns, gone: int | None) -> None:
        """Raises Changed unless the rows `found` are those that S1 read, and all of them are gone."""
        rows, versions, filenode = found
        fingerprint = model.whole_fingerprint(versions, filenode, columns.versions)
        if row.extent is None or (rows, fingerprint) != (row.extent.rows, row.extent.fingerprint) or gone != rows:
            self._refuse_kept(cur, row.batch)
            raise Changed

    @contextmanager
    def _transaction_over(
        self, batches: Sequence[Batch], mode: LiteralString, *, read_only: bool, ahead: Sequence[sql.Composable] = ()
    ) -> Iterator[Cursor]:
        """A REPEATABLE READ transaction that has the batches' tables locked before its snapshot.

        So a part stays one of the table's until it ends, and foreign keys stay those that the catalog tells of. Raises Changed
        where the part is none any more.
        """
        batch = batches[0]
        tables = sql.SQL(", ").join(sql.SQL("ONLY {}").format(model.qualified(b.heap)) for b in batches)
        opening = [sql.SQL("LOCK TABLE {} IN {} MODE").format(tables, sql.SQL(mode))]
        users = any(not model.is_ours(b.predicate) for b in batches)
        if not read_only:
            opening.append(_SQL["leaving"].format(heaps=sql.SQL(", ").join(model.regclass(b.heap) for b in batches)))
        try:
            with transaction(
                self.conn,
                isolation="repeatable read",
                read_only=read_only,
                opening=opening,
                ahead=ahead,
                own_path=users or not read_only,
            ) as cur:
                if batch.part is not None:
                    names = {"part": model.regclass(batch.part), "table": model.regclass(batch.table)}
                    if not one(cur.execute(_SQL["is_part"].format(**names)), bool):
                        raise Changed
                yield cur
        except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
            if batch.part is None:
                raise
            raise Changed from error

    def _refuse_kept(self, cur: Cursor, batch: Batch) -> None:
        """Raises Failed where rows are left that the delete just before was for: then no further try would take them either."""
        query = _SQL["left"].format(table=model.qualified(batch.heap), predicate=_text(batch.predicate))
        left = one(cur.execute(query), int)
        if left:
            raise Failed(
                f"{batch.table} ({self.tier})",
                f"{left} rows stay when they are deleted",
                "Look for a trigger or rule on DELETE there that keeps rows; nothing was moved",
            )

    def _refuse_written(self, cur: Cursor, batch: Batch) -> None:
        """Raises Failed where the delete has written to the table that it took rows from: a trigger may bring them back."""
        written = one(cur.execute(_SQL["written"].format(table=model.qualified(batch.heap))), int)
        if written:
            raise Failed(
                f"{batch.table} ({self.tier})",
                f"a trigger on DELETE there wrote {written} rows to the table itself",
                "Drop or change it, or leave those rows out with --where; nothing was moved",
            )

    def abort(self, batch_id: UUID) -> str | None:
        """Tries to change the marker from open to aborted, then reads, in a new statement, who won.

        The change waits for a delete that is still committing: a look alone could miss it. Returns the marker's state, None
        where there is none.
        """
        with transaction(self.conn) as cur:
            cur.execute(_SQL["marker_change"].format(batch=sql.Literal(batch_id), to=sql.Literal("aborted")))
        return self.marker(batch_id)

    def marker(self, batch_id: UUID) -> str | None:
        with transaction(self.conn, read_only=True) as cur:
            row = cur.last(_SQL["marker_state"], {"batch": batch_id}).fetchone()
        return str(row[0]) if row else None

    def markers(self, destination: Tier) -> Markers:
        """All that this tier remembers of batches on their way to `destination`."""
        found = Markers({}, {})
        with transaction(self.conn, read_only=True) as cur:
            for batch, state, schema, name in cur.last(_SQL["markers"], {"destination": destination}):
                if state == "open":
                    found.open.setdefault(TableName(schema, name), []).append(batch)
                else:
                    found.settled[batch] = str(state)
        return found

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
