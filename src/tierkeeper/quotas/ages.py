"""How a table's rows are spread over time, from what the planner knows: no row is read for it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Final

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.quotas", "space.sql")
_HALVINGS: Final = 60  # of the span of all ages: below a second, whatever the span


@dataclass(frozen=True)
class Ages:
    """Shares of a table's rows with an age in [since, until], in seconds of the epoch; within one they are spread evenly.

    What is infinite never leaves, and is left out, as are the `undated` rows, a share as well.
    """

    shares: Sequence[tuple[float, float, float]]
    undated: float = 0.0

    def before(self, instant: float) -> float:
        """The share of the rows that are older than `instant`."""
        return sum(share * _part(since, until, instant) for since, until, share in self.shares)

    def at(self, share: float) -> float | None:
        """The instant that so large a share of the rows is older than, the oldest ones; None where none has an age."""
        if not self.shares:
            return None
        low, high = min(s[0] for s in self.shares), max(s[1] for s in self.shares)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.before(middle) < share else (low, middle)
        return high


def _part(since: float, until: float, instant: float) -> float:
    if instant > until:
        return 1.0
    return 0.0 if instant <= since else (instant - since) / (until - since)


def spread(common: Sequence[float], frequencies: Sequence[float], bounds: Sequence[float], null_share: float) -> Ages:
    """From pg_stats: common values with their frequencies, and bounds between which the rest lies in equal parts. Pure."""
    points = [(value, value, share) for value, share in zip(common, frequencies, strict=True)]
    rest = max(0.0, 1.0 - null_share - sum(frequencies))
    bins = list(pairwise(bounds))
    spans = [(since, until, rest / len(bins)) for since, until in bins]
    return Ages([s for s in (*points, *spans) if isfinite(s[0]) and isfinite(s[1])], null_share)


def ages(conn: Connection, policies: Collection[TablePolicy]) -> dict[TableName, Ages]:
    """Of those tables of which the planner knows it: it does once they were analysed."""
    asked = [(p.name.schema, p.name.name, p.age) for p in policies if p.age is not None]
    if not asked:
        return {}
    schemas, tables, columns = (list(part) for part in zip(*asked, strict=True))
    with catalog(conn) as cur:
        found = cur.execute(_SQL["ages"], {"schemas": schemas, "tables": tables, "columns": columns}).fetchall()
    return {TableName(schema, table): spread(*known) for schema, table, *known in found}
