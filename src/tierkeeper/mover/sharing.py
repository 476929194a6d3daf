"""A large pass, shared with other processes: what they are told of it, and how whoever leads the run waits for them.

The leader has the lease, settles what earlier runs left, and looks for conflicts; the others only take ranges. Nothing rests on
who holds what: each batch has its ledger row and its marker, as beside a neighbour's thread (I1 to I5).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from tierkeeper.kernel.errors import PassedOver
from tierkeeper.kernel.limits import PART_BATCHES, PART_LOOK_SECONDS, SHARED_BATCHES_MIN
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import PART_VERSION, Sharing
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.budget import Cost
from tierkeeper.mover.lease import Lease, holder_of
from tierkeeper.mover.model import Piece
from tierkeeper.mover.pacing import Budget, Weighed, budgets
from tierkeeper.mover.request import Request
from tierkeeper.mover.worker import Pace, Run
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "sharing.sql")


@dataclass(frozen=True)
class Part:
    """Some ranges of a run's table, for one process. It counts as long as `holder` has the lease `lease`.

    `age` and `origin` (who the source is) are what whoever takes it must find as well.

    `budgets` say for the source and the destination what a batch costs, and what all that is in flight does, whoever copies it;
    `sharers` processes take batches at once.
    """

    table: TableName
    source: Tier
    destination: Tier
    age: str
    cutoff: datetime
    origin: UUID | None
    lease: str
    holder: str
    batch_rows: int
    sharers: int
    budgets: tuple[Budget, ...]
    ranges: tuple[Piece, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "version": PART_VERSION,
            "table": [self.table.schema, self.table.name],
            "hop": [self.source, self.destination],
            "age": self.age,
            "cutoff": self.cutoff.isoformat(),
            "origin": self.origin and str(self.origin),
            "lease": self.lease,
            "holder": self.holder,
            "batch_rows": self.batch_rows,
            "sharers": self.sharers,
            "budgets": [[[c.wal_bytes, c.growth_bytes, c.scratch_bytes] for c in pair] for pair in self.budgets],
            "ranges": [
                [p.first, p.upto, p.rows, p.bytes, p.widest, p.part and [p.part.schema, p.part.name]] for p in self.ranges
            ],
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Part":
        """What `document` wrote. Raises PassedOver for one of another version."""
        version = document.get("version")
        if version != PART_VERSION:
            cause = f"it is written in version {version or 'none'}, and this process reads {PART_VERSION}"
            raise PassedOver("part", cause, "Have the same tierkeeper on all machines; the run's own process moves these rows")
        return cls(
            table=TableName(*document["table"]),
            source=document["hop"][0],
            destination=document["hop"][1],
            age=document["age"],
            cutoff=datetime.fromisoformat(document["cutoff"]),
            origin=document["origin"] and UUID(document["origin"]),
            lease=document["lease"],
            holder=document["holder"],
            batch_rows=document["batch_rows"],
            sharers=document["sharers"],
            budgets=tuple((Cost(*batch), Cost(*reserve)) for batch, reserve in document["budgets"]),
            ranges=tuple(
                Piece(first, upto, rows, size_bytes, part and TableName(*part), widest)
                for first, upto, rows, size_bytes, widest, part in document["ranges"]
            ),
        )


def cut(ranges: Sequence[Piece], sharers: int) -> list[tuple[Piece, ...]]:
    """The ranges of a pass in parts of PART_BATCHES, smaller where not everybody would get one; none where it is not worth it."""
    if sharers <= 1 or len(ranges) < SHARED_BATCHES_MIN:
        return []
    size = max(min(PART_BATCHES, len(ranges) // (2 * sharers)), 1)
    return [tuple(ranges[at : at + size]) for at in range(0, len(ranges), size)]


@dataclass(frozen=True)
class Share:
    """What the leader of one run needs to share it. `budgets` as a part has them, for so many sharers."""

    port: Sharing
    source: Tier
    destination: Tier
    budgets: Callable[[int], tuple[Budget, ...]]

    def parts(self, run: Run, ranges: Sequence[Piece], lease: Lease, batch_rows: int) -> list[Part]:
        """What others may take of a pass; nothing where nobody is there to take it, or it is too small."""
        if len(ranges) < SHARED_BATCHES_MIN:
            return []
        sharers = 1 + self.port.helpers()
        return [
            Part(
                table=run.selection.shape.name,
                source=self.source,
                destination=self.destination,
                age=run.selection.age,
                cutoff=run.selection.cutoff,
                origin=run.origin,
                lease=lease.name,
                holder=lease.holder,
                batch_rows=batch_rows,
                sharers=sharers,
                budgets=self.budgets(sharers),
                ranges=part,
            )
            for part in cut(ranges, sharers)
        ]

    def wait(self, run: Run, parts: Sequence[Part], tell: Callable[[int], None], sleep: Callable[[float], None]) -> None:
        """Offers `parts` and waits until each has ended, one way or the other. `tell` gets how many rows are still out."""
        offer = self.port.offer([part.document() for part in parts])
        rows = {at: sum(p.rows for p in part.ranges) for at, part in enumerate(parts)}
        try:
            while left := offer.left():
                if (told := run.stop()) is not None:
                    run.end(told)
                    return
                tell(sum(rows[at] for at in left))
                sleep(PART_LOOK_SECONDS)
        finally:
            offer.withdraw()


def share_of(port: Sharing | None, request: Request, weighed: Weighed, pace: Pace, *, alone: bool) -> Share | None:
    """With whom a run may share its passes: one down from Core, by ages alone, of all its rows, which go `alone`."""
    whole = alone and request.where is None and weighed.limit is None
    if port is None or not whole or (request.source, request.destination) != ("core", "main"):
        return None
    return Share(port, request.source, request.destination, partial(budgets, weighed, pace))


@dataclass(frozen=True)
class Joined:
    """Somebody else's lease, under which parts of its run are moved. It is looked at, and never taken."""

    conn: Connection
    name: str
    holder: str

    def take(self) -> None:
        """Raises PassedOver where the run is over: its successor cuts anew what is left."""
        if holder_of(self.conn, self.name) != self.holder:
            raise PassedOver(self.name, "its run is over", "What it left is cut anew by the next")

    def give_back(self) -> None:
        """It is not ours to give."""
        return


def newest(conn: Connection) -> int:
    """The newest batch's number at the destination that `conn` leads to."""
    with transaction(conn, read_only=True) as cur:
        row = cur.last(_SQL["newest"]).fetchone()
    return int(row[0]) if row else 0


def moved_since(conn: Connection, seq: int, table: TableName, source: Tier, known: Sequence[UUID]) -> list[tuple[UUID, int, int]]:
    """Batches of `table` behind `seq` that are done, by others: id, rows, bytes. `known` are the run's own."""
    asked = {"seq": seq, "schema": table.schema, "name": table.name, "source": source, "known": list(known)}
    with transaction(conn, read_only=True) as cur:
        return [(UUID(str(batch)), int(rows), int(size)) for batch, rows, size in cur.last(_SQL["moved"], asked).fetchall()]
