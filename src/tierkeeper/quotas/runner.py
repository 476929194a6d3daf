"""One run of the quota manager. It asks `plan` and drives the mover through a port; the mover itself guards the rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.ports import Audit
from tierkeeper.kernel.results import ErrorResult, MovePlan, MoveResult, QuotaResult, QuotaTier, Reclaim
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import translated
from tierkeeper.quotas import plan
from tierkeeper.quotas.reclaim import reclaim
from tierkeeper.tiers.ask import ask_all
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import measure, table_size

REST_SECONDS = 10  # a longer rest between two hops is left for the next run
EARLY_ROUNDS = 3  # deleting, reclaiming and measuring again; more in one run would chase a size that does not fall


class Moves(Protocol):
    """The mover, as the quota manager needs it."""

    def move(
        self,
        table: TableName,
        source: TierName,
        destination: TierName,
        *,
        before: datetime | None = None,
        limit: int | None = None,
    ) -> MoveResult:
        """Moves by policy, or what is older than `before`, oldest first, at most `limit` rows."""
        ...

    def plan(self, table: TableName, source: TierName, destination: TierName) -> MovePlan:
        """What `move` would do by policy."""
        ...


@dataclass(frozen=True)
class Thresholds:
    """Shares of the quota between which rows move before their time, and the time that rows rest between two hops."""

    start_at: float
    stop_at: float
    rest_seconds: float


@dataclass
class _Report:
    moves: list[MoveResult] = field(default_factory=list)
    plans: list[MovePlan] = field(default_factory=list)
    reclaimed: list[Reclaim] = field(default_factory=list)
    errors: list[ErrorResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class QuotaManager:
    """Moves what is old, then what is too much, and returns the space. One table's error does not stop the others.

    I9: before a rewrite its peak is weighed; rounds are capped, so that a size that does not fall never empties a table.
    """

    def __init__(
        self,
        tiers: Mapping[TierName, Tier],
        policies: Sequence[TablePolicy],
        moves: Moves,
        *,
        store_bytes: Callable[[], int],
        thresholds: Thresholds,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._tiers = tiers
        self._policies = [p for p in policies if p.mode == "move"]
        self._moves = moves
        self._store_bytes = store_bytes
        self._thresholds = thresholds
        self._audit = audit
        self._clock = clock

    def run(self, *, dry_run: bool) -> QuotaResult:
        """Raises NotNow where a tier's size cannot be read; everything later is in the result."""
        before = self._used()
        report = _Report()
        if dry_run:
            self._plan(report)
        else:
            with self._audit.action("quota", "core", {"used_bytes": before}) as note:
                self._work(report)
                note(rows=sum(m.rows for m in report.moves), errors=len(report.errors))
        after = before if dry_run else self._used()
        tiers = {
            name: QuotaTier(used_bytes_before=before[name], used_bytes_after=after[name], quota_bytes=tier.quota_bytes)
            for name, tier in self._tiers.items()
        }
        for name, figures in tiers.items():
            if (figures.used_bytes_after or 0) >= self._thresholds.start_at * figures.quota_bytes:
                report.notes.append(f"{name} stays above {self._thresholds.start_at:.0%} of its quota")
        return QuotaResult(dry_run=dry_run, tiers=tiers, **vars(report))

    def _used(self) -> dict[TierName, int]:
        postgres = {name: tier for name, tier in self._tiers.items() if name != "archive"}
        links = {str(name): tier.link for name, tier in postgres.items()}
        answers, errors = ask_all(links, lambda name, conn: measure(conn, postgres[name].profile).used_bytes, "usage")  # type: ignore[index]
        for error in errors.values():
            raise error
        return {name: self._store_bytes() if name == "archive" else answers[name] for name in self._tiers}

    def _plan(self, report: _Report) -> None:
        for policy in self._policies:
            for source, destination in (("core", "main"), ("main", "archive")):
                if getattr(policy, source) is not None:
                    with _told(report):
                        report.plans.append(self._moves.plan(policy.name, source, destination))  # type: ignore[arg-type]

    def _work(self, report: _Report) -> None:
        # What has rested goes first: new arrivals make a table rest again.
        self._hop(report, "main", "archive")
        self._hop(report, "core", "main")
        self._reclaim(report)
        self._early(report)
        arrived = any(m.to == "main" and m.rows for m in report.moves)
        if arrived and self._thresholds.rest_seconds <= REST_SECONDS:
            self._clock.sleep(self._thresholds.rest_seconds + 0.1)
            self._hop(report, "main", "archive")

    def _hop(self, report: _Report, source: TierName, destination: TierName) -> None:
        for policy in self._policies:
            if getattr(policy, source) is None:
                continue
            with _told(report):
                result = self._moves.move(policy.name, source, destination)
                if result.rows or result.recovered or result.stopped_because != "complete":
                    report.moves.append(result)

    def _early(self, report: _Report) -> None:
        """Rows younger than the policy asks leave Core when it is too full, oldest first; where it names no age they stay."""
        tier = self._tiers["core"]
        for _ in range(EARLY_ROUNDS):
            with translated("core"), closing(tier.link.connect("usage")) as conn:
                used = measure(conn, tier.profile).used_bytes
                sizes = [
                    (s.total_bytes, s.rows_estimate or 0, p)
                    for p in self._policies
                    if p.core is not None and (s := table_size(conn, p.name)) is not None
                ]
            if not sizes:
                return
            size_bytes, rows, policy = max(sizes, key=lambda s: s[0])
            wanted = plan.early_rows(
                used,
                tier.quota_bytes,
                start_at=self._thresholds.start_at,
                stop_at=self._thresholds.stop_at,
                table_bytes=size_bytes,
                table_rows=rows,
            )
            if not wanted:
                return
            moved = 0
            with _told(report):
                result = self._moves.move(policy.name, "core", "main", before=self._clock.now(), limit=wanted)
                report.moves.append(result)
                report.notes.append(
                    f"core was above {self._thresholds.start_at:.0%}: {result.rows} rows of {policy.name} left it early"
                )
                moved = result.rows
            if not moved:
                return
            self._reclaim(report, policy.name)

    def _reclaim(self, report: _Report, only: TableName | None = None) -> None:
        tier = self._tiers["core"]
        for policy in self._policies:
            if only in (None, policy.name):
                with _told(report), translated(str(policy.name)), closing(tier.link.connect("vacuum")) as conn:
                    done = reclaim(conn, tier, policy.name)
                    if done is not None and done[0].bytes_after != done[0].bytes_before:
                        report.reclaimed.append(done[0])
                    if done is not None and done[0].method == plan.Method.VACUUM_FULL:
                        report.notes.append(f"{policy.name}: {done[1]}")


@contextmanager
def _told(report: _Report) -> Iterator[None]:
    """Keeps an error for the report, so that the next table has its turn."""
    try:
        yield
    except TierkeeperError as error:
        told = ErrorResult(place=error.place, cause=error.cause, remedy=error.remedy)
        if told not in report.errors:
            report.errors.append(told)
