"""What to do about a tier's size. Pure: figures in, decisions out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import format_bytes
from tierkeeper.tiers.space import PAGE_BYTES, Heap, Index

SHOWN: Final = 5  # names in a note; more make it no clearer
PEAK_SHARE: Final = (
    2.0  # of the quota: what a rewrite that is allowed may use; hosted disks hold about twice what the quota sells
)
CUT_PAGES: Final = 1000  # VACUUM cuts a tail of so many pages, or of a sixteenth of the table, and leaves a shorter one
CUT_SHARE: Final = 1 / 16
ROUND_SHARE: Final = 1 / 8  # of the table, emptied between two VACUUMs: what fails shows early, and few scans are needed
PACKING: Final = 1.04  # the free space map finds no place for the last few rows: pages are never packed quite full
REWRITE_BYTES_PER_SECOND: Final = 20_000_000  # a modest hosted disk: how long a rewrite's lock lasts is told, not promised
ROOMY_SHARE: Final = 0.8  # of the quota: how full a tier is after what is proposed for one that is full
HEAP_ROW_BYTES: Final = 36  # a row's header (24), its pointer (4), and what alignment costs
INDEX_ROW_BYTES: Final = 20  # an index entry's header (8), its pointer (4), and what alignment costs
INDEX_FILL: Final = 0.7  # how full pages of a B-tree are whose keys do not come in order


class Method(StrEnum):
    """How deleted rows' space goes back. DELETE alone returns nothing. A further method is one more branch of `for_table`."""

    VACUUM = "VACUUM"  # cuts the empty tail, makes the rest usable again
    COMPACTION = "tail compaction"  # moves the last pages' rows forward, so that VACUUM finds an empty tail
    REINDEX = "REINDEX CONCURRENTLY"  # builds an index anew beside itself
    DROP = "partition drop"  # of an old and empty one, where the user asked for it
    REWRITE = "VACUUM FULL"  # rewrites the table: returns everything, needs its size once more and locks it


@dataclass(frozen=True)
class Room:
    """A tier's room. Scratch space may fill the quota, or go beyond it where the user allowed a rewrite."""

    used_bytes: int
    quota_bytes: int
    may_rewrite: bool = False

    @property
    def limit_bytes(self) -> int:
        """What may be in use at a method's peak."""
        return int(self.quota_bytes * (PEAK_SHARE if self.may_rewrite else 1))

    def holds(self, scratch_bytes: int) -> bool:
        """Whether a method may use `scratch_bytes` for its moment (I9)."""
        return self.used_bytes + scratch_bytes <= self.limit_bytes


@dataclass(frozen=True)
class OldPartition:
    """A partition `name` of `table`, itself one perhaps, that takes no row as young as a cutoff, with all below it.

    `heap_bytes` are of its rows, dead ones too: 0 once VACUUM has found that no snapshot sees any of them. `barred` says why it
    must stay whatever it holds. `beside_default`: a DEFAULT partition would take late rows of its range.
    """

    oid: int
    table: TableName
    name: TableName
    bound: str
    beside_default: bool
    heap_bytes: int
    total_bytes: int
    barred: str | None


@dataclass(frozen=True)
class Choice:
    """A method for one relation, and why. `gain_bytes` is expected back; `stays_bytes` is dead and will not come by it."""

    method: Method
    why: str
    gain_bytes: int = 0
    stays_bytes: int = 0


HAS_ROWS: Final = "rows of it have not left"


def partition_stays(old: OldPartition, *, is_empty: bool, fed: bool, seen: bool = True) -> str | None:
    """Why an old partition may not be dropped; None if it may.

    `fed`: the mover itself puts rows into its table, late ones too. `seen`: VACUUM has had its turn, so that what is left of the
    heap is what an old snapshot, or a transaction that was rolled back since, left there.
    """
    if old.barred is not None:
        return old.barred
    if fed and not old.beside_default:
        return (
            f"a late row of its range would find no place there: CREATE TABLE … PARTITION OF {old.table} DEFAULT takes such rows"
        )
    if not is_empty:
        return HAS_ROWS
    if seen and old.heap_bytes:
        return "an old snapshot still sees rows that it had, or a lock kept VACUUM from cutting them: a later run drops it"
    return None


def old_partitions(policy: TablePolicy, found: Sequence[OldPartition], *, fed: bool) -> str | None:
    """What to tell about a table's old partitions before anything is done; None where there is nothing to tell."""
    seen = not policy.drop_partitions
    told = [p for p in found if partition_stays(p, is_empty=True, fed=fed, seen=seen) is None]
    if not told:
        return None
    names = ", ".join(str(p.name) for p in told[:SHOWN]) + (f" and {len(told) - SHOWN} more" if len(told) > SHOWN else "")
    if policy.drop_partitions:
        return f"partitions of {policy.name} that are older than its policy keeps rows are dropped once they are empty: {names}"
    return f"partitions of {policy.name} are old and empty, and stay: {names}; drop_partitions = true lets quota drop such ones"


def for_table(heap: Heap, room: Room, *, barred: str | None, untouchable: str | None) -> Choice:
    """How a table's heap and TOAST give back their dead space.

    `barred` says why nothing that writes may run (a lock, a slot that keeps all WAL); `untouchable` why its rows may not be
    moved by an UPDATE. A rewrite locks the table, so that it is the last resort and the user's choice.
    """
    dead, dead_toast = heap.dead_bytes, heap.dead_toast_bytes
    if not dead and not dead_toast:
        return Choice(Method.VACUUM, "nothing more is worth getting")
    if heap.is_held:
        why = (
            f"{format_bytes(dead)} of deleted rows are still seen by an old snapshot: end the transaction that"
            " holds it, and the next run gives them back"
        )
        return Choice(Method.VACUUM, why, stays_bytes=dead + dead_toast)
    if barred is not None:
        return Choice(Method.VACUUM, barred, stays_bytes=dead + dead_toast)
    if dead and untouchable is None and not (dead_toast and room.may_rewrite and room.holds(heap.rewritten_bytes)):
        stays = f"; {format_bytes(dead_toast)} of its TOAST need a rewrite: {_rewrite(heap, room)}" if dead_toast else ""
        return Choice(Method.COMPACTION, f"its last pages' rows have room in front{stays}", dead, dead_toast)
    cause = untouchable if dead and untouchable is not None else "TOAST can only be rewritten"
    why = f"{cause}; {_rewrite(heap, room)}"
    if room.may_rewrite and room.holds(heap.rewritten_bytes):
        return Choice(Method.REWRITE, why, gain_bytes=dead + dead_toast)
    return Choice(Method.VACUUM, why, stays_bytes=dead + dead_toast)


def _rewrite(heap: Heap, room: Room) -> str:
    """What VACUUM FULL would give and take, and what stands against it."""
    peak = room.used_bytes + heap.rewritten_bytes
    seconds = math.ceil((heap.pages * PAGE_BYTES + heap.toast_bytes + heap.index_bytes) / REWRITE_BYTES_PER_SECOND)
    figures = (
        f"VACUUM FULL gives back about {format_bytes(heap.dead_bytes + heap.dead_toast_bytes)}, with {format_bytes(peak)} in use"
        f" at its peak and the table locked against readers and writers for about {seconds} s"
    )
    if not Room(room.used_bytes, room.quota_bytes, may_rewrite=True).holds(heap.rewritten_bytes):
        return f"{figures}: more than the disk may hold"
    return figures if room.may_rewrite else f"{figures}: allow it with --allow-rewrite or [quotas] allow_rewrite"


def for_index(index: Index, room: Room, heap_share: float, *, barred: str | None) -> Choice | None:
    """How an index gives back its dead space; None where it has too little."""
    dead = index.dead_bytes(heap_share)
    if not dead:
        return None
    refused = barred or index.fixed
    if refused is None and not room.holds(index.size_bytes):
        peak = format_bytes(room.used_bytes + index.size_bytes)
        refused = (
            f"to build it anew beside itself may take {peak} at its peak, of {format_bytes(room.limit_bytes)} that may be used:"
            " make room first, or allow a higher peak with --allow-rewrite"
        )
    if refused is not None:
        return Choice(Method.VACUUM, refused, stays_bytes=dead)
    return Choice(Method.REINDEX, "more than a third of it is empty", gain_bytes=dead)


def next_round(pages: int, target_pages: int) -> int | None:
    """Down to which page the next round of a compaction empties the tail; None where VACUUM would not cut so short a one."""
    least = min(CUT_PAGES, int(pages * CUT_SHARE) + 1)
    floor = max(target_pages, pages - max(least, int(pages * ROUND_SHARE)))
    return floor if pages - floor >= least else None


def compacted_pages(heap: Heap) -> int:
    """The length that a compaction aims at."""
    return math.ceil(heap.lean_pages * PACKING)


def arriving_bytes(rows: int, column_bytes: Mapping[str, int], indexes: Sequence[Sequence[str]]) -> int:
    """What `rows` will take in a table, `indexes` (the columns of each) included; `column_bytes` is each column's sum."""
    heap = rows * HEAP_ROW_BYTES + sum(column_bytes.values())
    keys = sum(rows * INDEX_ROW_BYTES + sum(column_bytes.get(c, 0) for c in columns) for columns in indexes)
    return int(heap + keys / INDEX_FILL)


def rows_that_fit(used_bytes: int, quota_bytes: int, start_at: float, rows: int, arriving: int) -> int:
    """How many of `rows`, which take `arriving` bytes together, leave a tier below `start_at` of its quota."""
    room = start_at * quota_bytes - used_bytes
    if arriving < room:
        return rows
    return max(int(room / (arriving / rows)) - 1, 0) if rows else 0
