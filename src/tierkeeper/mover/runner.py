"""Drives batches from a source to a destination, step by durable step (design section 4).

It decides nothing by itself: sizes and verdicts come from `plan`, rows from `source`, the ledger from the destination.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg
import structlog

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, Fenced, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import CONFLICTS_PER_TABLE, WAIT_EXTRA_SECONDS
from tierkeeper.kernel.ports import Batch, Destination, LedgerRow, Progress, Stop
from tierkeeper.mover import plan
from tierkeeper.mover.destination import KeyTaken, ParentMissing, PostgresDestination
from tierkeeper.mover.lease import Lease
from tierkeeper.mover.model import Bound, Selection
from tierkeeper.mover.recovery import clear, recover, refuse_restored, settle
from tierkeeper.mover.source import Changed, Resting, Source

_log = structlog.get_logger()


@dataclass
class Outcome:
    """What a run did. `stopped_because` is `complete` unless something is left that another run would move."""

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    recovered: int = 0
    stopped_because: str = "complete"
    conflicts: list[str] = field(default_factory=list)
    moved: list[UUID] = field(default_factory=list)


@dataclass(frozen=True)
class Pace:
    """How much at a time: `group` batches share one wait, which lasts as long as a reader may, and `patience_seconds`."""

    batch_rows: int
    group: int
    longest_reader_seconds: float
    limit: int | None = None
    patience_seconds: float = WAIT_EXTRA_SECONDS


class Mover:
    """One run over one table and one hop.

    Keeps I1 to I5: rows leave the source only in `Source.delete`, after `Destination.copy` has made them durable and compared
    them, and after every reader that could miss them there has ended.
    """

    def __init__(
        self,
        source: Source,
        destination: Destination,
        lease: Lease,
        *,
        pace: Pace,
        clock: Clock,
        progress: Progress,
        stop: Stop,
        refresh_parents: Callable[[], None],
        rests: Callable[[], str | None],
    ) -> None:
        self._source = source
        self._destination = destination
        self._lease = lease
        self._pace = pace
        self._clock = clock
        self._progress = progress
        self._stop = stop
        self._refresh_parents = refresh_parents
        self._rests = rests
        self._conflicts: list[Bound] = []
        self._changed = 0
        self._outcome = Outcome()

    def run(self, selection: Selection) -> Outcome:
        """Moves what `selection` holds. Raises the errors of its parts; whatever it leaves, the next run settles."""
        self._lease.take()
        try:
            refuse_restored(self._source, self._destination)
            self._known_conflicts(selection)
            settled, resumed = recover(self._source, self._destination, selection.shape.name)
            self._outcome.recovered = settled + len(resumed)
            if self._release(resumed, selection):
                resting = self._rests()
                if resting is None:
                    self._move_all(selection)
                else:
                    self._outcome.stopped_because = resting
            clear(self._source, self._destination, self._pace.longest_reader_seconds)
        finally:
            self._give_back()
        self._outcome.conflicts = [", ".join(c) for c in self._conflicts]
        return self._outcome

    def _known_conflicts(self, selection: Selection) -> None:
        """On the way to Main those that the application has ended are dropped; on the way from Main the others stay behind.

        In the archive nobody could tell them from Core's rows.
        """
        if isinstance(self._destination, PostgresDestination):
            self._destination.drop_resolved(self._source, selection.shape)
        else:
            self._add_conflicts(self._source.conflicts(selection.shape.name), selection)

    def _give_back(self) -> None:
        try:
            self._lease.give_back()
        except (psycopg.Error, TierkeeperError):
            return  # the lease runs out by itself; the error that brought us here is the one to tell

    def _move_all(self, selection: Selection) -> None:
        """Passes over what is left, each with smaller batches than the one before, as long as writers change rows under us."""
        size = self._pace.batch_rows
        while True:
            self._changed = 0
            if not self._pass(selection, size) or not self._changed:
                return
            shrunk = plan.smaller(size)
            if shrunk is None:
                self._outcome.stopped_because = "rows that keep changing; the next run tries them again"
                return
            size = shrunk

    def _pass(self, selection: Selection, size: int) -> bool:
        """Moves the selection once from end to end in batches of `size` rows. False: the run must end here."""
        total = self._source.count(selection)
        left = None if self._pace.limit is None else self._pace.limit - self._outcome.rows
        after: Bound | None = None
        planned = 0
        more = True
        while more:
            group: list[LedgerRow] = []
            while more and len(group) < self._pace.group:
                self._lease.take()
                found = self._next(selection, after, size if left is None else min(size, left - planned))
                more = found is not None
                if found is None:
                    break
                after, rows = found[0], found[1]
                planned += rows
                try:
                    row = self._copy(selection, found[2], after)
                except Resting as resting:
                    self._outcome.stopped_because = str(resting)
                    more = False
                    break
                if row is not None:
                    group.append(row)
                self._progress(
                    f"{selection.shape.name}: {self._source.tier} to {self._destination.tier}",
                    planned,
                    min(total, left or total),
                )
            if not self._release(group, selection):
                return False
        return self._outcome.stopped_because == "complete"

    def _next(self, selection: Selection, after: Bound | None, size: int) -> tuple[Bound, int, Bound | None] | None:
        """The next batch as (upto, rows, after); None at the end of the run, with the reason noted if rows are left."""
        reason = self._stop()
        if reason is not None:
            self._outcome.stopped_because = reason
            return None
        found = self._source.next_bound(selection, after, max(size, 1), self._conflicts)
        if found is not None and size <= 0:
            self._outcome.stopped_because = "row limit"
            return None
        return None if found is None else (*found, after)

    def _copy(self, selection: Selection, after: Bound | None, upto: Bound) -> LedgerRow | None:
        """One batch up to `copied`: intent, S1, copy. Anything that goes wrong undoes it before it is told."""
        for refreshed in (False, True):
            batch = self._batch(selection, after, upto)
            row = self._destination.open(batch)
            reach(Point.LEDGER_OPEN)
            try:
                self._source.open_marker(row, self._destination.tier)
                reach(Point.MARKER_OPEN)
                with self._source.snapshot(batch, selection.shape) as snapshot:
                    copied = self._destination.copy(batch, snapshot) if snapshot.extent.rows else None
                if copied is None:
                    settle(self._source, self._destination, batch.id)
                return copied and LedgerRow(batch, row.seq, "copied", copied.extent, copied.bytes)
            except KeyTaken as error:
                if self._note_conflicts(batch, selection, error.constraint):
                    return self._copy(selection, after, upto)
                self._changed += 1
                return None
            except ParentMissing as error:
                settle(self._source, self._destination, batch.id)
                if refreshed:
                    raise Failed(
                        f"{selection.shape.name} ({self._destination.tier})",
                        "rows refer to others that are not there",
                        'Add the table they refer to with mode = "mirror", or move it first',
                    ) from error
                self._refresh_parents()
            except Exception:
                self._settle_if_possible(batch.id)
                raise
        return None

    def _settle_if_possible(self, batch_id: UUID) -> bool:
        """On the way out with an error: that one is told, and what cannot be settled now the next run settles."""
        try:
            settle(self._source, self._destination, batch_id)
        except (psycopg.Error, TierkeeperError) as error:
            _log.warning("batch left for the next run", batch=str(batch_id), cause=type(error).__name__)
            return False
        return True

    def _note_conflicts(self, batch: Batch, selection: Selection, constraint: str) -> bool:
        """A key that is in both tiers stays in both, noted; Core's row counts. The batch goes on without it.

        False: a neighbour's copy in flight has a key of this batch, since the row's age was changed between the two reads or
        another run is at work. One of the two will be undone, so the batch waits for the next pass.
        """
        place = f"{selection.shape.name} ({self._destination.tier})"
        try:
            if not isinstance(self._destination, PostgresDestination):
                raise Failed(place, "a key is there already", "Look at the destination")
            with self._source.snapshot(batch, selection.shape) as snapshot:
                taken, in_flight = self._destination.taken_keys(batch, snapshot)
        finally:
            settle(self._source, self._destination, batch.id)
        added = self._add_conflicts(taken, selection)
        if not added and not in_flight:
            raise Failed(
                place,
                f"the unique constraint {constraint} refuses rows whose key is not there",
                "Drop it there, or delete the rows there that have the same values",
            )
        return not in_flight

    def _add_conflicts(self, keys: Sequence[Bound], selection: Selection) -> int:
        """Leaves `keys` where they are from now on; returns how many of them are new. Raises UsageError for too many."""
        known = set(self._conflicts)
        fresh = [k for k in keys if k not in known]
        self._conflicts += fresh
        if len(self._conflicts) > CONFLICTS_PER_TABLE:
            raise UsageError(
                f"{selection.shape.name} (main)",
                f"more than {CONFLICTS_PER_TABLE} keys are in core and in main",
                "Find out which side is right and delete the other's rows",
            )
        return len(fresh)

    def _batch(self, selection: Selection, after: Bound | None, upto: Bound) -> Batch:
        predicate = selection.between(after, upto, self._conflicts).as_string(self._source.conn)
        return Batch(uuid4(), self._source.tier, selection.shape.name, selection.age, selection.cutoff, predicate)

    def _release(self, group: Sequence[LedgerRow], selection: Selection) -> bool:
        """Waits for old readers, deletes at the source, says done. False: it waited too long and a later run goes on here."""
        if not group:
            return True
        waited_for = self._wait([row.batch.id for row in group])
        if waited_for is not None:
            self._outcome.stopped_because = self._stop() or f"waiting for {waited_for}"
            return False
        reach(Point.WAITED)
        for i, row in enumerate(group):
            self._lease.take()
            try:
                self._delete(row, selection)
            except (psycopg.Error, Failed):
                # What the source will never let go (a trigger that raises) must not lie in both tiers for ever.
                all(self._settle_if_possible(left.batch.id) for left in group[i:])
                raise
        return True

    def _wait(self, batch_ids: Sequence[UUID]) -> str | None:
        patience = self._pace.longest_reader_seconds + self._pace.patience_seconds
        until, pause = self._clock.monotonic() + patience, 0.01
        while (cause := self._destination.settled_for_readers(batch_ids)) is not None:
            if self._clock.monotonic() > until or self._stop() is not None:
                return cause
            self._clock.sleep(pause)
            pause = min(pause * 2, 0.5)
        return None

    def _delete(self, row: LedgerRow, selection: Selection) -> None:
        extent = row.extent
        if extent is None:
            raise Failed(f"batch {row.batch.id}", "it was never copied", "Run the same command again")
        try:
            self._source.delete(row.batch, extent, selection.shape.key)
        except Changed:
            settle(self._source, self._destination, row.batch.id)
            self._changed += 1
            return
        except Fenced:
            settle(self._source, self._destination, row.batch.id)
            return
        reach(Point.DELETED)
        self._destination.finish(row.batch.id)
        self._outcome.batches += 1
        self._outcome.rows += extent.rows
        self._outcome.bytes += row.bytes
        self._outcome.moved.append(row.batch.id)
