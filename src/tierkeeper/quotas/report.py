"""What a run of the quota manager has to tell, gathered as it goes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tierkeeper.kernel.errors import Busy, TierkeeperError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.results import FaultResult, Left, MovePlan, MoveResult, QuotaChoice, Reclaim, StaysFull, told
from tierkeeper.kernel.tables import TableName

ARCHIVED_SHARE: Final = 0.2  # of what rows take in Main, what segments do: measured 0.02 to 0.19, and a wall is told early


@dataclass
class Report:
    """As `QuotaResult` has it."""

    moves: list[MoveResult] = field(default_factory=list)
    plans: list[MovePlan] = field(default_factory=list)
    choices: list[QuotaChoice] = field(default_factory=list)
    reclaimed: list[Reclaim] = field(default_factory=list)
    errors: list[FaultResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stays_full: list[StaysFull] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    """What another run of ours is at."""

    @property
    def shown(self) -> dict[str, Any]:
        """What `QuotaResult` has of it."""
        return {name: value for name, value in vars(self).items() if name != "busy"}

    @property
    def why(self) -> str | None:
        """The gravest of what had to wait, for whoever reads the audit."""
        gravest = min(self.errors, key=lambda one: one.not_now, default=None)
        return None if gravest is None else f"{gravest.place}: {gravest.cause}"

    def leaves_to_another(self, source: TierName) -> bool:
        """Whether another run is at rows that would leave: `source` is as full as it is for as long as that one takes."""
        if self.busy:
            self.notes.append(f"{source}: nothing leaves it early beside another run ({', '.join(sorted(self.busy))})")
        return bool(self.busy)

    def coming_bytes(self, tier: TierName) -> int:
        """About what is planned would take there."""
        if tier == "archive":
            return int(ARCHIVED_SHARE * sum(c.bytes for c in self.choices if c.to == tier))
        return sum(p.destination_bytes or 0 for p in self.plans if p.to == tier)

    def missed(self, source: TierName, destination: TierName, policies: Iterable[TablePolicy]) -> None:
        """Tables that a run which had to end did not come to."""
        self.left += [Left(table=str(p.name), from_=source, to=destination) for p in policies if not p.follows]

    def was_not_now(self, table: TableName) -> bool:
        """Whether something could not be had of `table` in this run: who asks again waits again."""
        own = (str(table), f"{table} (")  # the tier may follow
        return any(one.not_now and (one.place == own[0] or one.place.startswith(own[1])) for one in self.errors)


def by_policy(policy: TablePolicy, source: TierName, to: TierName, rows: int, row_bytes: float) -> list[QuotaChoice]:
    """Why rows leave that are older than their policy; none where no row does. `row_bytes`: what a row of it takes there."""
    kept = policy.core if source == "core" else policy.main
    why = f"older than {kept.text}, as the policy says" if kept is not None else "they go with the rows that they refer to"
    table = str(policy.name)
    return (
        [QuotaChoice(tier=source, to=to, table=table, rows=rows, bytes=int(rows * row_bytes), early=False, why=why)]
        if rows
        else []
    )


@contextmanager
def telling(report: Report) -> Iterator[None]:
    """Keeps an error for the report, so that the next table has its turn."""
    try:
        yield
    except TierkeeperError as error:
        report.errors += [one for one in told([error]) if one not in report.errors]
        report.busy |= {error.place} if isinstance(error, Busy) else set()
