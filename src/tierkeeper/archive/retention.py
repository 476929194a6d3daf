"""Takes segments out of the archive when the time that the policy gives their rows is over. Nothing else ever removes one."""

from datetime import datetime

from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.model import Removal, Segment
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.objectstore.port import Store, put_object


class Retention:
    """I1: a segment goes only when its *youngest* row is older than the policy says, by the catalog server's clock, when nothing
    about it is in flight, and when no lock holds it.

    A signed removal is put into the store first, so that a rebuild never brings it back and never takes it for lost. Then the
    catalog says so, in one statement, which is when readers stop counting it; its key and its file outlive the longest reader.
    Its manifest stays: the chain is whole. Killed at any step, the next run goes on.
    """

    def __init__(self, store: Store, catalog: Catalog, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock

    def cutoff(self, age: Age) -> datetime:
        """What is older than this, now, may go."""
        return age.before(self._clock.now(self._catalog.now))

    def due(self, table: TableName, cutoff: datetime) -> tuple[list[Segment], list[str]]:
        """The table's segments that are wholly older than `cutoff`; those that a lock holds are told apart, in words."""
        free, held = [], []
        for segment in self._catalog.older_than(table, cutoff):
            until = self._locked_until(segment)
            if until is None or until <= self._clock.now():
                free.append(segment)
            else:
                held.append(f"segment {segment.id} is over its time, and locked until {until:%Y-%m-%d %H:%M} UTC")
        return free, held

    def remove(self, segment: Segment, reason: str, ring: KeyRing) -> bool:
        """Removes one; whether it still counted."""
        removal = Removal(segment=segment.id, manifest=segment.manifest, reason=reason, removed_at=self._clock.now())
        key = put_object(self._store, "commit", ring.seal("commit", removal.body()))
        reach(Point.REMOVAL_PUT)
        removed = self._catalog.removed(segment.id, key)
        reach(Point.SEGMENT_REMOVED)
        return removed

    def _locked_until(self, segment: Segment) -> datetime | None:
        info = self._store.head(segment.object_key)
        return None if info is None else info.locked_until
