"""Whether Core has room for rows that are to come back to it, and the store for a segment. It measures; `plan` decides."""

from collections.abc import Callable, Sequence
from contextlib import closing

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.limits import NO_ROOM
from tierkeeper.kernel.ports import Arrivals
from tierkeeper.kernel.units import format_bytes
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import translated
from tierkeeper.postgres.statements import load
from tierkeeper.quotas import coldest, plan
from tierkeeper.quotas.coldest import Kept
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import measure

_SQL = load("tierkeeper.quotas", "space.sql")


class Room:
    """Implements `kernel.ports.Room`. I9: weighs rows before the first of them is written, and changes nothing."""

    def __init__(self, core: Tier, start_at: float) -> None:
        """`start_at` is the share of the quota from which on rows leave Core before their time."""
        self._core = core
        self._start_at = start_at

    def __call__(self, arrivals: Sequence[Arrivals]) -> str:
        place, quota = f"tiers.{self._core.name}", self._core.quota_bytes
        with translated(place), closing(self._core.link.connect("usage")) as conn:
            used = measure(conn, self._core.profile).used_bytes
            coming = 0
            with catalog(conn) as cur:
                for one in arrivals:
                    name = {"schema": one.table.schema, "table": one.table.name}
                    indexes = [r[0] for r in cur.execute(_SQL["index_columns"], name)]
                    coming += plan.arriving_bytes(one.rows, one.column_bytes, indexes)
        rows = sum(one.rows for one in arrivals)
        fit = plan.rows_that_fit(used, quota, self._start_at, rows, coming)
        what = f"{rows:,} rows bring about {format_bytes(coming)} to {self._core.name}"
        if fit < rows:
            remedy = "Make room first (tierkeeper quota), or raise its quota"
            if fit:
                remedy = f"Bring fewer (about {fit:,} fit: --limit {fit}, or a narrower --where), or raise its quota"
            limit = f"{self._start_at:.0%} of its quota of {format_bytes(quota)} (quotas.start_at)"
            raise Failed(place, f"it uses {format_bytes(used)}, and {what}: more than {limit}", remedy)
        return f"{what}, which then uses {(used + coming) / quota:.0%} of its quota"


class StoreRoom:
    """The archive's quota. Nothing in it is deleted to make room: whoever has none is told what would give some.

    I9: a segment is weighed before the first byte of it is put.
    """

    def __init__(self, quota_bytes: int, used: Callable[[], int], kept: Callable[[], Sequence[Kept]], clock: Clock) -> None:
        """`used` measures the store, `kept` lists the segments whose removal could be proposed."""
        self.used = used
        self._quota_bytes = quota_bytes
        self._kept = kept
        self._clock = clock
        self._known_bytes: int | None = None

    def weigh(self, segment_bytes: int) -> None:
        """Counts a segment that is about to be put. Raises Failed where there is no room for it.

        The store is measured once: listing a large one takes longer than writing a segment.
        """
        known = self.used() if self._known_bytes is None else self._known_bytes
        full = self.full(known, segment_bytes)
        if full is not None:
            raise full
        self._known_bytes = known + segment_bytes

    def full(self, used_bytes: int, segment_bytes: int = 1) -> Failed | None:
        """What to say where a store with `used_bytes` has no room for so many more; None where it has."""
        if used_bytes + segment_bytes <= self._quota_bytes:
            return None
        cause = f"it uses {format_bytes(used_bytes)} of its quota of {format_bytes(self._quota_bytes)}"
        if segment_bytes > 1:
            cause += f", and the next segment takes {format_bytes(segment_bytes)}"
        over = max(segment_bytes, used_bytes + segment_bytes - int(plan.ROOMY_SHARE * self._quota_bytes))
        wanted = format_bytes(int((used_bytes + segment_bytes) / plan.ROOMY_SHARE))
        remedy = f"Give it more room and raise its quota (to {wanted}, say); nothing in it is deleted to make room"
        proposals = coldest.retention(self._kept(), self._clock.now(), over)
        if proposals:
            remedy += f". If the oldest may be forgotten: {'; '.join(proposals)}"
        return Failed("tiers.archive", f"{cause}, {NO_ROOM}", remedy)
