"""What a run is asked for, as values. Pure."""

from dataclasses import dataclass
from datetime import datetime

from tierkeeper.kernel.limits import BATCH_ROWS, SEGMENT_ROWS
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age


@dataclass(frozen=True)
class Request:
    """What to move. Without `before` and `older_than` the policy's age for the source tier counts, on the way up any age.

    Where the destination has no room for all of it, `as_room_allows` moves the oldest rows that fit; else it is refused.
    """

    table: TableName
    source: Tier
    destination: Tier
    before: datetime | None = None
    older_than: Age | None = None
    where: str | None = None
    limit: int | None = None
    as_room_allows: bool = False

    @property
    def upward(self) -> bool:
        """Whether rows go back to the tier that they came from."""
        return self.destination == "core"


@dataclass(frozen=True)
class Bounds:
    """Sizes of one run; `longest_reader_seconds` is `query.timeout`."""

    longest_reader_seconds: float
    batch_rows: int = BATCH_ROWS
    segment_rows: int = SEGMENT_ROWS
