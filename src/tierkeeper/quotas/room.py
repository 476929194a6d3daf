"""Whether Core has room for rows that are to come back to it. It measures; `plan` decides."""

from collections.abc import Sequence
from contextlib import closing

from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.ports import Arrivals
from tierkeeper.kernel.units import format_bytes
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import translated
from tierkeeper.postgres.statements import load
from tierkeeper.quotas import plan
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
