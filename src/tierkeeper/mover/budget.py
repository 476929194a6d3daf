"""What a move writes beside the rows themselves (log, growth, scratch), and what of it fits. Pure: figures in, figures out.

The figures are estimates from what a plain role may read; `docs/internals/hosted.md` has how they are made and how near they
come. What cannot be read is assumed, on the side that writes less.
"""

import math
from dataclasses import dataclass
from typing import Literal

from tierkeeper.kernel.errors import NotNow, TierkeeperError
from tierkeeper.kernel.limits import BATCH_ROWS_MIN, DISK_SHARE
from tierkeeper.kernel.units import format_bytes

PAGE_BYTES = 8192
DELETE_RECORD_BYTES = 60  # of the log for a deleted row: header, block, place; measured 54 to 62
INSERT_RECORD_BYTES = 8  # for a row of a COPY, beside its data: they share a record for each page
INDEX_RECORD_BYTES = 88  # for an entry of an index: header, block, and a key of two dozen bytes
CHUNK_BYTES = 1996  # of a large value, each a row of the TOAST table with an entry in its index
BATCH_RECORDS_BYTES = 40_000  # for a batch's marker, ledger row and commits, with the pages that they touch first
MOVED_ROWS_PER_SECOND = 30_000  # verified, on two cores; what limits small rows
MOVED_BYTES_PER_SECOND = 12_000_000  # likewise; what limits large ones
OWN_BYTES = 1_000_000  # for our own tables where rows arrive, and the first pages of the user's
GROWTH_SHARE = 0.03125  # of the free quota: what one batch may take, so that a tier is filled to its end without passing it
LOG_SHARE = 0.5  # of the room for log: what batches in flight may take together, so that others can write, too


@dataclass(frozen=True)
class Slot:
    """A replication slot, and the position in the log that it holds everything from."""

    name: str
    active: bool
    restart_lsn: int


@dataclass(frozen=True)
class Server:
    """A tier's server at one instant. Positions in the log are bytes from its beginning.

    `disk_bytes` is what may lie on its disk altogether, None where nobody says; `archived_lsn` how far its archiver has come,
    None where there is none; `slot_cap_bytes` how much a slot may hold, None for no bound.
    """

    place: str
    used_bytes: int
    quota_bytes: int
    disk_bytes: int | None
    max_wal_bytes: int
    segment_bytes: int
    lsn: int
    redo_lsn: int
    redo_known: bool = True
    slots: tuple[Slot, ...] = ()
    slot_cap_bytes: int | None = None
    archived_lsn: int | None = None
    full_page_writes: bool = True
    hints_logged: bool = False
    logical: bool = False
    may_checkpoint: bool = False

    @property
    def wal_room_bytes(self) -> int:
        """How much log may lie there: what the server is set to, and no more than its disk holds beside the data."""
        if self.disk_bytes is None:
            return self.max_wal_bytes
        return max(min(self.max_wal_bytes, self.disk_bytes - self.used_bytes), 0)

    @property
    def pinned_bytes(self) -> int:
        """Log that no checkpoint returns: an archiver or a slot still wants it."""
        held = [min(self.lsn - s.restart_lsn, self.slot_cap_bytes or self.lsn) for s in self.slots]
        if self.archived_lsn is not None:
            held.append(self.lsn - self.archived_lsn)
        return max(held, default=0)

    @property
    def retained_bytes(self) -> int:
        """Log that has to lie there now."""
        return max(self.lsn - self.redo_lsn, self.pinned_bytes) + self.segment_bytes


@dataclass(frozen=True)
class Table:
    """A table as its source has it. `row_bytes` is an average of the rows that would move, with their large values.

    `scatter` is 0 where rows of like age lie together, 1 where they lie anywhere.
    """

    rows: int
    heap_bytes: int
    toast_bytes: int
    index_bytes: int
    indexes: int
    row_bytes: float
    key_bytes: float = 16.0
    scatter: float = 0.0
    identity: Literal["default", "full", "nothing"] = "default"

    def share(self, rows: int) -> float:
        """What part of the table `rows` are."""
        return min(1.0, rows / self.rows) if self.rows > 0 else 1.0


@dataclass(frozen=True)
class Cost:
    """Bytes that one tier writes: to its log, into its database for good, and into temporary files for a moment."""

    wal_bytes: int
    growth_bytes: int = 0
    scratch_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Both together; what is temporary is gone before the next begins."""
        scratch_bytes = max(self.scratch_bytes, other.scratch_bytes)
        return Cost(self.wal_bytes + other.wal_bytes, self.growth_bytes + other.growth_bytes, scratch_bytes)


def delete_cost(table: Table, server: Server, rows: int, *, batches: int, sorted_rows: int = 0) -> Cost:
    """What the source writes when `rows` leave it, `sorted_rows` at a time being sorted whole."""
    if not rows:
        return Cost(0)
    old_row = {"full": table.row_bytes, "default": table.key_bytes, "nothing": 0.0}[table.identity] if server.logical else 0.0
    toast = table.toast_bytes * table.share(rows)
    records = rows * (DELETE_RECORD_BYTES + old_row) + toast / CHUNK_BYTES * DELETE_RECORD_BYTES
    pages = _pages_touched(table, rows) + toast / PAGE_BYTES if server.full_page_writes else 0.0
    hints = table.index_bytes * table.share(rows) if server.full_page_writes and server.hints_logged else 0.0
    scratch = int(min(rows, sorted_rows) * table.row_bytes)
    return Cost(int(records + pages * PAGE_BYTES + hints) + batches * BATCH_RECORDS_BYTES, 0, scratch)


def copy_cost(table: Table, server: Server, rows: int, *, batches: int) -> Cost:
    """What a Postgres destination writes when `rows` arrive; its indexes are taken to be as large as the source's."""
    if not rows:
        return Cost(0)
    data = rows * table.row_bytes
    index = table.index_bytes * table.share(rows) if table.rows > 0 else rows * 40.0
    chunks = table.toast_bytes * table.share(rows) / CHUNK_BYTES
    records = rows * (INSERT_RECORD_BYTES + table.indexes * INDEX_RECORD_BYTES) + chunks * INDEX_RECORD_BYTES
    splits = 0.6 * index  # a split logs the half that moves to the new page
    images = table.scatter * index if server.full_page_writes else 0.0
    return Cost(int(data + records + splits + images) + batches * BATCH_RECORDS_BYTES, int(1.05 * data + index))


def _pages_touched(table: Table, rows: int) -> float:
    """Pages of the heap that `rows` lie on: together, anywhere, or in between."""
    pages = table.heap_bytes / PAGE_BYTES
    together = math.ceil(pages * table.share(rows))
    anywhere = min(pages, float(rows))
    return together + table.scatter * (max(anywhere, together) - together)


def seconds(rows: int, size_bytes: float, longest_reader_seconds: float) -> float:
    """About how long a move takes: the slower of rows and bytes, and once the wait for a reader that began before."""
    if not rows:
        return 0.0
    return round(max(rows / MOVED_ROWS_PER_SECOND, size_bytes / MOVED_BYTES_PER_SECOND) + min(longest_reader_seconds, 1.0), 1)


def batch_rows(wanted: int, rows: int, sides: list[tuple[Server, Cost]], *, in_flight: int) -> int:
    """How many rows a batch may have: `in_flight` of them take a part of each server's room for log, one of its free quota."""
    size = wanted
    for server, cost in sides:
        row_wal_bytes = cost.wal_bytes / max(rows, 1)
        if row_wal_bytes > 0:
            size = min(size, int(server.wal_room_bytes * LOG_SHARE / in_flight / row_wal_bytes))
        if cost.growth_bytes > 0:
            free = max(server.quota_bytes - server.used_bytes, 0)
            size = min(size, int(free * GROWTH_SHARE * rows / cost.growth_bytes))
    return min(max(size, BATCH_ROWS_MIN), wanted)


def fitting_rows(server: Server, cost: Cost, rows: int) -> int:
    """How many of `rows`, which together grow the tier by `cost`, it has room for."""
    free = server.quota_bytes - server.used_bytes - OWN_BYTES
    return rows if cost.growth_bytes == 0 or cost.growth_bytes <= free else max(int(rows * free / cost.growth_bytes), 0)


def refusal(server: Server, cost: Cost, rows: int) -> TierkeeperError | None:
    """Why `rows` must not move now, with the figures; None where what they cost `server` fits. I9."""
    fits = fitting_rows(server, cost, rows)
    if fits < rows:
        cause = (
            f"{rows:,} rows would take about {format_bytes(cost.growth_bytes)} there, and"
            f" {format_bytes(max(server.quota_bytes - server.used_bytes - OWN_BYTES, 0))} of its quota of"
            f" {format_bytes(server.quota_bytes)} are free"
        )
        fewer = f", or move no more than --limit {fits}" if fits >= BATCH_ROWS_MIN else ""
        return NotNow(server.place, cause, f"Give it more room and raise its quota{fewer}")
    held = _holder(server)
    room, pinned = server.wal_room_bytes, server.pinned_bytes
    if held is not None and pinned + cost.wal_bytes > room:
        cause = (
            f"{held[0]} holds back {format_bytes(pinned)} of its log, the move would add about {format_bytes(cost.wal_bytes)},"
            f" and {format_bytes(room)} may lie there"
        )
        return NotNow(server.place, cause, held[1])
    least = cost.wal_bytes * min(1.0, BATCH_ROWS_MIN / max(rows, 1)) + 2 * server.segment_bytes
    if least > room:
        cause = (
            f"a batch of {BATCH_ROWS_MIN} rows would write about {format_bytes(int(least))} of log, and {format_bytes(room)} may"
            " lie there"
        )
        return NotNow(server.place, cause, "Make room on its disk, or raise max_wal_size, then run again")
    # What is sorted nowhere waits for a checkpoint, with the log of the first batch.
    beside = server.used_bytes + server.retained_bytes
    if cost.scratch_bytes and server.disk_bytes is not None and beside + cost.scratch_bytes > server.disk_bytes:
        cause = (
            f"sorting the rows takes {format_bytes(cost.scratch_bytes)} of temporary files, beside"
            f" {format_bytes(server.used_bytes)} of data and {format_bytes(server.retained_bytes)} of log on a disk of"
            f" {format_bytes(server.disk_bytes)}"
        )
        return NotNow(server.place, cause, "Move fewer rows at a time with --limit")
    return None


def _holder(server: Server) -> tuple[str, str] | None:
    """Who holds back the most of the log, and what to do about it."""
    slot = min(server.slots, key=lambda s: s.restart_lsn, default=None)
    if server.archived_lsn is not None and (slot is None or server.archived_lsn < slot.restart_lsn):
        return "the archiver (archive_command)", "See in the server's log why it fails, then run again"
    if slot is None:
        return None
    if slot.active:
        return f"the replication slot {slot.name}", "Wait until its reader has caught up, then run again"
    return (
        f"the replication slot {slot.name}, which nobody reads,",
        f"Start its reader, or there: SELECT pg_drop_replication_slot('{slot.name}')",
    )


def pause(server: Server, reserve: Cost) -> str | None:
    """Why the next batch must wait at `server`: None where what is in flight with it (`reserve`) fits now."""
    if full(server, reserve):
        return (
            f"{server.place} is nearly full ({format_bytes(server.used_bytes)} of {format_bytes(server.quota_bytes)}): it has no"
            " room for another batch"
        )
    if server.retained_bytes + reserve.wal_bytes <= server.wal_room_bytes:
        return None
    held = _holder(server)
    pinned = held is not None and server.pinned_bytes >= server.lsn - server.redo_lsn
    why = f"{held[0]} to let go of it" if held is not None and pinned else "its next checkpoint"
    return (
        f"{server.place} has {format_bytes(server.retained_bytes)} of log, of {format_bytes(server.wal_room_bytes)} that may lie"
        f" there: waiting for {why}"
    )


def full(server: Server, reserve: Cost) -> bool:
    """Whether the tier has no room for what is in flight. Waiting gives none. Of a tier that only gives nothing grows."""
    return reserve.growth_bytes > 0 and server.used_bytes + reserve.growth_bytes > server.quota_bytes


def batches_allowed(server: Server, batch: Cost, reserve: Cost) -> int:
    """How many batches may begin before the next look: half of what fits, for others write, too."""
    left = server.wal_room_bytes - server.retained_bytes - reserve.wal_bytes
    allowed = left // (2 * max(batch.wal_bytes, 1))
    if batch.growth_bytes:
        allowed = min(allowed, (server.quota_bytes - server.used_bytes - reserve.growth_bytes) // (2 * batch.growth_bytes))
    return max(allowed, 0)


def part(cost: Cost, share: float, in_flight: int = 1, at_once: int = 1) -> Cost:
    """What batches cost, each `share` of a move: the growth of those that are copied `at_once`, and the log of all that are in
    flight, whose deletes are still to come."""
    wal_bytes, growth_bytes = cost.wal_bytes * min(share * in_flight, 1.0), cost.growth_bytes * min(share * at_once, 1.0)
    return Cost(math.ceil(wal_bytes), math.ceil(growth_bytes))


def archived_lsn(segment: str | None, segment_bytes: int, lsn: int) -> int:
    """The position up to which the log is archived, from the name of the last segment; none yet: assumed to be up to date."""
    if segment is None or len(segment) < 24 or not all(c in "0123456789ABCDEF" for c in segment[:24]):  # noqa: PLR2004
        return lsn
    number = int(segment[8:16], 16) * (2**32 // segment_bytes) + int(segment[16:24], 16)
    return min((number + 1) * segment_bytes, lsn)


def disk_bytes(quota_bytes: int, used_bytes: int, *, sold_bytes: int | None, counts_server: bool) -> int | None:
    """What a hosted tier's disk holds: not documented, so a multiple of what is sold. A server of one's own: nobody says.

    Where more lies there already the user's quota is less than what the provider has sold (`sold_bytes`), which counts then, and
    where that is wrong too nobody says.
    """
    holds = (int(DISK_SHARE * quota) for quota in (quota_bytes, sold_bytes or 0))
    return next((disk for disk in holds if disk > used_bytes), None) if counts_server else None
