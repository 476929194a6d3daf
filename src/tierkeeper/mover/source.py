"""The source's side of a batch: its markers, the look that it is read in (S1) and the delete that ends it (S2)."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import errors, sql

from tierkeeper.kernel.errors import Failed, Fenced, NotNow
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Batch, Extent, LedgerRow, Read
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import fitness, model, places, references, width
from tierkeeper.mover.holdings import Holdings, one
from tierkeeper.mover.model import Bound, Selection
from tierkeeper.mover.places import Arm, Going
from tierkeeper.mover.snapshot import Snapshot, copy_out
from tierkeeper.postgres import shapes
from tierkeeper.postgres.catalog import server_now
from tierkeeper.postgres.link import Connection, Link, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import memory

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
    """What a source remembers: `settled` batches (`moved` or `aborted`), oldest first, and `open` ones of each table.

    With that, of the same moment, its `identity` (`tiers.memory`), and the tables that rows are `arriving` in from elsewhere, or
    came to so lately that they may have to rest.
    """

    settled: dict[UUID, str]
    open: dict[TableName, list[UUID]]
    identity: UUID | None
    arriving: frozenset[TableName]


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

    def learn(self, table: TableName, around: fitness.Surroundings | None, toasted: width.Toasted) -> None:
        """What was asked of `table` already, a moment ago."""
        self._around[table] = around
        self.holdings.learn(table, toasted)

    def now(self) -> datetime:
        """The server's clock."""
        return server_now(self.conn)

    def refuse_unfit(self, selection: Selection) -> fitness.Surroundings | None:
        """What is around the table. Raises UsageError where rows could not be taken away here, before anything is changed."""
        tables = dict.fromkeys([selection.shape.name, *(p for p in self.holdings.parts(selection) if p is not None)])
        found = {t: self._around[t] if t in self._around else fitness.look(self.conn, t) for t in tables}
        for table, around in found.items():
            unfit = around and fitness.fault(around, table, self.tier, arrives=False, among=tables)
            if unfit:
                raise unfit
        return found[selection.shape.name]

    def keys_here(self, shape: TableShape, keys: Sequence[str]) -> list[str]:
        """Those of `keys` (JSON arrays of the key's text forms) that have a row here now."""
        query = _SQL["keys_here"].format(
            keys=sql.Literal(list(keys)), table=model.rows_of(shape), same=model.same_key(shape, "given")
        )
        with transaction(self.conn, read_only=True) as cur:
            return [str(r[0]) for r in cur.last(query)]

    def doubled(self, planned: Snapshot) -> list[Bound]:
        """The keys that several of the batch's rows have, as they were planned: a key holds in one heap."""
        key = planned.shape.key
        query = _SQL["doubled"].format(
            keys=sql.SQL(", ").join(model.text_of(k, "kept") for k in key),
            rows=places.rows(planned.arms, model.names(key)),
            key=model.names(key),
        )
        if len(planned.arms) < 2:  # noqa: PLR2004 - there it is unique
            return []
        try:
            with self.reading([planned.batch]) as cur:
                return [tuple(map(str, row)) for row in cur.execute(query).fetchall()]
        except Changed:
            return []  # the next try meets other rows

    def open_marker_of(self, bundle: Sequence[LedgerRow], destination: Tier) -> None:
        """The markers of a bundle, open and durable, all of them or none: from here on they change together.

        Nobody may delete the batches' rows before.
        """
        notes = self._opening(bundle, destination)
        with transaction(self.conn) as cur:
            for note in notes[:-1]:
                cur.execute(note)
            cur.last(notes[-1])

    def _opening(self, bundle: Sequence[LedgerRow], destination: Tier) -> list[sql.Composed]:
        """I2: no row leaves Core without its marker, nor is there one without Core's word, whoever goes on with it."""
        notes = []
        for row in bundle:
            batch, table = row.batch, row.batch.table
            known = {"batch": batch.id, "seq": row.seq, "destination": destination, "schema": table.schema, "table": table.name}
            literals = {k: sql.Literal(v) for k, v in known.items()}
            notes += [_SQL[name].format(**literals) for name in ("say", "marker_open") if name != "say" or self.tier == "core"]
            if batch.bundle is not None:
                notes.append(_SQL["bundle_note"].format(batch=sql.Literal(batch.id), bundle=sql.Literal(batch.bundle)))
        return notes

    @contextmanager
    def snapshot(
        self, batch: Batch, shape: TableShape, *, opens: tuple[LedgerRow, Tier] | None = None, read: Read | None = None
    ) -> Iterator[Snapshot]:
        """S1. Raises Resting where rows of the table have only just arrived here, NotNow where its columns were altered, Changed
        where the batch's part is none of the table's any more.

        `opens`: the marker of that ledger row is made open and durable first, as `open_marker_of` does, in the same message.
        `read`: what the rows will be read as, which begins at once.
        """
        ahead = [] if opens is None else self._opening([opens[0]], opens[1])
        with self._transaction_over([batch], "ACCESS SHARE", read_only=True, ahead=ahead) as cur:
            yield self.look(cur, batch, shape, read=read)

    def reading(self, batches: Sequence[Batch]) -> AbstractContextManager[Cursor]:
        """A snapshot for several batches, in which their rows' heaps stay their tables'. Raises Changed where one is none."""
        return self._transaction_over(batches, "ACCESS SHARE", read_only=True)

    def look(self, cur: Cursor, batch: Batch, shape: TableShape, *, last: bool = True, read: Read | None = None) -> Snapshot:
        """The batch as `cur`'s transaction sees it; only the `last` of several that share it ends it. `read` as in `snapshot`."""
        arms = places.of_batch(cur, batch)
        queries = [
            _SQL["extent"].format(
                fingerprint=model.FINGERPRINT,
                age=sql.Identifier(batch.age) if batch.age else sql.SQL("NULL::timestamptz"),
                table=model.qualified(arm.heap),
                regclass=model.regclass(arm.heap),
                schema=sql.Literal(batch.table.schema),
                name=sql.Literal(batch.table.name),
                predicate=_text(arm.condition),
            )
            for arm in arms
        ]
        queries += [shapes.columns_query(arm.heap) for arm in arms]
        if read is None:
            answers = cur.all_of([(query, None) for query in queries])
        else:
            answers = cur.all_of_then_copy(queries, copy_out(arms, shape, *read))
        found = [rows[0] for rows in answers[: len(arms)]]
        columns = [shapes.columns_in(rows[0]) for rows in answers[len(arms) :]]
        if found[0][-1]:  # in this very snapshot: a row seen here whose batch is not forgotten here must not move on
            raise Resting(f"resting: {found[0][-1]} batches arrived in {self.tier} within the longest reader's time")
        _refuse_altered(arms, columns, shape, self.tier)
        fingerprint = model.fingerprint([(f[1], f[4]) for f in found], [c.versions for c in columns])
        min_ages, max_ages = ([f[i] for f in found] for i in (2, 3))
        extent = Extent(
            sum(f[0] for f in found),
            fingerprint,
            None if None in min_ages else min(min_ages),
            None if None in max_ages else max(max_ages),
        )
        return Snapshot(self.link, cur, shape, batch, extent, arms, last)

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
        taking: list[sql.Composed] = [references.delete_all([[Arm(batch.heap, batch.predicate)]])]
        if model.is_ours(batch.predicate):
            asked = {"fingerprint": model.FINGERPRINT, "table": heap, "regclass": regclass, "predicate": predicate}
            taking = [_SQL["versions"].format(**asked), _SQL["delete"].format(table=heap, predicate=predicate)]
        interfered = _SQL["interfered"].format(regclass=regclass, fires=_SQL["fires"].format(regclass=regclass))
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
        self._compare(cur, row, [(rows, versions, filenode)], [columns], gone)
        if fires:
            cur.execute("SET CONSTRAINTS ALL IMMEDIATE")  # those that are deferred as well
            self._refuse_written(cur, [batch.heap])

    def _delete_tied(self, cur: Cursor, bundle: Sequence[LedgerRow]) -> None:
        """One statement deletes for all tables: a foreign key is asked when parents and children are both gone."""
        going = [Going(row.batch.table, row.batch.predicate, places.of_batch(cur, row.batch)) for row in bundle]
        if references.reaching(cur, going) is not None:
            raise Changed
        heaps = [arm.heap for one in going for arm in one.arms]
        cur.together([references.delete_all([one.arms for one in going]), *map(shapes.columns_query, heaps)])
        taken, columns = deque(found for _, *found in sorted(cur.fetchall())), deque[shapes.Columns]()
        while cur.nextset():
            columns.append(shapes.columns_of(cur))
        for gone, row in zip(going, bundle, strict=True):
            found, own = [taken.popleft() for _ in gone.arms], [columns.popleft() for _ in gone.arms]
            self._compare(cur, row, found, own, sum(f[0] for f in found))
        cur.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a deferred check that fails must fail here
        self._refuse_written(cur, [h for h in heaps if one(cur.execute(_SQL["fires"].format(regclass=model.regclass(h))), bool)])

    def _compare(
        self, cur: Cursor, row: LedgerRow, found: Sequence[Sequence[Any]], columns: Sequence[shapes.Columns], gone: int | None
    ) -> None:
        """Raises Changed unless the rows `found`, heap by heap, are those that S1 read, and all of them are gone."""
        rows = sum(f[0] for f in found)
        fingerprint = model.fingerprint([(versions, filenode) for _, versions, filenode in found], [c.versions for c in columns])
        if row.extent is None or (rows, fingerprint) != (row.extent.rows, row.extent.fingerprint) or gone != rows:
            self._refuse_kept(cur, row.batch)
            raise Changed

    @contextmanager
    def _transaction_over(
        self, batches: Sequence[Batch], mode: LiteralString, *, read_only: bool, ahead: Sequence[sql.Composable] = ()
    ) -> Iterator[Cursor]:
        """A REPEATABLE READ transaction that has the batches' tables locked before its snapshot.

        So a part stays one of the table's until it ends, and foreign keys stay those that the catalog tells of. Raises Changed
        where a part is none any more.
        """
        heaps = {batch.id: places.oids(batch) for batch in batches}
        # What refers comes first, in the order in which one who attaches a part or adds a foreign key takes these locks.
        named = (sql.SQL("{}" if heaps[b.id] else "ONLY {}").format(model.qualified(b.heap)) for b in reversed(batches))
        opening = [sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.SQL(", ").join(named), sql.SQL(mode))]
        if not read_only:
            own = (heaps[b.id] or [sql.SQL("{}::regclass").format(model.regclass(b.heap))] for b in batches)
            opening.append(_SQL["leaving"].format(heaps=sql.SQL(", ").join(oid for oids in own for oid in oids)))
        try:
            with transaction(
                self.conn,
                isolation="repeatable read",
                read_only=read_only,
                opening=opening,
                ahead=ahead,
                own_path=not read_only or any(not model.is_ours(b.predicate) for b in batches),
            ) as cur:
                for batch in batches:
                    self._require_parts(cur, batch, heaps[batch.id])
                yield cur
        except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
            if all(batch.part is None for batch in batches):
                raise
            raise Changed from error

    def _require_parts(self, cur: Cursor, batch: Batch, heaps: Sequence[sql.Composable]) -> None:
        """Raises Changed unless the batch's rows lie in heaps that are its table's."""
        if batch.part is not None:
            heaps = [sql.SQL("{}::regclass::oid").format(model.regclass(batch.part))]
        if heaps:
            asked = {"heaps": sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(heaps)), "table": model.regclass(batch.table)}
            if not one(cur.execute(_SQL["are_parts"].format(**asked)), bool):
                raise Changed

    def _refuse_kept(self, cur: Cursor, batch: Batch) -> None:
        """Raises Failed where rows are left that the delete just before was for: then no further try would take them either."""
        left = 0
        for arm in places.of_batch(cur, batch):
            query = _SQL["left"].format(table=model.qualified(arm.heap), predicate=_text(arm.condition))
            left += one(cur.execute(query), int)
        if left:
            raise Failed(
                f"{batch.table} ({self.tier})",
                f"{left} rows stay when they are deleted",
                "Look for a trigger or rule on DELETE there that keeps rows; nothing was moved",
            )

    def _refuse_written(self, cur: Cursor, heaps: Sequence[TableName]) -> None:
        """Raises Failed where the delete has written to a table that it took rows from: a trigger may bring them back."""
        for heap in heaps:
            written = one(cur.execute(_SQL["written"].format(table=model.qualified(heap))), int)
            if written:
                raise Failed(
                    f"{heap} ({self.tier})",
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
        with transaction(self.conn, read_only=True) as cur:
            markers, identity, arriving = cur.all_of(
                [(_SQL["markers"], {"destination": destination}), memory.asked(self.tier), (_SQL["arriving"], None)], last=True
            )
        found = Markers({}, {}, identity[0][0] if identity else None, frozenset(TableName(*name) for name in arriving))
        for batch, state, schema, name in markers:
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


def _refuse_altered(arms: Sequence[Arm], columns: Sequence[shapes.Columns], shape: TableShape, tier: Tier) -> None:
    for arm, found in zip(arms, columns, strict=True):
        if found.names != {c.name for c in shape.columns}:
            raise NotNow(f"{arm.heap} ({tier})", "its columns were altered during the run", "Run the same command again")


def _text(condition: str) -> sql.SQL:
    """SQL that this package composed before and that the ledger kept."""
    return sql.SQL(condition)
