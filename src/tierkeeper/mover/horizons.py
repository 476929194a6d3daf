"""A run's horizons: looked for and recorded beside what does not wait for them, since on a slow link each costs round trips."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event
from uuid import UUID

import psycopg

from tierkeeper.kernel.limits import CANCEL_SECONDS
from tierkeeper.kernel.tables import TableShape
from tierkeeper.mover.horizon import Horizon, Look
from tierkeeper.postgres.keeping import beside
from tierkeeper.postgres.link import Connection


class Horizons:
    """The horizon of each table of a run to Main, in the order `looking`, `note`, `recording`.

    Keeps what `Horizon` says: notes are durable before the horizon is, and that is before the first row leaves Core.
    """

    def __init__(self, core: Connection, main: Connection, shapes: Sequence[TableShape], *, apart: bool) -> None:
        """`apart`: the connections are for this alone, so that it may go on beside the run."""
        self._conns = (core, main)
        self._given_up = Event()
        self._horizons = [Horizon(core, main, shape) for shape in shapes]
        self._apart = apart and bool(shapes)
        self._looks: Callable[[], list[Look]] | None = None
        self._made: list[tuple[Horizon, Look, UUID | None]] = []

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Looks while the block settles what earlier runs left. Who leaves it without `note` has no use for the look."""
        if not self._apart:
            yield
            return
        with beside(self._look) as self._looks:
            try:
                yield
            finally:
                if len(self._made) < len(self._horizons):
                    self._give_up()

    def _look(self) -> list[Look]:
        return [h.look(voids=False, goes_on=self._goes_on) for h in self._horizons if self._goes_on()]

    def _goes_on(self) -> bool:
        return not self._given_up.is_set()

    def _give_up(self) -> None:
        """Nobody wants to know any more: who ends the run at once, or told why it cannot be, waits for no table of keys."""
        self._given_up.set()
        for conn in self._conns:
            with suppress(psycopg.Error):
                conn.cancel_safe(timeout=CANCEL_SECONDS)

    def note(self, *, settled: bool) -> None:
        """Notes what was found; where something was `settled` meanwhile, or was not ripe, it is looked for once more."""
        looks: Sequence[Look | None] = self._looks() if self._looks is not None else [None] * len(self._horizons)
        ripe = [
            horizon.look() if settled or found is None or not found.ripe else found
            for horizon, found in zip(self._horizons, looks, strict=True)
        ]  # all of them before the first note: a look may void what is noted
        self._made += [(horizon, look, horizon.note(look)) for horizon, look in zip(self._horizons, ripe, strict=True)]

    @contextmanager
    def recording(self) -> Iterator[Callable[[], object]]:
        """Records, while the block makes copies; gives what waits for it, or raises why it did not come to it."""
        if not self._apart:
            self._record()
            yield lambda: None
            return
        with beside(self._record) as recorded:
            yield recorded

    def _record(self) -> None:
        for horizon, look, made in self._made:
            horizon.record(look, made)
