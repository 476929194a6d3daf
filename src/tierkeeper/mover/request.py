"""What a run is asked for, as values. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

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


ASIDES: Final = 3  # connections to the source for questions that are open at once; a run's workers go on with all but one


def dialled(source: Tier, destination: Tier) -> list[tuple[Tier, str]]:
    """The connections that a run begins with, each with its purpose; it goes on without the last ASIDES - 1."""
    names: list[Tier] = [t for t in (source, destination) if t != "archive"]
    # What is asked aside shares MOVER_LOCK with the others, as the workers do that go on with it.
    wanted = [(name, purpose) for purpose in ("mover", "budget", "mover") for name in names]
    return [*wanted, *[(names[0], "mover")] * (ASIDES - 1)]


def soon(source: Tier, destination: Tier) -> list[tuple[Tier, str]]:
    """What a run from Core to Main dials until it moves. First what looks whether the setup is complete: that takes the longest.

    Empty for another hop.
    """
    if (source, destination) != ("core", "main"):
        return []
    return [("core", "setup"), ("core", "setup"), ("main", "setup"), *dialled(source, destination), ("main", "audit")]


@dataclass(frozen=True)
class Bounds:
    """Sizes of one run; `longest_reader_seconds` is `query.timeout`."""

    longest_reader_seconds: float
    batch_rows: int = BATCH_ROWS
    segment_rows: int = SEGMENT_ROWS
