"""One run over one table and one hop: settles what earlier runs left, then hands ranges of rows to workers.

It decides nothing by itself: sizes and verdicts come from `plan`, rows from `source`, the ledger from the destination.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from uuid import UUID

import psycopg

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.kernel.limits import BATCH_BYTES, BATCH_ROWS_MIN, CANCEL_SECONDS, LEASE_RENEW_SECONDS, PASSES
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.ports import Destination, LedgerRow, Progress, Stop, Throttle
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import conflicts, plan, sharing
from tierkeeper.mover.bundle import Bundler
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.ends import Pair, Pairs
from tierkeeper.mover.horizons import Horizons
from tierkeeper.mover.lease import Lease
from tierkeeper.mover.model import Between, Bound, Piece, Range, Selection
from tierkeeper.mover.outcome import Outcome
from tierkeeper.mover.recovery import clear, recover, refuse_restored, refuse_stranger
from tierkeeper.mover.references import Explorer
from tierkeeper.mover.sharing import Joined, Part, Share
from tierkeeper.mover.source import Markers, Source
from tierkeeper.mover.worker import Pace, Run, Worker
from tierkeeper.postgres.keeping import beside
from tierkeeper.postgres.link import Connection

_log = Log()


class Mover:
    """One run. `source`, `destination` and `lease` are its own and its first worker's; `pairs` has connections for further ones.

    Without `pairs`, and where there is little to move, it works by itself; so it does with an `explorer`, which finds the
    rows of other tables that must go with the run's own.
    """

    def __init__(
        self,
        source: Source,
        destination: Destination,
        lease: Lease | Joined,
        *,
        pace: Pace,
        clock: Clock,
        progress: Progress,
        stop: Stop,
        refresh_parents: Callable[[], None],
        rests: Callable[[Collection[TableName]], str | None],
        pairs: Pairs | None = None,
        spare: tuple[Connection, Connection] | None = None,
        throttle: Throttle = lambda: None,
        explorer: Explorer | None = None,
        pieces: Sequence[Piece] | None = None,
        share: Share | None = None,
    ) -> None:
        """`pieces`: where the rows lay a moment ago, for batches of the pace's size. `spare`: connections to the source and to
        the destination over which something may go on beside the first worker.

        `rests`: why rows may not leave yet, given the tables in which others are arriving. `share`: with whom to work at it.
        """
        self._share = share
        self._spare = spare
        self._explorer = explorer
        self._pieces = pieces
        self._source = source
        self._destination = destination
        self._lease = lease
        self._pace = pace
        self._clock = clock
        self._progress = progress
        self._stop = stop
        self._refresh_parents = refresh_parents
        self._rests = rests
        self._pairs = pairs
        self._throttle = throttle
        self._total: int | None = None
        self._remembered: Markers | None = None
        self._renewed_at = clock.monotonic()

    def run(self, selection: Selection) -> Outcome:
        """Moves what `selection` holds. Raises the errors of its parts; whatever it leaves, the next run settles."""
        run = Run(selection, self._pace, self._stop, self._refresh_parents, self._throttle)
        horizons = self._horizons(selection)
        self._lease.take()
        try:
            with horizons.looking():
                markers = refuse_restored(self._source, self._destination)
                self._known_conflicts(run)
                goes_on = self._worker(run, self._source, self._destination, self._beat).release(self._recover(run, markers))
                if goes_on:
                    tables = [s.name for s in self._shapes(selection)]
                    refuse_stranger(self._source, self._destination, tables, markers.identity)
                    run.origin = markers.identity
                    resting = self._rests(markers.arriving)
                    horizons.note(settled=run.outcome.recovered > 0)
            if goes_on:
                with horizons.recording() as run.ready:
                    if resting is None:
                        self._move_all(run)
                    else:
                        run.end(resting)
                    run.ready()
            clear(self._source, self._destination, self._pace.longest_reader_seconds, self._remembered)
            if run.ended:
                run.outcome.rows_left = self._rows_left(run, selection)
        finally:
            self._give_back()
        own = selection.shape.name
        run.outcome.conflicts = [
            ("" if table == own else f"{table}: ") + ", ".join(c) for table, keys in run.all_conflicts.items() for c in keys
        ]
        return run.outcome

    def _rows_left(self, run: Run, selection: Selection) -> int:
        """Counted where there is time; a run whose time is over goes by what it had counted itself."""
        if self._total is None or self._stop() is None:
            return self._source.holdings.count(selection)
        return max(self._total - run.outcome.rows, 0)

    def run_part(self, selection: Selection, ranges: Sequence[Piece], origin: UUID | None) -> Outcome:
        """Moves `ranges` of a run that somebody else leads and settles; the lease is that run's.

        `origin` is who its source is. Raises NotNow once the run is over, UsageError where this source is another one.
        """
        self._lease.take()
        run = Run(selection, self._pace, self._stop, self._refresh_parents, self._throttle)
        markers = refuse_restored(self._source, self._destination)
        refuse_stranger(self._source, self._destination, [selection.shape.name], markers.identity)
        if markers.identity != origin:
            cause = f"this {self._source.tier} is another database than that of the run"
            raise UsageError(f"tiers.{self._source.tier}", cause, "Give both machines the same configuration")
        run.origin = origin
        self._total = sum(p.rows for p in ranges)
        self._pass(run, iter(ranges), plan.workers(self._pace.workers, ranges))
        return run.outcome

    def _recover(self, run: Run, markers: Markers) -> list[list[LedgerRow]]:
        """Settles what earlier runs left of the table and of those that go with it; returns what only awaits its delete."""
        resumed: dict[UUID, list[LedgerRow]] = {}
        for shape in self._shapes(run.selection):
            settled, found = recover(self._source, self._destination, shape.name, markers)
            run.outcome.recovered += settled
            resumed |= {bundle[0].batch.id: bundle for bundle in found}
        run.outcome.recovered += sum(map(len, resumed.values()))
        return list(resumed.values())

    def _shapes(self, selection: Selection) -> list[TableShape]:
        """The run's table, and those whose rows may go with its own."""
        return [selection.shape] if self._explorer is None else [s.shape for s in self._explorer.selections.values()]

    def _known_conflicts(self, run: Run) -> None:
        """On the way to Main those that the application has ended are dropped; on the way from Main the others stay behind.

        In the archive nobody could tell them from Core's rows, and in Core there is no place for two.
        """
        if isinstance(self._destination, PostgresDestination) and self._destination.tier == "main":
            for shape in self._shapes(run.selection):
                conflicts.drop_resolved(self._destination.conn, self._source, shape, self._pace.longest_reader_seconds)
        else:
            for shape in self._shapes(run.selection):
                run.add_conflicts(shape.name, conflicts.noted(self._source.conn, shape.name))

    def _horizons(self, selection: Selection) -> Horizons:
        """Those of a run to Main, also where nothing moves: readers count twice what neither they nor a run has looked for.

        Where there are too many conflicts for a list the run goes on: those that it meets it notes by itself.
        """
        there = self._destination
        if not (isinstance(there, PostgresDestination) and there.tier == "main"):
            return Horizons(self._source.conn, self._source.conn, [], apart=False)
        core, main = self._spare or (self._source.conn, there.conn)
        return Horizons(core, main, self._shapes(selection), apart=self._spare is not None)

    def _give_back(self) -> None:
        try:
            self._lease.give_back()
        except (psycopg.Error, TierkeeperError):
            return  # the lease runs out by itself; the error that brought us here is the one to tell

    def _beat(self) -> None:
        """Keeps the lease while there is work."""
        if self._clock.monotonic() - self._renewed_at > LEASE_RENEW_SECONDS:
            self._lease.take()
            self._renewed_at = self._clock.monotonic()

    def _move_all(self, run: Run) -> None:
        """Passes over what is left: smaller batches after one in which writers changed rows under us, a few for late arrivals."""
        if self._explorer is not None:
            worker = self._worker(run, self._source, self._destination, self._beat)
            Bundler(run, self._explorer, self._source, self._destination, worker).work()
            return
        limited = self._limit(run)
        size = self._pace.batch_rows
        clean_passes = least = shared = 0
        while clean_passes < PASSES and not run.ended:
            with self._remembering(run) if clean_passes else nullcontext():
                rows, workers, ranges = self._plan(run, size)
            if not rows:
                break
            self._total = rows + run.copied_rows
            parts, ranges = self._parts(run, ranges, size) if shared < PASSES else ([], ranges)
            if parts:
                shared += 1
                self._pass_shared(run, parts)
                continue
            self._pass(run, ranges, workers)
            if not run.changed:
                clean_passes += 1
                continue
            size = plan.smaller(min(size, rows)) or min(size, BATCH_ROWS_MIN)
            least += size <= BATCH_ROWS_MIN
            if least == PASSES:
                run.end("rows that keep changing, or that somebody holds; the next run tries them again")
                return
        if limited:
            run.end("row limit")

    @contextmanager
    def _remembering(self, run: Run) -> Iterator[None]:
        """Asks what the source remembers, for the end of the run, beside a look that is most likely the last."""
        if self._spare is None:
            yield
            return
        run.ready()  # it has the connection until then
        source = Source(self._source.link, self._spare[0], self._source.tier)
        with beside(lambda: source.markers(self._destination.tier)) as markers:
            yield
            with suppress(psycopg.Error):  # it was idle for the whole pass, and may be gone: then the run's own is asked
                self._remembered = markers()

    def _limit(self, run: Run) -> bool:
        """Narrows the selection to the oldest rows that the limit allows. False: it holds no more than these."""
        if self._pace.limit is None:
            return False
        whole, left = run.selection, self._pace.limit - run.outcome.rows
        found = self._source.holdings.next_bound(whole, None, max(left, 1), run.conflicts)
        if found is None:
            return False
        if left <= 0:
            run.end("row limit")
            return True
        run.selection = replace(whole, upto=found[0])
        return self._source.holdings.next_bound(whole, found[0], 1, run.conflicts) is not None

    def _plan(self, run: Run, size: int) -> tuple[int, int, Iterator[Range]]:
        """What is left: how many rows, for how many workers, and where the rows of each batch of about `size` are.

        For Postgres by place in the heap: that needs no index, and each range is read once from end to end. For the archive in
        the order of age, which a segment's readers prune by.
        """
        if not isinstance(self._destination, PostgresDestination):
            rows = self._source.holdings.count(run.selection)
            return rows, 1, self._in_order(run, size)
        pieces, self._pieces = self._pieces, None
        if pieces is None or run.conflicts:
            pieces = self._source.holdings.pieces(run.selection, plan.piece_pages(size), run.conflicts)
        workers = plan.workers(self._pace.workers, list(plan.cut(pieces, size, BATCH_BYTES)))
        return sum(p.rows for p in pieces), workers, plan.cut(pieces, plan.even(pieces, size, workers), BATCH_BYTES)

    def _in_order(self, run: Run, size: int) -> Iterator[Range]:
        for part in self._source.holdings.parts(run.selection):
            after: Bound | None = None
            while (found := self._source.holdings.next_bound(run.selection, after, size, run.conflicts, part)) is not None:
                yield Between(after, found[0], part)
                after = found[0]

    def _pass(self, run: Run, ranges: Iterator[Range], workers: int) -> None:
        """Hands `ranges` out until none is left: to workers in threads of their own where there is enough for them."""
        run.hand_out(ranges)
        own = self._worker(run, self._source, self._destination, self._beat)
        further = self._pairs.up_to(workers - 1) if self._pairs is not None else []
        if not further:
            own.work()
            return
        with ThreadPoolExecutor(1 + len(further), "mover") as pool:
            working = [pool.submit(own.work), *(pool.submit(self._join, run, *one) for one in enumerate(further, 1))]
            try:
                self._watch(run, working)
            except KeyboardInterrupt:
                self._cut_short(further)
                raise

    def _parts(self, run: Run, ranges: Iterator[Range], size: int) -> tuple[list[Part], Iterator[Range]]:
        """What of a pass other processes may take, nothing where they may not; and its ranges."""
        if self._share is None or not isinstance(self._lease, Lease):
            return [], ranges
        known = list(ranges)
        pieces = [one for one in known if isinstance(one, Piece)]
        return self._share.parts(run, pieces, self._lease, size), iter(known)

    def _pass_shared(self, run: Run, parts: Sequence[Part]) -> None:
        """A pass that any process may take parts of, this one's too.

        Behind it all is settled that a killed one left in flight. What it did not come to is left to the next pass.
        """
        assert self._share is not None and isinstance(self._destination, PostgresDestination)  # noqa: S101 - parts were cut
        run.ready()  # who takes a part deletes its rows
        total, seq = self._total or 0, sharing.newest(self._destination.conn)

        def tell(out: int) -> None:
            self._beat()
            self._progress(f"{run.selection.shape.name}: {self._source.tier} to {self._destination.tier}", total - out, total)

        self._share.wait(run, parts, tell, self._clock.sleep)
        if not run.ended:
            left = self._recover(run, self._source.markers(self._destination.tier))
            self._worker(run, self._source, self._destination, self._beat).release(left)
        table, known = run.selection.shape.name, run.outcome.moved
        for batch, rows, size_bytes in sharing.moved_since(self._destination.conn, seq, table, self._source.tier, known):
            run.note_shared(batch, rows, size_bytes)

    def _join(self, run: Run, place: int, dialled: Future[Pair]) -> None:
        """A further worker, as soon as its connections are there; a server that gives no more gets fewer workers."""
        refused = dialled.exception()
        if isinstance(refused, TierkeeperError):
            _log.warning("fewer workers", cause=str(refused))
            return
        if refused is not None:
            run.end(f"failed: {refused}")
        self._worker(run, *dialled.result(), _nothing, place).work()

    def _cut_short(self, further: Sequence[Future[Pair]]) -> None:
        """What the workers wait for comes to nothing, so that they settle what they have begun, and end (I5)."""
        dialled = [one.result() for one in further if one.done() and not one.cancelled() and one.exception() is None]
        ends = [end for pair in [(self._source, self._destination), *dialled] for end in pair]
        conns = [end.conn for end in ends if isinstance(end, (Source, PostgresDestination))]
        with ThreadPoolExecutor(len(conns), "cancel") as pool:
            pool.map(_cancel, conns)

    def _watch(self, run: Run, working: list[Future[None]]) -> None:
        """Waits until every worker has come to its safe end, then raises the first error that one of them met.

        The first of them keeps the lease over its own connection; when it is through with its work that is free for us.
        """
        try:
            pending = set(working)
            while pending:
                _, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                if working[0] not in pending and working[0].exception() is None:
                    self._beat()
        except BaseException as error:
            run.end(f"interrupted: {type(error).__name__}")
            raise
        for future in working:
            future.result()

    def _worker(self, run: Run, source: Source, destination: Destination, beat: Callable[[], None], place: int = 0) -> Worker:
        def report() -> None:
            name = f"{run.selection.shape.name}: {source.tier} to {destination.tier}"
            self._progress(name, run.copied_rows, self._total)

        return Worker(run, source, destination, clock=self._clock, report=report, beat=beat, place=place)


def _cancel(conn: Connection) -> None:
    with suppress(psycopg.Error):
        conn.cancel_safe(timeout=CANCEL_SECONDS)


def _nothing() -> None:
    """A worker's beat where another one keeps the lease."""
