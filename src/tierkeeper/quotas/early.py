"""Rows that leave a tier before their time, because it is too full or soon will be. It asks `coldest` and drives the mover."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.results import QuotaChoice
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age, format_bytes
from tierkeeper.postgres.catalog import server_now
from tierkeeper.postgres.link import translated
from tierkeeper.quotas.ages import Ages, ages
from tierkeeper.quotas.coldest import Candidate, Choice, Pressure, choose, pressure
from tierkeeper.quotas.following import followers, size_with
from tierkeeper.tiers.space import WORTH_BYTES
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import TableSize

EARLY_ROUNDS: Final = 3  # of deleting, reclaiming and measuring until a table has given what it may
EARLY_SHARE: Final = 0.75  # of a table's rows at the run's begin: no figure, however wrong, empties a table in one run
FALL_SHARE: Final = 0.25  # of what the rows that left should have given: a size that falls by less does not follow them
STEP_BYTES: Final = 2 * WORTH_BYTES  # a smaller step would leave dead space that is not worth a method, and prove nothing
_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True)
class Ahead:
    """What the history says: by how much a tier will grow before the next run, and how often rows are read, by table."""

    coming_bytes: int = 0
    reads: Callable[[], Mapping[TableName, float]] = dict


@dataclass(frozen=True)
class Bounds:
    """Shares of the quota between which rows leave early."""

    start_at: float
    stop_at: float


@dataclass(frozen=True)
class _Table:
    """A table at the run's begin. `least` is the instant from which on its policy keeps rows, whatever happens.

    `size`: of those `along` as well, whose rows leave with its own.
    """

    policy: TablePolicy
    size: TableSize
    ages: Ages | None
    least: datetime
    along: tuple[TableName, ...] = ()

    @property
    def row_bytes(self) -> float:
        return self.size.total_bytes / self.size.rows_estimate if self.size.rows_estimate > 0 else 0.0

    @property
    def may_leave(self) -> int:
        """Rows, the oldest ones."""
        old = EARLY_SHARE if self.ages is None else min(EARLY_SHARE, self.ages.before(self.least.timestamp()))
        return int(self.size.rows_estimate * old)


@dataclass(frozen=True)
class _Unproven:
    """Rows that have left and have not shown in the size yet, what they should give, and what was used before."""

    used_bytes: int = 0
    rows: int = 0
    bytes: float = 0.0


class EarlyMoves:
    """One tier's early moves in one run of the quota manager.

    I9: what leaves is bounded by the rows that the policy keeps at least, by EARLY_SHARE of each table, and by the size: where
    that does not follow the rows that left, no more of them leave.
    """

    def __init__(
        self,
        source: TierName,
        tier: Tier,
        policies: Sequence[TablePolicy],
        bounds: Bounds,
        ahead: Ahead,
        *,
        named: Collection[TablePolicy],
        clock: Clock,
        used: Callable[[], int],
    ) -> None:
        """`policies`: of the tables whose rows may leave, of all that are `named`; `used` measures the tier."""
        self._tier = tier
        self._bounds = bounds
        self._ahead = ahead
        self._used = used
        self.source = source
        with translated(f"tiers.{tier.name}"), closing(tier.link.connect("usage")) as conn:
            known = ages(conn, policies)
            self._now = now = clock.now(partial(server_now, conn))  # a minimum means the clock of the server that has the rows
            along = followers(conn, named)
            self._tables = {
                p.name: _Table(
                    p, size, known.get(p.name), _least(p, source, now), tuple(one.table for one in along.get(p.name, ()))
                )
                for p in policies
                if (size := size_with(conn, p.name, along.get(p.name, ()))) is not None
            }
        self._unproven = _Unproven()
        self._begun: Pressure | None = None
        self._left = {name: table.may_leave for name, table in self._tables.items()}

    @property
    def destination(self) -> TierName:
        """Where the rows go."""
        return "archive" if self.source == "main" else "main"

    def pressure(self, freed_bytes: int = 0) -> Pressure | None:
        """Why rows must leave early, once `freed_bytes` have come back; None if none must."""
        bounds, coming = self._bounds, self._ahead.coming_bytes
        return pressure(
            self._used() - freed_bytes,
            self._tier.quota_bytes,
            start_at=bounds.start_at,
            stop_at=bounds.stop_at,
            coming_bytes=coming,
        )

    def _going_on(self, freed_bytes: int) -> Pressure | None:
        """`pressure`, and once rows have begun to leave until the tier is down at `stop_at`: else the next rows that come would
        have a run of their own, and each takes its share of every table.
        """
        bounds, begun = self._bounds, self._begun
        self._begun = found = self.pressure(freed_bytes) if begun is None else begun
        if begun is None or found is None:
            return found
        coming, quota = self._ahead.coming_bytes, self._tier.quota_bytes
        left = pressure(self._used() - freed_bytes, quota, start_at=bounds.stop_at, stop_at=bounds.stop_at, coming_bytes=coming)
        return None if left is None or left.over_bytes < STEP_BYTES else Pressure(left.over_bytes, found.why)

    def plan(self, gone: Mapping[TableName, int]) -> list[QuotaChoice]:
        """What would leave after the rows that go by policy have (`gone`, by table)."""
        freed = sum(t.row_bytes * gone.get(name, 0) for name, t in self._tables.items())
        found = self.pressure(int(freed))
        if found is None:
            return []
        left = {name: max(0, rows - gone.get(name, 0)) for name, rows in self._left.items()}
        return [self.told(c, found, c.rows) for c in choose(found.over_bytes, self._candidates(found.over_bytes, left))]

    def next(self, unreturned: Mapping[TableName, int], failed: Sequence[TableName]) -> tuple[Choice, Pressure] | None:
        """What leaves next. `unreturned`: bytes of tables that keep their deleted rows' space: those have room for new rows, and
        more that leave them would lower nothing.
        """
        found = self._going_on(sum(unreturned.values()))
        if found is None:
            return None
        kept = {n for n in self._left if any(unreturned.get(table) for table in self.leaving_with(n))}
        left = {n: rows for n, rows in self._left.items() if n not in kept and n not in failed}
        choices = choose(found.over_bytes, self._candidates(found.over_bytes, left))
        if not choices:
            return None
        first = choices[0]
        table = self._tables[first.policy.name]
        at_once = max(math.ceil(table.may_leave / EARLY_ROUNDS), math.ceil(STEP_BYTES / table.row_bytes))
        rows = min(first.rows, at_once)
        return replace(first, rows=rows, bytes=int(rows * table.row_bytes)), found

    def leaving_with(self, table: TableName) -> tuple[TableName, ...]:
        """The table, and those whose rows leave with its own."""
        return (table, *self._tables[table].along)

    def least(self, table: TableName) -> datetime:
        """The instant from which on rows of `table` stay."""
        return self._tables[table].least

    def follows(self, choice: Choice, moved: int, used_bytes: int) -> str | None:
        """Books that `moved` rows left a tier that used so much before; why no more may, where its size falls by too little.

        Steps that are too small to show in the size are judged together.
        """
        name = choice.policy.name
        self._left[name] -= moved
        proof = self._unproven
        proof = _Unproven(
            max(proof.used_bytes, used_bytes), proof.rows + moved, proof.bytes + moved * self._tables[name].row_bytes
        )
        if proof.bytes < STEP_BYTES:
            self._unproven = proof
            return None
        fell = proof.used_bytes - self._used()
        self._unproven = _Unproven()
        if fell >= FALL_SHARE * proof.bytes:
            return None
        return (
            f"{self.source}: {proof.rows:,} rows left early and its size fell by {format_bytes(max(0, fell))} only:"
            " no more rows leave it in this run, since they do not seem to be what fills it"
        )

    def told(self, choice: Choice, found: Pressure, rows: int) -> QuotaChoice:
        """The choice as the report has it."""
        size = int(rows * self._tables[choice.policy.name].row_bytes)
        return QuotaChoice(
            tier=self.source,
            to=self.destination,
            table=str(choice.policy.name),
            rows=rows,
            bytes=size,
            early=True,
            why=f"{self.source}: {found.why}; {choice.why}",
        )

    def kept(self) -> list[str]:
        """The minimums that keep rows, in words."""
        kept = [(t.policy.name, _minimum(t.policy, self.source)) for t in self._tables.values()]
        return [
            f"{table}: no row younger than {least.text} leaves {self.source} early" for table, least in kept if least is not None
        ]

    def _candidates(self, over_bytes: int, left: Mapping[TableName, int]) -> list[Candidate]:
        return [self._candidate(self._tables[name], rows, over_bytes) for name, rows in left.items() if rows > 0]

    def _candidate(self, table: _Table, rows: int, over_bytes: int) -> Candidate:
        wanted = min(rows, math.ceil(over_bytes / table.row_bytes)) if table.row_bytes else 0
        older = table.may_leave - rows  # those have left, or leave by policy
        youngest = table.ages.at((older + wanted) / table.size.rows_estimate) if table.ages is not None and wanted else None
        age = None if youngest is None else max(0.0, (self._now.timestamp() - youngest) / _DAY_SECONDS)
        reads = self._ahead.reads().get(table.policy.name)
        return Candidate(table.policy, rows, table.row_bytes, age, reads)


def _minimum(policy: TablePolicy, source: TierName) -> Age | None:
    return policy.core_min if source == "core" else policy.main_min


def _least(policy: TablePolicy, source: TierName, now: datetime) -> datetime:
    least = _minimum(policy, source)
    return now if least is None else least.before(now)
