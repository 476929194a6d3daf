"""Measures what `budget` decides by, and holds a run back where a server's log or a tier's quota has no room for a batch.

It only reads, but for a CHECKPOINT where the role may ask for one.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import PACE_LOOK_SECONDS, PACE_SECONDS, SAMPLE_PAGES, SAMPLE_ROWS
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import budget, model
from tierkeeper.mover.budget import Cost, Server, Slot, Table
from tierkeeper.mover.model import Piece, Selection
from tierkeeper.mover.worker import Pace
from tierkeeper.postgres.keeping import asked_once, named, of_each
from tierkeeper.postgres.link import Connection, transaction, translated
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import usage
from tierkeeper.tiers.tier import Tier

_SQL = load("tierkeeper.mover", "budget.sql")
_IDENTITIES = {"f": "full", "n": "nothing"}


@asked_once
def server(conn: Connection, tier: Tier, assumed_redo: int | None = None) -> Server:
    """The server of `tier` now, as a plain role may see it.

    Where it may not read the last checkpoint's position this is `assumed_redo`: else half of the log is taken to be in use.
    """
    with transaction(conn, read_only=True) as cur:
        [(used_bytes, *_)], [row], found = cur.all_of([usage.asked(tier.profile), (_SQL["server"], None), (_SQL["slots"], None)])
        lsn, max_wal, segment, images, hints, logical, cap, archives, archived, control, checkpoint = row
        slots = [Slot(str(n), bool(a), int(at)) for n, a, at in found]
        redo = cur.last(_SQL["redo"]).fetchone() if control else None
    if assumed_redo is None:
        assumed_redo = max(int(lsn) - int(max_wal) // 2, 0)
    return Server(
        place=f"tiers.{tier.name}",
        used_bytes=used_bytes,
        quota_bytes=tier.quota_bytes,
        disk_bytes=budget.disk_bytes(
            tier.quota_bytes, used_bytes, sold_bytes=tier.profile.quota_bytes, counts_server=tier.profile.counts == "server"
        ),
        max_wal_bytes=int(max_wal),
        segment_bytes=int(segment),
        lsn=int(lsn),
        redo_lsn=int(redo[0]) if redo else assumed_redo,
        redo_known=redo is not None,
        slots=tuple(slots),
        slot_cap_bytes=None if cap is None else int(cap),
        archived_lsn=budget.archived_lsn(archived, int(segment), int(lsn)) if archives else None,
        full_page_writes=images,
        hints_logged=hints,
        logical=logical,
        may_checkpoint=checkpoint,
    )


def table(selection: Selection, rows: int, kept: "Kept | None", sampled: "Sizes") -> Table:
    """The table of `selection`, `rows` of which would move; their sizes are those of a sample, else an average of the whole."""
    heap, toast, index, indexes, estimate, identity, correlations = kept or (0, 0, 0, 1, 0, "d", [None])
    correlation = sum((of_heap or {}).get(selection.age, 1.0) for of_heap in correlations) / len(correlations)
    row_bytes, key_bytes = sampled
    total = max(int(estimate), rows)
    return Table(
        rows=total,
        heap_bytes=int(heap),
        toast_bytes=int(toast),
        index_bytes=int(index),
        indexes=int(indexes),
        row_bytes=row_bytes or (heap + toast) / max(total, 1),
        key_bytes=key_bytes or 16.0,
        scatter=1.0 - float(correlation) ** 2,
        identity=_IDENTITIES.get(str(identity), "default"),  # type: ignore[arg-type]
    )


Sizes = tuple[float | None, float | None]
"""What a row takes on average as it is stored, and its key; None for both where none was met."""


def sample(conn: Connection, selection: Selection, kept: "Kept | None") -> Sizes:
    """The sizes of some rows of the selection."""
    heap_bytes = kept[0] if kept else 0
    shape, percent = selection.shape, min(100.0, 100.0 * SAMPLE_PAGES * budget.PAGE_BYTES / max(heap_bytes, 1))
    query = _SQL["sample"].format(
        columns=model.stored_bytes([c.name for c in shape.columns]),
        key=model.stored_bytes(shape.key),
        table=model.rows_of(shape),
        sample=sql.SQL("TABLESAMPLE SYSTEM ({})").format(percent),
        eligible=selection.eligible(None),
        limit=sql.Literal(SAMPLE_ROWS),
    )
    with transaction(conn, read_only=True) as cur:
        row_bytes, key_bytes = cur.last(query).fetchone() or (None, None)
    return row_bytes, key_bytes


Kept = tuple[Any, ...]
"""What a server keeps for a table, as `table` of budget.sql has it."""


@of_each
def kept_of(conn: Connection, names: Sequence[TableName]) -> dict[TableName, Kept]:
    """Of a table at once what its server keeps for it."""
    with transaction(conn, read_only=True) as cur:
        return {TableName(schema, name): tuple(kept) for schema, name, *kept in cur.last(_SQL["table"], named(names))}


@dataclass(frozen=True)
class Weighed:
    """A move before its first write: what it would cost each tier, and in batches of which size. `servers` has the source first.

    `limit` is how many rows may move: as many as were asked for, or as there is room for. `rows` are of `table`; what rows of
    other tables that go along cost is in `costs`, and what they have in `along_bytes`. `pieces` are where the rows lie, if
    that was asked and all of them may move.
    """

    rows: int
    batch_rows: int
    table: Table
    servers: tuple[Server, ...]
    costs: tuple[Cost, ...]
    limit: int | None = None
    along_bytes: int = 0
    pieces: Sequence[Piece] | None = None

    @property
    def batches(self) -> int:
        rows = self.rows if self.limit is None else min(self.rows, self.limit)
        return -(-rows // self.batch_rows)

    @property
    def bytes(self) -> int:
        """What the rows have, those of other tables that go along included."""
        return int(self.rows * self.table.row_bytes) + self.along_bytes

    @property
    def refusal(self) -> TierkeeperError | None:
        """Why it must not begin."""
        pairs = zip(self.servers, self.costs, strict=True)
        return next((e for s, c in pairs if (e := budget.refusal(s, c, self.rows)) is not None), None)

    @property
    def fitting_rows(self) -> int:
        """How many of its rows every tier has room for."""
        return min(budget.fitting_rows(s, c, self.rows) for s, c in zip(self.servers, self.costs, strict=True))


LookedAt = tuple[tuple[Server, ...], Kept | None]


def look_at(tiers: Sequence[tuple[Tier, Connection]], kept: Callable[[], Kept | None]) -> LookedAt:
    """The servers of a move as they are now, and what the source keeps (`kept_of`) for the table that rows leave."""
    return tuple(server(conn, tier) for tier, conn in tiers), kept()


@dataclass
class Side:
    """One tier of a run: what a batch costs it, and all that may be in flight at once with the next one (`reserve`)."""

    tier: Tier
    conn: Connection
    batch: Cost
    reserve: Cost
    sharers: int = 1  # processes that take batches, each of which sees what is left as if it were alone
    allowed: int = field(default=0, init=False)
    assumed_redo: int | None = field(default=None, init=False)

    def allow(self, now: Server) -> str | None:
        """As many batches as `now` has room for; else why there is none."""
        self.assumed_redo = now.redo_lsn
        reason = budget.pause(now, self.reserve)
        self.allowed = 0 if reason else budget.batches_allowed(now, self.batch, self.reserve) // self.sharers
        return reason


Budget = tuple[Cost, Cost]
"""What a batch costs a tier, and all that is in flight at once."""


def budgets(weighed: Weighed, pace: Pace, sharers: int = 1) -> tuple[Budget, ...]:
    """Of each tier of a move, the source first, where so many processes work at it. Pure."""
    share = weighed.batch_rows / max(weighed.rows, weighed.batch_rows)
    in_flight, at_once = pace.in_flight * sharers, pace.workers * sharers
    return tuple((budget.part(cost, share), budget.part(cost, share, in_flight, at_once)) for cost in weighed.costs)


class Pacer:
    """Implements `kernel.ports.Throttle`. Keeps I9: a batch begins only where the log and growth of all that is in flight fit.

    It looks again when half of what fitted is used up, and waits no longer than PACE_SECONDS: then the run ends, and a later
    one goes on. Safe to call from several threads.
    """

    def __init__(self, sides: Sequence[Side], *, clock: Clock, stop: Stop) -> None:
        """`sides` have connections of their own."""
        self._sides = sides
        self._clock = clock
        self._stop = stop
        self._lock = threading.Lock()

    @classmethod
    def of(cls, tiers: Sequence[tuple[Tier, Connection]], weighed: Weighed, pace: Pace, *, clock: Clock, stop: Stop) -> "Pacer":
        """Of `tiers` as they were weighed, with connections of its own."""
        sides = [Side(tier, conn, *one) for (tier, conn), one in zip(tiers, budgets(weighed, pace), strict=True)]
        # The source was looked at when the rows were weighed, and hardly anything has been written there since.
        sides[0].allow(weighed.servers[0])
        return cls(sides, clock=clock, stop=stop)

    def __call__(self) -> str | None:
        with self._lock:
            return next((reason for side in self._sides if (reason := self._wait(side)) is not None), None)

    def _wait(self, side: Side) -> str | None:
        if side.allowed > 0:
            side.allowed -= 1
            return None
        until, asked = self._clock.monotonic() + PACE_SECONDS, False
        while True:
            with translated(f"tiers.{side.tier.name}"):
                now = server(side.conn, side.tier, side.assumed_redo)
                reason = side.allow(now)
                if reason is None:
                    return None
                if now.may_checkpoint and not asked:
                    side.conn.execute("CHECKPOINT")
                    asked = True
                    continue
            if budget.full(now, side.reserve) or not now.redo_known or self._clock.monotonic() > until:
                return reason
            if (told := self._stop()) is not None:
                return told
            self._clock.sleep(PACE_LOOK_SECONDS)
