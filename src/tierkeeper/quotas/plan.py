"""What to do about a tier's size. Pure: figures in, decisions out."""

from dataclasses import dataclass
from enum import StrEnum

WORTH_BYTES = 1_000_000  # rewriting a table to get less than this back costs more than it gives
WORTH_SHARE = 0.2  # nor below this share of the table: it fills again
PEAK_SHARE = 2.0  # of the quota: what a rewrite may use for its moment; hosted disks hold about twice what the quota sells


class Method(StrEnum):
    """How deleted rows' space goes back. DELETE alone returns nothing."""

    VACUUM = "VACUUM"  # cuts the empty tail, makes the rest usable again
    VACUUM_FULL = "VACUUM FULL"  # rewrites the table: returns everything, needs its size once more and locks it


@dataclass(frozen=True)
class Relation:
    """A table after a plain VACUUM (ANALYZE): what it takes, and what its live rows need."""

    total_bytes: int
    heap_bytes: int
    live_heap_bytes: int

    @property
    def rewritten_bytes(self) -> int:
        """What VACUUM FULL would leave: indexes and TOAST shrink as the heap does."""
        share = min(1.0, self.live_heap_bytes / self.heap_bytes) if self.heap_bytes else 1.0
        return int(self.total_bytes * share)


def reclaim(relation: Relation, used_bytes: int, quota_bytes: int) -> tuple[Method, str]:
    """How to return `relation`'s dead space in a tier that uses `used_bytes` of its quota, and why so."""
    gain = relation.total_bytes - relation.rewritten_bytes
    if gain < WORTH_BYTES or gain < WORTH_SHARE * relation.total_bytes:
        return Method.VACUUM, f"a rewrite would give back only {gain} bytes"
    peak = used_bytes + relation.rewritten_bytes
    if peak > PEAK_SHARE * quota_bytes:
        return (
            Method.VACUUM,
            f"a rewrite needs {relation.rewritten_bytes} bytes beside the {used_bytes} in use: more than the disk may hold",
        )
    return Method.VACUUM_FULL, f"a rewrite gives back about {gain} bytes, with {peak} in use at its peak"


def early_rows(used_bytes: int, quota_bytes: int, *, start_at: float, stop_at: float, table_bytes: int, table_rows: int) -> int:
    """How many of a table's oldest rows to move before their time; 0 below `start_at`.

    The tier comes down to `stop_at`; a table gives at most all its rows.
    """
    if used_bytes < start_at * quota_bytes or table_rows <= 0 or table_bytes <= 0:
        return 0
    over = used_bytes - stop_at * quota_bytes
    return min(table_rows, int(over / (table_bytes / table_rows)) + 1)
