"""A part of a run that another process leads: moved here, under that run's lease."""

from collections.abc import Callable
from dataclasses import replace

from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import MoveResult
from tierkeeper.mover import plan
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.ends import Ends, Pairs, opened, pair
from tierkeeper.mover.model import Selection
from tierkeeper.mover.outcome import Outcome
from tierkeeper.mover.pacing import Pacer, Side
from tierkeeper.mover.request import Request
from tierkeeper.mover.runner import Mover
from tierkeeper.mover.service import MoveService
from tierkeeper.mover.sharing import Joined, Part
from tierkeeper.mover.source import Source
from tierkeeper.postgres import references
from tierkeeper.postgres.link import translated


class PartService(MoveService):
    """Moves rows on request, and parts of others' moves.

    A part settles nothing that it has not begun itself, and looks for no conflict but those that it meets: the run's leader does.
    """

    def move_part(self, part: Part) -> MoveResult:
        """Moves the rows of `part`. Raises PassedOver where its run is over, and as `move` does."""
        began = self._clock.monotonic()
        request = Request(part.table, part.source, part.destination, before=part.cutoff)
        policy = self._policy(request)
        with translated(str(part.table)), opened(self._tiers, request) as ends:
            joined = Joined(ends.main(part.source), part.lease, part.holder)
            joined.take()  # before anything is noted of it
            source = Source(self._links[part.source], ends.source, part.source)
            selection = self._selection(request, policy, source)
            if selection.age != part.age:
                cause = f"its age is {selection.age} here, and {part.age} where the run began"
                raise UsageError(f"tables.{part.table}.age", cause, "Give both machines the same configuration")
            self._refuse_joined(request, source, selection, ends)
            detail = {"from": part.source, "to": part.destination, "cutoff": part.cutoff, "part_of": part.holder}
            with self._audit.action("move part", str(part.table), detail) as note:
                outcome = self._move_part(request, part, joined, source, selection, ends)
                note(rows=outcome.rows, batches=outcome.moved, stopped_because=outcome.stopped_because)
        return outcome.told(request, part.cutoff, self._clock.monotonic() - began, [])

    def _move_part(  # noqa: PLR0917
        self, request: Request, part: Part, joined: Joined, source: Source, selection: Selection, ends: Ends
    ) -> Outcome:
        longest = self._bounds.longest_reader_seconds
        main = ends.main(part.source)
        pace = replace(self._pace(request, None), batch_rows=part.batch_rows)
        there = PostgresDestination(main, part.destination, part.source, longest)
        further = max(min(pace.workers, plan.workers_of(len(part.ranges))) - 1, 0)
        with Pairs(lambda: pair(self._links, request, there, ends.here.take()), further) as pairs:
            mover = Mover(
                source,
                there,
                joined,
                pace=pace,
                clock=self._clock,
                progress=self._progress,
                stop=self._stop,
                refresh_parents=self.refresh_mirrors,
                rests=lambda _: None,
                pairs=pairs,
                throttle=self._throttle(part, ends, self._stop),
            )
            return mover.run_part(selection, part.ranges, part.origin)

    def _throttle(self, part: Part, ends: Ends, stop: Stop) -> Callable[[], str | None]:
        sides = [
            Side(tier, conn, *budget, sharers=part.sharers)
            for (tier, conn), budget in zip(ends.looking, part.budgets, strict=True)
        ]
        return Pacer(sides, clock=self._clock, stop=stop)

    def _refuse_joined(self, request: Request, source: Source, selection: Selection, ends: Ends) -> None:
        """A foreign key that came since the run began: then its rows have to go with others."""
        if self._explorer(request, source, selection, ends, references.read(ends.source)) is not None:
            cause = "a foreign key joins it to other tables since the run began"
            raise NotNow(str(request.table), cause, "The next run moves these rows together")
