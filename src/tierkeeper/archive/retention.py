"""Takes segments out of the archive when the time that the policy gives their rows is over. Nothing else ever removes one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.model import Segment
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.objectstore.port import Store


@dataclass(frozen=True)
class Due:
    """The segments of a table that may go, what keeps others, in words, and up to when they were asked for."""

    segments: list[Segment]
    held: list[str]
    cutoff: datetime


Clocks = Callable[[], tuple[Sequence[datetime], Sequence[str]]]
"""The time by the clocks of other servers, and the names of those that cannot be asked."""


class Retention:
    """Says which may go; `Replacer.remove` takes them out.

    I1: a segment goes only when its *youngest* row is older than the policy says, by every server's clock, when nothing
    about it is in flight, and when no lock holds it. It goes for good: one clock that is ahead must not decide it. A
    server that is away agrees to nothing, for the others may be one machine.

    The catalog says so first, in one statement, which is when readers stop counting it. Then a signed removal is put into the
    store, so that a rebuild neither brings it back nor takes it for lost; from there on its key and its file outlive the longest
    reader. A catalog that is lost in between is made again with the segment (I8): what counts in it is never taken for removed.
    Its manifest stays: the chain is whole. Killed at any step, the next run goes on.
    """

    def __init__(self, store: Store, catalog: Catalog, clock: Clock, others: Clocks) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._others = others

    def due(self, table: TableName, age: Age) -> Due:
        """The table's segments that are older than `age`."""
        cutoff = age.before(self._clock.now(self._catalog.now))
        due, held = self._free(table, cutoff)
        if not due:
            return Due(due, held, cutoff)
        others, away = self._others()
        if away:
            held.append(
                f"{len(due)} segments are older than {age.text}, and stay: {' and '.join(away)} cannot be asked what time it is"
            )
            return Due([], held, cutoff)
        earliest = min(self._clock.now(), *others)
        agreed = min(cutoff, age.before(earliest))
        if agreed == cutoff:
            return Due(due, held, cutoff)
        left, held = self._free(table, agreed)
        if len(left) < len(due):
            held.append(
                f"{len(due) - len(left)} segments are older than {age.text} by the clock of the catalog's server alone, and"
                f" stay: by another it is {earliest:%Y-%m-%d %H:%M} UTC; set the one that is wrong"
            )
        return Due(left, held, agreed)

    def _free(self, table: TableName, cutoff: datetime) -> tuple[list[Segment], list[str]]:
        """The table's segments that are wholly older than `cutoff`; those that a lock holds are told apart, in words."""
        free, held = [], []
        for segment in self._catalog.older_than(table, cutoff):
            until = self._locked_until(segment)
            if until is None or until <= self._clock.now():
                free.append(segment)
            else:
                held.append(f"segment {segment.id} is over its time, and locked until {until:%Y-%m-%d %H:%M} UTC")
        return free, held

    def _locked_until(self, segment: Segment) -> datetime | None:
        info = self._store.head(segment.object_key)
        return None if info is None else info.locked_until
