"""What to do about a tier's size. Pure: figures in, decisions out."""

from dataclasses import dataclass
from enum import StrEnum

from tierkeeper.kernel.units import format_bytes

WORTH_BYTES = 1_000_000  # rewriting a table to get less than this back costs more than it gives
WORTH_SHARE = 0.2  # nor below this share of the table: it fills again
PEAK_SHARE = 2.0  # of the quota: what a rewrite may use for its moment; hosted disks hold about twice what the quota sells


class Method(StrEnum):
    """How deleted rows' space goes back. DELETE alone returns nothing."""

    VACUUM = "VACUUM"  # cuts the empty tail, makes the rest usable again
    VACUUM_FULL = "VACUUM FULL"  # rewrites the table: returns everything, needs its size once more and locks it


@dataclass(frozen=True)
class Relation:
    """A table after a plain VACUUM (ANALYZE): what it takes, and what its live rows need.

    `held_heap_bytes` is taken by deleted rows that an old snapshot still sees: a rewrite would copy them, too.
    """

    total_bytes: int
    heap_bytes: int
    live_heap_bytes: int
    held_heap_bytes: int = 0

    @property
    def dead_bytes(self) -> int:
        """What a rewrite would give back without old snapshots; 0 where that is too little to be worth one."""
        return self._worth(self.live_heap_bytes)

    @property
    def gain_bytes(self) -> int:
        """What a rewrite would give back now; 0 where that is too little to be worth one."""
        return self._worth(self.live_heap_bytes + self.held_heap_bytes)

    @property
    def rewritten_bytes(self) -> int:
        """What VACUUM FULL would leave."""
        return self._rewritten(self.live_heap_bytes + self.held_heap_bytes)

    def _rewritten(self, kept_heap_bytes: int) -> int:
        # Indexes and TOAST shrink as the heap does.
        share = min(1.0, kept_heap_bytes / self.heap_bytes) if self.heap_bytes else 1.0
        return int(self.total_bytes * share)

    def _worth(self, kept_heap_bytes: int) -> int:
        gain = self.total_bytes - self._rewritten(kept_heap_bytes)
        return gain if gain >= WORTH_BYTES and gain >= WORTH_SHARE * self.total_bytes else 0


def reclaim(relation: Relation, used_bytes: int, quota_bytes: int) -> tuple[Method, str]:
    """How to return `relation`'s dead space in a tier that uses `used_bytes` of its quota, and why so."""
    if not relation.dead_bytes:
        return Method.VACUUM, "a rewrite would give back too little"
    if not relation.gain_bytes:
        return (
            Method.VACUUM,
            f"{format_bytes(relation.dead_bytes)} of deleted rows are still seen by an old snapshot: end the transaction that"
            " holds it, and the next run gives them back",
        )
    needs, peak = relation.rewritten_bytes, used_bytes + relation.rewritten_bytes
    if peak > PEAK_SHARE * quota_bytes:
        return (
            Method.VACUUM,
            f"a rewrite needs {format_bytes(needs)} beside the {format_bytes(used_bytes)} in use: more than the disk may hold",
        )
    gain = format_bytes(relation.gain_bytes)
    return Method.VACUUM_FULL, f"a rewrite gives back about {gain}, with {format_bytes(peak)} in use at its peak"


def early_rows(used_bytes: int, quota_bytes: int, *, start_at: float, stop_at: float, table_bytes: int, table_rows: int) -> int:
    """How many of a table's oldest rows to move before their time; 0 below `start_at`.

    The tier comes down to `stop_at`; a table gives at most all its rows.
    """
    if used_bytes < start_at * quota_bytes or table_rows <= 0 or table_bytes <= 0:
        return 0
    over = used_bytes - stop_at * quota_bytes
    return min(table_rows, int(over / (table_bytes / table_rows)) + 1)
