"""What a table's rows, TOAST and indexes take, and what the live rows need of it. Pure: figures in, estimates out."""

import math
from dataclasses import dataclass
from typing import Final

PAGE_BYTES: Final = 8192
WORTH_BYTES: Final = 1_000_000  # less than this back costs more than it gives
WORTH_SHARE: Final = 0.2  # nor below this share of the relation: it fills again
WORTH_INDEX_SHARE: Final = 0.35  # an index under random inserts rests at two thirds full: rebuilding it then would never end
CHUNK_BYTES_TOAST: Final = 2048  # four chunks fill a TOAST page


def worth(has_bytes: int, needs_bytes: int, share: float = WORTH_SHARE) -> int:
    """The bytes between; 0 where they are not worth a method."""
    gain = has_bytes - needs_bytes
    return gain if gain >= WORTH_BYTES and gain >= share * has_bytes else 0


@dataclass(frozen=True)
class Heap:
    """A table's rows and TOAST after a plain VACUUM (ANALYZE): what they take, and what the live ones need.

    `held_rows` are deleted and still seen by an old snapshot. `index_bytes` is what all indexes take together.
    """

    pages: int
    live_rows: int
    held_rows: int
    row_bytes: float
    toast_bytes: int = 0
    toast_chunks: int = 0
    index_bytes: int = 0
    fill_share: float = 1.0

    @property
    def lean_pages(self) -> int:
        """Pages that the live rows need, packed one after the other."""
        return self._pages_of(self.live_rows)

    def _pages_of(self, rows: int) -> int:
        a_page = max(1, int((PAGE_BYTES - 24) * self.fill_share / max(1.0, self.row_bytes)))
        return min(self.pages, math.ceil(rows / a_page))

    @property
    def dead_bytes(self) -> int:
        """What the heap holds beyond its live rows; 0 where that is too little to be worth a method."""
        return worth(self.pages * PAGE_BYTES, self.lean_pages * PAGE_BYTES)

    @property
    def dead_toast_bytes(self) -> int:
        """The same for TOAST, each chunk counted as a full one."""
        return worth(self.toast_bytes, self.toast_chunks * CHUNK_BYTES_TOAST)

    @property
    def is_held(self) -> bool:
        """Whether an old snapshot keeps so much that no method could return what is worth returning."""
        kept = self._pages_of(self.live_rows + self.held_rows)
        return bool(self.dead_bytes) and not worth(self.pages * PAGE_BYTES, kept * PAGE_BYTES)

    @property
    def rewritten_bytes(self) -> int:
        """What a rewrite needs beside the table, and leaves: at most the indexes as they are."""
        share = self.lean_pages / self.pages if self.pages else 1.0
        return int(
            self.lean_pages * PAGE_BYTES + self.toast_bytes - self.dead_toast_bytes + self.index_bytes * min(1.0, share + 0.1)
        )


@dataclass(frozen=True)
class Index:
    """An index after the table's rows have found their place. `entry_bytes` is None where no formula knows its access method.

    `repeats`: equal keys may share an entry, so that the formula only bounds it from above. `fixed` says why it cannot be
    rebuilt beside itself; None if it can.
    """

    name: str
    size_bytes: int
    entries: int
    entry_bytes: float | None
    fill_share: float
    repeats: bool
    fixed: str | None = None

    def lean_bytes(self, heap_share: float) -> int:
        """What a rebuilt one would take; `heap_share` is what this run left of the heap, for lack of a better measure."""
        by_heap = int(self.size_bytes * min(1.0, heap_share))
        if self.entry_bytes is None:
            return by_heap
        a_page = max(1, int((PAGE_BYTES - 40) * self.fill_share / self.entry_bytes))
        by_formula = int((math.ceil(self.entries / a_page) * 1.01 + 2) * PAGE_BYTES)
        return min(by_formula, by_heap) if self.repeats else by_formula

    def dead_bytes(self, heap_share: float) -> int:
        """What rebuilding it would give back; 0 where that is too little."""
        return worth(self.size_bytes, self.lean_bytes(heap_share), WORTH_INDEX_SHARE)
