"""What the user wants of a table, and the bounds every reader and mover keeps to."""

from dataclasses import dataclass
from typing import Literal

from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age

Tier = Literal["core", "main", "archive"]
TIERS: tuple[Tier, ...] = ("core", "main", "archive")
OnConflict = Literal["error", "skip", "replace"]
"""What becomes of a row whose key is there already: it refuses all, it stays, or it is overwritten."""


@dataclass(frozen=True)
class TablePolicy:
    """One `[[tables]]` entry. Rows older than `core` leave Core, older than `main` leave Main; None: they stay.

    What is older than `archive` leaves the archive, and is gone; None: it stays for ever.
    However full the tier is, rows younger than `core_min` stay in Core, than `main_min` in Main.
    `drop_partitions`: partitions older than that may go once they are empty.
    Rows of a table that moves and has no `age` have no time of their own: they leave with those that they refer to.
    """

    name: TableName
    mode: Literal["move", "mirror"] = "move"
    age: str | None = None
    core: Age | None = None
    main: Age | None = None
    drop_partitions: bool = False
    archive: Age | None = None
    core_min: Age | None = None
    main_min: Age | None = None

    @property
    def follows(self) -> bool:
        """Whether its rows leave with those that they refer to, and never by themselves."""
        return self.mode == "move" and self.age is None
