"""Brings whole segments back from the archive to Main: a move up, whose source is a vault that only ever gives whole segments.

The protocol is the mover's (design section 4): the marker lies in the catalog, the ledger row at Main. What a segment is, and
what the store has to be told, is the vault's to say.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import WAIT_EXTRA_SECONDS
from tierkeeper.kernel.ports import Batch, Extent, Frozen, LedgerRow, Stop, Vault
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.destination import Contended, KeyTaken, ParentMissing, PostgresDestination
from tierkeeper.mover.lease import Lease
from tierkeeper.mover.places import Arm
from tierkeeper.mover.recovery import clear, recover, refuse_restored, settle
from tierkeeper.mover.snapshot import Snapshot
from tierkeeper.mover.source import Markers, Source
from tierkeeper.mover.staging import ELSEWHERE, staged
from tierkeeper.postgres import references
from tierkeeper.postgres.link import Connection, Link, transaction, translated
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import memory
from tierkeeper.tiers.standing import Displaced

_SQL = load("tierkeeper.mover", "source.sql")
_REFUSALS = (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.RaiseException)


@dataclass
class Thawed:
    """What a run brought back. `stopped_because` is `complete` unless segments are left."""

    segments: list[UUID] = field(default_factory=list)
    rows: int = 0
    recovered: int = 0
    stopped_because: str = "complete"


class _Home(PostgresDestination):
    """Main, as segments come back to it: nothing is done there before the store has been told that the segment left it.

    I8: a catalog that is lost in between is made again with the batch's marker, and one that is lost before without it; so what
    Main's ledger says is `copied` is settled as it was meant.
    """

    def __init__(self, conn: Connection, longest_reader_seconds: float, vault: Vault) -> None:
        super().__init__(conn, "main", "archive", longest_reader_seconds)
        self._vault = vault

    def finish(self, batch_id: UUID) -> None:
        self._vault.say_left()
        super().finish(batch_id)

    def source_keeps(self, batch_id: UUID) -> bool:
        """A catalog that was made again has no markers but what the store says: a segment that it counts was never left."""
        rows = self.unsettled()
        bundle = next((r.batch.bundle for r in rows if r.batch.id == batch_id), None)
        tied = [r for r in rows if r.batch.id == batch_id or (bundle is not None and r.batch.bundle == bundle)]
        return self._vault.counts([UUID(r.batch.predicate) for r in tied])


@dataclass(frozen=True)
class _Ends:
    main: Connection
    staging: Connection
    catalog: Connection
    source: Source
    home: _Home
    markers: Markers


class Thaw:
    """Keeps I1 to I5 as the mover does: a segment leaves the archive only in one transaction with its marker's change from open
    to moved, after its rows are durable at Main, read back, equal, and no reader is left who could lack them there.

    I10: nothing reaches the table before the segment's last byte was authenticated.
    """

    def __init__(
        self,
        main: Link,
        catalog: Link,
        vault: Callable[[], Vault],
        *,
        longest_reader_seconds: float,
        clock: Clock,
        stop: Stop,
    ) -> None:
        self._main = main
        self._catalog = catalog
        self._vault = vault
        self._longest_reader_seconds = longest_reader_seconds
        self._clock = clock
        self._stop = stop

    def run(
        self, table: TableName, bundles: Sequence[Sequence[Frozen]], ages: dict[TableName, str], held_until: datetime
    ) -> Thawed:
        """Brings `bundles` back, each whole; first what an interrupted run left. `ages`: the tables' age columns, as today."""
        done = Thawed()
        with self._opened(table, bundles) as ends:
            settled, resumed = recover(ends.source, ends.home, table, ends.markers)
            done.recovered = settled + sum(map(len, resumed))
            for rows in resumed:
                self._release(ends, rows, held_until, done)
            for bundle in bundles:
                if (reason := self._stop()) is not None:
                    done.stopped_because = reason
                    break
                left = [one for one in bundle if one.id not in done.segments]
                if left:
                    self._release(ends, self._copy(ends, left, ages), held_until, done)
            clear(ends.source, ends.home, self._longest_reader_seconds)
        return done

    def settle(self, tables: Sequence[TableName]) -> int:
        """Settles what interrupted thaws left of `tables`, whose rows would rest at Main for ever; how many batches."""
        with translated("tiers.main"), closing(self._main.connect("mover")) as conn:
            here = PostgresDestination(conn, "main", "archive", self._longest_reader_seconds)
            here.forget(self._longest_reader_seconds, [])
            waiting = [table for table in tables if here.unsettled(table)]
        settled = 0
        for table in waiting:
            with self._opened(table, []) as ends:
                for row in ends.home.unsettled(table):
                    settle(ends.source, ends.home, row.batch.id)
                    settled += 1
        return settled

    @contextmanager
    def _opened(self, table: TableName, bundles: Sequence[Sequence[Frozen]]) -> Iterator[_Ends]:
        """Connections, and the lease that keeps a run to the archive away."""
        tables = {table, *(one.table for bundle in bundles for one in bundle)}
        with (
            translated("tiers.main"),
            closing(self._main.connect("mover")) as main,
            closing(self._main.connect("mover")) as staging,
            closing(self._catalog.connect("mover")) as catalog,
        ):
            home = _Home(main, self._longest_reader_seconds, self._vault())
            source = Source(self._catalog, catalog, "archive")
            memory.refuse_put_back(main, catalog)
            for one in sorted(tables):
                home.refuse_unfit(one)
            lease = Lease(main, f"{min(tables)} main -> archive")
            lease.take()
            try:
                yield _Ends(main, staging, catalog, source, home, refuse_restored(source, home))
            finally:
                with suppress(psycopg.Error, TierkeeperError):  # it runs out by itself
                    lease.give_back()

    def _copy(self, ends: _Ends, bundle: Sequence[Frozen], ages: dict[TableName, str]) -> list[LedgerRow]:
        """A bundle up to `copied`. What goes wrong is undone before it is told."""
        tables = {one.table for one in bundle}
        order = references.parents_first(tables, references.owned(references.read(ends.main), tables))
        bundle = sorted(bundle, key=lambda one: order.index(one.table))
        tied = uuid4() if len(bundle) > 1 else None
        batches = [
            Batch(uuid4(), "archive", one.table, ages[one.table] if one.age else "", one.created_at, str(one.id), bundle=tied)
            for one in bundle
        ]
        rows = ends.home.open_all(batches)
        reach(Point.LEDGER_OPEN)
        try:
            ends.source.open_marker_of(rows, "main")
            reach(Point.MARKER_OPEN)
            with transaction(ends.staging) as cur:
                snapshots = [self._staged(cur, *pair, number) for number, pair in enumerate(zip(bundle, batches, strict=True))]
                copied = ends.home.copy_all(snapshots)
                cur.execute("ROLLBACK")  # what was staged goes with it
        except (KeyTaken, ParentMissing, Contended) as error:
            settle(ends.source, ends.home, batches[0].id)
            raise _told(error, bundle) from error
        except BaseException as error:
            with suppress(psycopg.Error, TierkeeperError):  # what cannot be settled now the next run settles
                settle(ends.source, ends.home, batches[0].id)
            if isinstance(error, Failed) and isinstance(error.__cause__, _REFUSALS):
                remedy = f"Change there what refuses it, or leave the segment where it is. {ELSEWHERE} {bundle[0].id}"
                raise Failed(error.place, error.cause, remedy) from error
            raise
        return [replace(row, state="copied", extent=one.extent, bytes=one.bytes) for row, one in zip(rows, copied, strict=True)]

    def _staged(self, cur: Cursor, segment: Frozen, batch: Batch, number: int) -> Snapshot:
        today, view = staged(cur, self._vault(), segment, number, whole=True)
        reach(Point.SOURCE_READ)
        extent = Extent(segment.rows, segment.sha256, segment.min_age, segment.max_age)
        return Snapshot(self._main, cur, today, batch, extent, [Arm(view, "true")], ends=False)

    def _release(self, ends: _Ends, rows: Sequence[LedgerRow], held_until: datetime, done: Thawed) -> None:
        """Waits for the readers at Main who lack the copy, takes the segments out of the archive, says done."""
        first = rows[0].batch.id
        try:
            self._wait(ends, [row.batch.id for row in rows])
        except Displaced:
            settle(ends.source, ends.home, first)  # I3: no ground to take anything out of the archive on
            raise
        reach(Point.WAITED)
        pairs = [(UUID(row.batch.predicate), row.batch.id) for row in rows]
        with transaction(ends.catalog) as cur:
            won = cur.execute(_SQL["marker_change"].format(batch=sql.Literal(first), to=sql.Literal("moved"))).rowcount
            gone = won == len(rows) and self._vault().leave(cur, pairs, held_until)
            if gone:
                reach(Point.DELETE_BEFORE_COMMIT)
            else:
                cur.execute("ROLLBACK")
        if not gone:
            settle(ends.source, ends.home, first)
            raise NotNow(
                f"{rows[0].batch.table} (archive)", "another run has changed these segments", "Run the same command again"
            )
        reach(Point.DELETED)
        ends.home.finish(first)
        done.segments += [segment for segment, _ in pairs]
        done.rows += sum(row.extent.rows for row in rows if row.extent)

    def _wait(self, ends: _Ends, batch_ids: Sequence[UUID]) -> None:
        """Raises NotNow where a reader outlasts the longest one; the copy stays as it is, and a later run goes on here."""
        until, pause = self._clock.monotonic() + self._longest_reader_seconds + WAIT_EXTRA_SECONDS, 0.01
        while (cause := ends.home.settled_for_readers(batch_ids)) is not None:
            if self._clock.monotonic() > until or self._stop() is not None:
                raise NotNow("tiers.main", f"waiting for {cause}", "Run the same command again: it goes on from here")
            self._clock.sleep(pause)
            pause = min(pause * 2, 0.5)


def _told(error: KeyTaken | ParentMissing | Contended, bundle: Sequence[Frozen]) -> TierkeeperError:
    """What to say of a bundle that cannot come."""
    first = bundle[0]
    place = f"{', '.join(str(one.table) for one in bundle)} (main)"
    if isinstance(error, KeyTaken):
        detail = getattr(getattr(error.__cause__, "diag", None), "message_detail", None) or f"constraint {error.constraint}"
        cause = f"a row there has a key or value of segment {first.id} already ({detail})"
        return Failed(place, cause, f"Delete it there, or leave the segment where it is. {ELSEWHERE} {first.id}")
    if isinstance(error, ParentMissing):
        return Failed(
            place, f"rows of segment {first.id} refer to others that are not there", "Thaw the table that they refer to first"
        )
    return NotNow(place, "another session holds what the rows need there", "Run the same command again")
