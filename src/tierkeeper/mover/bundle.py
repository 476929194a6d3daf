"""Moves rows of several tables together: those that foreign keys join leave at once or not at all.

A bundle is one batch for each of its tables, each with a ledger row and a marker of its own, so that readers need to know
nothing of bundles. What changes one of them changes all, in one transaction of the tier.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar
from uuid import uuid4

from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import BATCH_BYTES, GRAPH_SEEDS_SHARE, GRAPH_SEEN_FACTOR, PASSES
from tierkeeper.kernel.ports import Batch, Destination, LedgerRow
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import conflicts, places
from tierkeeper.mover.destination import Contended, KeyTaken, ParentMissing, Referred
from tierkeeper.mover.graph import LATER, Found, Row, take
from tierkeeper.mover.model import Between, Bound, Selection
from tierkeeper.mover.recovery import settle
from tierkeeper.mover.references import Explorer
from tierkeeper.mover.snapshot import Snapshot
from tierkeeper.mover.source import Changed, Resting, Source
from tierkeeper.mover.worker import Run, Worker
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.session import Cursor

T = TypeVar("T")
Planned = list[Snapshot]
"""The rows of one bundle as they were when it was put together, parents first."""


class Walk:
    """Goes through a selection from the oldest row on, and finds what hangs on each of its rows."""

    def __init__(self, source: Source, explorer: Explorer, batch_rows: int) -> None:
        self._source = source
        self._explorer = explorer
        self._most_rows = batch_rows
        self.again = False

    def ranges(
        self, conflicts: Callable[[], Mapping[TableName, Sequence[Bound]]], inside: Callable[[Cursor, Found], T]
    ) -> Iterator[tuple[Found, T]]:
        """Each range's components with what `inside` makes of them in the very snapshot that they were found in.

        A range comes again where `again` was set meanwhile, and in smaller ones where it had too much hanging on it. What hangs
        on one row is not cut, however many bytes it has.
        """
        selection = self._explorer.selections[self._explorer.of]
        largest = size = max(self._most_rows // GRAPH_SEEDS_SHARE, 1)
        after: Bound | None = None
        while (
            bound := self._source.holdings.next_bound(selection, after, size, conflicts().get(self._explorer.of, []))
        ) is not None:
            upto, seeds = bound
            self.again = False
            with self._explorer.looking(self._source.conn) as cur:
                most_seen = self._most_rows * GRAPH_SEEN_FACTOR
                found = self._explorer.find(
                    cur, Between(after, upto), conflicts(), most_rows=self._most_rows, most_seen=most_seen
                )
                heavy = seeds > 1 and self._explorer.weigh(cur, [row for one in found.goes for row in one]) > BATCH_BYTES
                made = [] if heavy else [inside(cur, found)]
            if heavy:
                largest = size = max(seeds // 2, 1)
                continue
            later = found.stays.pop(LATER, 0)
            if later:
                size = max(seeds // 2, 1)
                found.stays.clear()  # the rows come again, and are counted then
            yield found, made[0]
            if not later and not self.again:
                after, size = upto, min(size * 2, largest)


@dataclass
class Survey:
    """What would go of all tables, and what would stay and why; `weights` has each table's rows and its columns' bytes."""

    rows: set[Row] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    weights: dict[TableName, tuple[int, dict[str, int]]] = field(default_factory=dict)

    def add(self, weights: Mapping[TableName, tuple[int, Mapping[str, int]]]) -> None:
        for table, (rows, columns) in weights.items():
            before, known = self.weights.get(table, (0, {}))
            self.weights[table] = (before + rows, {c: known.get(c, 0) + size for c, size in columns.items()})


def survey(
    source: Source, explorer: Explorer, batch_rows: int, main: Connection, *, limit: int | None = None, weighed: bool = False
) -> Survey:
    """What would go and what would stay, such as the conflicts that `main` has noted; with `limit` as much as that.

    `weighed` with each column's bytes. Changes nothing.
    """
    known = conflicts.standing(main, [s.shape for s in explorer.selections.values()])
    stays: Counter[str] = Counter()
    seen = Survey()

    def add(cur: Cursor, found: Found) -> None:
        left = None if limit is None else limit - len(seen.rows)
        fresh, _ = take([one for one in found.goes if one[0] not in seen.rows], left)
        seen.rows.update(fresh)
        if weighed:
            seen.add(explorer.weigh_columns(cur, fresh))

    for found, _ in Walk(source, explorer, batch_rows).ranges(lambda: known, add):
        stays += found.stays
        if limit is not None and len(seen.rows) >= limit:
            break
    seen.notes = told(stays)
    return seen


def told(stays: Mapping[str, int]) -> list[str]:
    """What stays, for a person."""
    return [f"{n} {'group' if n == 1 else 'groups'} of rows that hang together stay: {why}" for why, n in sorted(stays.items())]


class Bundler:
    """One run over a family of tables, on one pair of connections.

    Keeps I1 to I5 as a worker does, and with them the user's foreign keys: the copies of a bundle become durable together, its
    rows are deleted by one statement, and only after it was proved in that statement's snapshot that no other row refers to
    them.
    """

    def __init__(self, run: Run, explorer: Explorer, source: Source, destination: Destination, worker: Worker) -> None:
        self._run = run
        self._explorer = explorer
        self._source = source
        self._destination = destination
        self._worker = worker
        self._held_back = False
        self._looked = False

    def work(self) -> None:
        """Passes over the selection until one changed nothing; what stays then is noted, with its reason."""
        stays: Counter[str] = Counter()
        try:
            for _ in range(PASSES):
                before, self._held_back = self._run.changed, False
                stays = self._pass()
                if self._run.ended or self._run.changed == before:
                    break
            else:
                self._run.end("rows that keep changing, or that somebody holds; the next run tries them again")
        except Resting as resting:
            self._run.end(str(resting))
        except BaseException as error:
            self._run.end(f"failed: {error}")
            raise
        self._run.outcome.notes += told(stays)
        if self._held_back:
            self._run.end("row limit")
        if stays:
            self._run.end(f"referenced: {sum(stays.values())} groups of rows that hang together stay where they are")

    def _pass(self) -> Counter[str]:
        stays: Counter[str] = Counter()
        walk = Walk(self._source, self._explorer, self._run.pace.batch_rows)
        for found, planned in walk.ranges(lambda: self._run.all_conflicts, self._plan):
            stays += found.stays
            if planned:
                walk.again = not self._move(planned)
            self._worker.tell()
            if self._full() or not self._run.goes_on():
                break
        return stays

    def _full(self) -> bool:
        """Whether a limited run has what it may take, and left some: it does not go through all younger rows for a few more."""
        return self._held_back and (self._run.outcome.rows > 0 or not self._run.pace.limit)

    def _plan(self, cur: Cursor, found: Found) -> Planned:
        left = None if self._run.pace.limit is None else max(self._run.pace.limit - self._run.outcome.rows, 0)
        rows, whole = take(found.goes, left)
        self._held_back |= not whole
        return [self._source.look(cur, batch, s.shape, last=False) for batch, s in self._batches(rows)]

    def _batches(self, rows: Sequence[Row]) -> list[tuple[Batch, Selection]]:
        """A new bundle of `rows`: a batch for each table that has any, parents first."""
        found: dict[int, list[str]] = defaultdict(list)
        for number, place in rows:
            found[number].append(place)
        bundle, made, source, origin = uuid4(), [], self._source.tier, self._run.origin
        for i, table in enumerate(self._explorer.family.tables):
            if i in found:
                s = self._explorer.selections[table]
                condition = places.predicate(found[i])
                made.append((Batch(uuid4(), source, table, s.age, s.cutoff, condition, bundle=bundle, origin=origin), s))
        return made

    def _move(self, planned: Planned) -> bool:
        """One bundle from intent to `done`. False: it must be put together again, without keys that are in both tiers."""
        for refreshed in (False, True):
            bundle = self._destination.open_all([p.batch for p in planned])
            reach(Point.LEDGER_OPEN)
            try:
                self._source.open_marker_of(bundle, self._destination.tier)
                reach(Point.MARKER_OPEN)
                copied = self._copy(planned)
            except (Changed, Contended):
                settle(self._source, self._destination, planned[0].batch.id)
                self._run.note_changed()
                return True
            except KeyTaken as taken:
                return self._left_out(planned, taken)
            except Referred as referred:
                settle(self._source, self._destination, planned[0].batch.id)
                why = f"rows in {self._destination.tier} refer to them already: {referred.by}"
                if not self._explorer.hold(referred.table, referred.keys, why):
                    raise
                return False
            except ParentMissing as error:
                settle(self._source, self._destination, planned[0].batch.id)
                if refreshed:
                    raise self._worker.parents_missing() from error
                self._run.refresh_parents()
                planned = _renewed(planned)
            except Exception:
                self._worker.settle_if_possible(planned[0].batch.id)
                raise
            else:
                self._looked = False
                self._run.note_copied(sum(p.extent.rows for p in planned))
                self._worker.release([copied])
                return True
        return True

    def _copy(self, planned: Planned) -> list[LedgerRow]:
        """S1 and the copy. Raises Changed where the rows are not those that the bundle was put together from."""
        with self._source.reading([p.batch for p in planned]) as cur:
            last = planned[-1]
            snapshots = [self._source.look(cur, p.batch, p.shape, last=p is last) for p in planned]
            if any(s.extent != p.extent for s, p in zip(snapshots, planned, strict=True)):
                raise Changed
            return self._destination.copy_all(snapshots)

    def _left_out(self, planned: Planned, taken: KeyTaken) -> bool:
        """A key that is in both tiers stays in both, noted, and with it all that hangs on its row. So does one that two rows have
        here, as rows of a parent and of what inherits from it may.
        """
        one = next((p for p in planned if (p.batch.table.schema, p.batch.table.name) == taken.table), planned[0])
        left = self._worker.note_conflicts(one.batch, one.shape)
        if left == 0 and self._looked:
            raise self._worker.refused_value(one.batch.table, taken.constraint) from taken
        self._looked = left == 0
        doubled = self._source.doubled(one) if left == 0 else []
        if doubled and self._explorer.hold(one.batch.table, doubled, f"two rows of {one.batch.table} have the same key"):
            self._looked = False
        if left is None:
            self._run.note_changed()
        return left is None


def _renewed(planned: Planned) -> Planned:
    """The same rows as a new bundle: the old one has been settled."""
    bundle = uuid4()
    return [replace(p, batch=replace(p.batch, id=uuid4(), bundle=bundle)) for p in planned]
