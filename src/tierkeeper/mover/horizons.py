"""A run's horizons: looked for and recorded beside what does not wait for them, since on a slow link each costs round trips."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

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
        self._horizons = [Horizon(core, main, shape) for shape in shapes]
        self._apart = apart and bool(shapes)
        self._looks: Callable[[], list[Look]] | None = None
        self._made: list[tuple[Horizon, Look, UUID | None]] = []

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Looks while the block settles what earlier runs left."""
        if not self._apart:
            yield
            return
        with beside(lambda: [horizon.look(voids=False) for horizon in self._horizons]) as self._looks:
            yield

    def say(self, core: Connection) -> None:
        """For rows that an earlier run copied and that leave now: it may have been killed before it had recorded anything."""
        for horizon in self._horizons:
            horizon.say(core)

    def note(self, *, settled: bool) -> None:
        """Notes what was found; where something was `settled` meanwhile, or was not ripe, it is looked for once more."""
        looks: Sequence[Look | None] = self._looks() if self._looks is not None else [None] * len(self._horizons)
        for horizon, found in zip(self._horizons, looks, strict=True):
            look = horizon.look() if settled or found is None or not found.ripe else found
            self._made.append((horizon, look, horizon.note(look)))

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
