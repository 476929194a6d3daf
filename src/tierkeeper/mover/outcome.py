"""What a run did, as its workers add it up and as its result tells it."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from tierkeeper.kernel.results import MoveResult
from tierkeeper.mover.request import Request


@dataclass
class Outcome:
    """What a run did. `stopped_because` is `complete` unless something is left that another run would move: `rows_left`."""

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    recovered: int = 0
    rows_left: int = 0
    stopped_because: str = "complete"
    conflicts: list[str] = field(default_factory=list)
    moved: list[UUID] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def told(self, request: Request, cutoff: datetime, seconds: float, notes: list[str]) -> MoveResult:
        """As a result; `notes` come before its own."""
        return MoveResult(
            table=str(request.table),
            from_=request.source,
            to=request.destination,
            batches=self.batches,
            rows=self.rows,
            bytes=self.bytes,
            seconds=round(seconds, 3),
            stopped_because=self.stopped_because,
            rows_left=self.rows_left,
            cutoff=cutoff,
            recovered=self.recovered,
            conflicts=self.conflicts,
            notes=notes + self.notes,
            batch_ids=[str(b) for b in self.moved],
        )
