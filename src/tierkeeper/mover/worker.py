"""Takes batches from a source to a destination, step by durable step (design section 4), over one pair of connections.

Several workers share a `Run` and take disjoint ranges from it: while one compares a copy, another reads and a third deletes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import RLock
from uuid import UUID, uuid4

import psycopg

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, Fenced, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import CONFLICTS_PER_TABLE, GROUP_BATCHES, WAIT_EXTRA_SECONDS, WORKERS
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.ports import Batch, Destination, LedgerRow, Stop, Throttle
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import conflicts
from tierkeeper.mover.destination import Contended, KeyTaken, ParentMissing, PostgresDestination
from tierkeeper.mover.model import Bound, Range, Selection
from tierkeeper.mover.outcome import Outcome
from tierkeeper.mover.recovery import settle
from tierkeeper.mover.source import Changed, Resting, Source
from tierkeeper.tiers.standing import Displaced

_log = Log()


@dataclass(frozen=True)
class Pace:
    """How much at a time: `group` batches share one wait, which lasts as long as a reader may, and `patience_seconds`."""

    batch_rows: int
    longest_reader_seconds: float
    limit: int | None = None
    group: int = GROUP_BATCHES
    workers: int = WORKERS
    patience_seconds: float = WAIT_EXTRA_SECONDS

    @property
    def in_flight(self) -> int:
        """How many batches may lie between their intent and their delete at once."""
        return self.group * self.workers


class Run:
    """What the workers of one run share. Each method is one step under one lock."""

    def __init__(
        self,
        selection: Selection,
        pace: Pace,
        stop: Stop,
        refresh_parents: Callable[[], None],
        throttle: Throttle = lambda: None,
    ) -> None:
        self.selection = selection
        self.pace = pace
        self.stop = stop
        self.outcome = Outcome()
        self.changed = 0
        self.copied_rows = 0
        self.ended = False
        self.origin: UUID | None = None  # who the source is
        # Waits for what is recorded beside the copies, or raises why it was not: then no row leaves.
        self.ready: Callable[[], object] = lambda: None
        self._refresh_parents = refresh_parents
        self._throttle = throttle
        self._conflicts: dict[TableName, list[Bound]] = {}
        self._ranges: Iterator[Range] = iter(())
        self._lock = RLock()  # a range is looked up under it, and asks for the conflicts

    def hand_out(self, ranges: Iterator[Range]) -> None:
        """From now on `take` gives these."""
        with self._lock:
            self._ranges = ranges
            self.changed = 0

    def take(self) -> Range | None:
        """The next range; None when none is left or the run must end, with the reason noted. It may wait for room first."""
        full = None if self.ended else self._throttle()  # not under the lock: the others go on with what they have begun
        with self._lock:
            return next(self._ranges, None) if self._goes_on(full) else None

    def goes_on(self) -> bool:
        """Whether another batch may begin; where the run is asked to end, the reason is noted. It may wait for room first."""
        full = None if self.ended else self._throttle()
        with self._lock:
            return self._goes_on(full)

    def _goes_on(self, full: str | None) -> bool:
        if not self.ended:
            reason = self.stop() or full
            if reason is not None:
                self._end(reason)
        return not self.ended

    def end(self, reason: str) -> None:
        """No worker begins another batch. The first reason is the one to tell."""
        with self._lock:
            self._end(reason)

    def _end(self, reason: str) -> None:
        if not self.ended:
            self.ended = True
            self.outcome.stopped_because = reason

    def note_changed(self) -> None:
        with self._lock:
            self.changed += 1

    def note_copied(self, rows: int) -> None:
        with self._lock:
            self.copied_rows += rows

    def note_moved(self, row: LedgerRow) -> None:
        with self._lock:
            self.outcome.batches += 1
            self.outcome.rows += row.extent.rows if row.extent else 0
            self.outcome.bytes += row.bytes
            self.outcome.moved.append(row.batch.id)

    def note_shared(self, batch: UUID, rows: int, size_bytes: int) -> None:
        """A batch of this run that another process moved."""
        with self._lock:
            self.copied_rows += rows
            self.outcome.batches += 1
            self.outcome.rows += rows
            self.outcome.bytes += size_bytes
            self.outcome.moved.append(batch)

    @property
    def conflicts(self) -> list[Bound]:
        """Keys of the run's own table that are left where they are."""
        return self.all_conflicts.get(self.selection.shape.name, [])

    @property
    def all_conflicts(self) -> dict[TableName, list[Bound]]:
        """Keys that are left where they are, of the run's own table and of those that go with it."""
        with self._lock:
            return {table: list(keys) for table, keys in self._conflicts.items()}

    def add_conflicts(self, table: TableName, keys: Sequence[Bound]) -> int:
        """Leaves `keys` where they are from now on; returns how many of them are new. Raises UsageError for too many."""
        with self._lock:
            held = self._conflicts.setdefault(table, [])
            known = set(held)
            fresh = [k for k in keys if k not in known]
            held += fresh
            if len(held) > CONFLICTS_PER_TABLE:
                raise UsageError(
                    f"{table} (main)",
                    f"more than {CONFLICTS_PER_TABLE} keys are in core and in main",
                    "Find out which side is right and delete the other's rows",
                )
            return len(fresh)

    def refresh_parents(self) -> None:
        """Brings the mirrored tables up to date, one worker at a time."""
        with self._lock:
            self._refresh_parents()


class Worker:
    """One pair of connections at work.

    Keeps I1 to I5: rows leave the source only in `Source.delete`, after `Destination.copy` has made them durable and compared
    them, and after every reader that could miss them there has ended.
    """

    def __init__(
        self,
        run: Run,
        source: Source,
        destination: Destination,
        *,
        clock: Clock,
        report: Callable[[], None],
        beat: Callable[[], None],
        place: int = 0,
    ) -> None:
        """`place`: which of the run's workers this is. Every other one begins with half a group, so that while some wait for a
        slow link to say that rows are deleted, others have rows to copy.
        """
        self._most = run.pace.group if place % 2 == 0 else max(run.pace.group // 2, 1)
        self._run = run
        self._source = source
        self._destination = destination
        self._clock = clock
        self._report = report
        self._beat = beat

    def tell(self) -> None:
        """Between two batches: keeps the lease, and says how far the run is."""
        self._beat()
        self._report()

    def work(self) -> None:
        """Moves ranges of the run until none is left. An error ends the run for every worker, and is raised."""
        try:
            while not self._run.ended:
                group = self._copy_group(self._most)
                self._most = self._run.pace.group
                if not group or not self.release([[row] for row in group]):
                    return
        except Resting as resting:
            self._run.end(str(resting))
        except BaseException as error:
            self._run.end(f"failed: {error}")
            raise

    def _copy_group(self, most: int) -> list[LedgerRow]:
        """Up to `most` batches, each `copied`. Those before one that fails are left to the next run, proven as they are."""
        group: list[LedgerRow] = []
        while len(group) < most:
            self._beat()
            taken = self._run.take()
            if taken is None:
                break
            try:
                row = self._copy(taken)
            except Resting as resting:
                self._run.end(str(resting))
                break
            self._report()
            if row is not None:
                group.append(row)
        return group

    def _copy(self, taken: Range, *, looked: bool = False) -> LedgerRow | None:
        """One batch up to `copied`: intent, S1, copy. Anything that goes wrong undoes it before it is told.

        `looked`: a key was taken there the last time, and nothing was found that had it.
        """
        selection = self._run.selection
        read = self._destination.reads(selection.shape)
        for refreshed in (False, True):
            batch = self._batch(taken)
            row = self._destination.open(batch)
            reach(Point.LEDGER_OPEN)
            try:
                with self._source.snapshot(batch, selection.shape, opens=(row, self._destination.tier), read=read) as snapshot:
                    reach(Point.MARKER_OPEN)
                    copied = self._destination.copy(batch, snapshot) if snapshot.extent.rows else None
                if copied is None:
                    settle(self._source, self._destination, batch.id)
                    return None
                self._run.note_copied(snapshot.extent.rows)
                return LedgerRow(batch, row.seq, "copied", copied.extent, copied.bytes)
            except KeyTaken as error:
                left = self.note_conflicts(batch, selection.shape)
                if left == 0 and looked:
                    raise self.refused_value(selection.shape.name, error.constraint) from error
                if left is not None:
                    return self._copy(taken, looked=left == 0)
                self._run.note_changed()
                return None
            except (Changed, Contended):
                settle(self._source, self._destination, batch.id)
                self._run.note_changed()
                return None
            except ParentMissing as error:
                settle(self._source, self._destination, batch.id)
                if refreshed:
                    raise self.parents_missing() from error
                self._run.refresh_parents()
            except Exception:
                self.settle_if_possible(batch.id)
                raise
        return None

    def refused_value(self, table: TableName, constraint: str) -> Failed:
        """What to say when a unique constraint at the destination refuses rows, and none of their keys is there."""
        return Failed(
            f"{table} ({self._destination.tier})",
            f"the unique constraint {constraint} refuses rows whose key is not there",
            "Drop it there, or delete the rows there that have the same values",
        )

    def parents_missing(self) -> Failed:
        """What to say when the mirrored tables are up to date and rows still refer to others that are not there."""
        remedy = 'Add the table they refer to with mode = "mirror", or move it first'
        return Failed(
            f"{self._run.selection.shape.name} ({self._destination.tier})",
            "rows refer to others that are not there",
            remedy if self._destination.tier == "main" else "Put the rows that they refer to there first",
        )

    def settle_if_possible(self, batch_id: UUID) -> bool:
        """On the way out with an error: that one is told, and what cannot be settled now the next run settles."""
        try:
            settle(self._source, self._destination, batch_id)
        except (psycopg.Error, TierkeeperError) as error:
            _log.warning("batch left for the next run", batch=str(batch_id), cause=type(error).__name__)
            return False
        return True

    def note_conflicts(self, batch: Batch, shape: TableShape) -> int | None:
        """A key that is in both tiers stays in both, noted; Core's row counts. Returns how many the batch goes on without.

        None: a neighbour's copy in flight has a key or a value of this batch, since a row was changed between the two reads or
        another run is at work. One of the two will be undone, so the batch waits for the next pass.
        """
        try:
            if not isinstance(self._destination, PostgresDestination):
                raise Failed(f"{shape.name} ({self._destination.tier})", "a key is there already", "Look at the destination")
            with self._source.snapshot(batch, shape) as snapshot:
                taken, in_flight = self._destination.taken_keys(batch, snapshot)
            main = self._source.conn if self._source.tier == "main" else self._destination.conn
            conflicts.note(main, shape.name, taken)
        except Changed:
            return None
        finally:
            settle(self._source, self._destination, batch.id)
        added = self._run.add_conflicts(shape.name, taken)
        return None if in_flight else added

    def _batch(self, taken: Range) -> Batch:
        selection = self._run.selection
        predicate = selection.within(taken, self._run.conflicts).as_string(self._source.conn)
        name, age, cutoff = selection.shape.name, selection.age, selection.cutoff
        return Batch(uuid4(), self._source.tier, name, age, cutoff, predicate, taken.part, origin=self._run.origin)

    def release(self, group: Sequence[Sequence[LedgerRow]]) -> bool:
        """Waits for old readers, deletes at the source, says done; of a bundle all at once.

        False: it waited too long and a later run goes on here.
        """
        if not group:
            return True
        try:
            waited_for = self._wait([row.batch.id for bundle in group for row in bundle])
        except Displaced:
            # I3: a copy that lies elsewhere by now, or nowhere, is no ground to delete anything on.
            for bundle in group:
                settle(self._source, self._destination, bundle[0].batch.id)
            raise
        if waited_for is not None:
            self._run.end(self._run.stop() or f"waiting for {waited_for}")
            return False
        reach(Point.WAITED)
        for i, bundle in enumerate(group):
            self._beat()
            try:
                self._run.ready()
                self._delete(bundle)
            except (psycopg.Error, Failed):
                # What the source will never let go (a trigger that raises) must not lie in both tiers for ever.
                all(self.settle_if_possible(left[0].batch.id) for left in group[i:])
                raise
        return True

    def _wait(self, batch_ids: Sequence[UUID]) -> str | None:
        pace = self._run.pace
        until, pause = self._clock.monotonic() + pace.longest_reader_seconds + pace.patience_seconds, 0.01
        while (cause := self._destination.settled_for_readers(batch_ids)) is not None:
            if self._clock.monotonic() > until or self._run.stop() is not None:
                return cause
            self._beat()
            self._clock.sleep(pause)
            pause = min(pause * 2, 0.5)
        return None

    def _delete(self, bundle: Sequence[LedgerRow]) -> None:
        first = bundle[0].batch.id
        try:
            self._source.delete(bundle)
        except (Changed, Fenced):
            settle(self._source, self._destination, first)
            self._run.note_changed()
            return
        reach(Point.DELETED)
        self._destination.finish(first)
        for row in bundle:
            self._run.note_moved(row)
