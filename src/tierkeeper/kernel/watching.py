"""Where what watches the tiers meets what decides by it. Pure declarations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName


class Measured(Protocol):
    """How many bytes a tier, or a table of it, had at an instant (UTC)."""

    @property
    def at(self) -> datetime: ...

    @property
    def table(self) -> TableName | None: ...

    @property
    def bytes(self) -> int: ...


class History(Protocol):
    """What the tiers held and gave over time."""

    def samples(
        self, tier: Tier | None = None, table: TableName | None = None, *, every: bool = False, since: datetime | None = None
    ) -> Sequence[Measured]:
        """Samples, oldest first: a tier's own (`table` None) or a table's; `every`: the tier's and all its tables'."""
        ...

    def egress(self, tier: Tier, month: date) -> int | None:
        """Bytes that were received from the tier in the calendar month (UTC) of that day; None where that is not known now."""
        ...


@dataclass(frozen=True)
class Touched:
    """Which ages a scan of `table` allowed, both ends included; None: open."""

    table: TableName
    low: datetime | None
    high: datetime | None


class AskedAges(Protocol):
    """Remembers which ages were asked for."""

    def note(self, main: Any, touched: Sequence[Touched]) -> None:
        """Notes them over `main`, a connection (postgres.link) that is in no transaction. It never raises."""
        ...
