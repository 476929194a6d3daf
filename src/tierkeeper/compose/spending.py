"""Forecast, cost, and proposals of cutoffs, wired to the tiers, the history and the log of asked ages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property

from tierkeeper.compose.usage import UsageKeeper
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import ASKED_READ_DAYS
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import ScanSegment
from tierkeeper.kernel.results import (
    CostResult,
    CostTotal,
    ForecastResult,
    OptimiseResult,
    QuotaResult,
    StatusResult,
    WhatIfResult,
)
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring import asked
from tierkeeper.monitoring.asked import AskedLog
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import Connection
from tierkeeper.quotas import propose
from tierkeeper.quotas.change import Change, by_age, changed, cutoffs_of
from tierkeeper.quotas.cost import month_of
from tierkeeper.quotas.outlook import outlook, total, warned, without_history
from tierkeeper.quotas.stock import scans
from tierkeeper.quotas.survey import Survey, survey, with_days


class SpendingKeeper(UsageKeeper):
    """Tells what comes and what it costs. It changes nothing."""

    def optimise(self, promise: float | None = None) -> OptimiseResult:
        """The cutoffs that cost least; `promise` (else `[quotas] reads_in_core`) is the share of reads that stay in Core.

        Raises UsageError where no table moves by its age.
        """
        by_age(self._policies, "--optimise")
        found = self._survey()
        told = propose.optimise(found.world, self._settings.quotas.reads_in_core if promise is None else promise)
        return told.model_copy(update={"notes": [*found.notes, *told.notes]})

    def what_if(self, changes: Sequence[Change]) -> WhatIfResult:
        """What other cutoffs would come to. Raises UsageError for a change of what is not there."""
        changed(self._policies, changes, self._clock.now())
        found = self._survey()
        told = propose.what_if(found.world, changed(self._policies, changes, self._clock.now()))
        return told.model_copy(update={"notes": [*found.notes, *told.notes]})

    @cached_property
    def _asked(self) -> AskedLog | None:
        return AskedLog(self._clock.now) if self._settings.query.remember_ages else None

    def _survey(self) -> Survey:
        now = self._clock.now()
        since = (now - timedelta(days=ASKED_READ_DAYS)).date()
        found = asked.read(self.links["main"], since)
        reads = {t: with_days(r.by_oldest, r.everything, (now.date() - r.since).days + 1) for t, r in found.items()}
        return survey(
            self._tiers,
            self._policies,
            store_bytes=self._store_bytes,
            segments=self._segments,
            asked=reads,
            history=self.history,
            now=now,
            start_at=self._settings.quotas.start_at,
        )

    def _segments(self, conn: Connection, tables: Sequence[TableName]) -> Mapping[TableName, Sequence[ScanSegment]]:
        archived = self.archive.rows_by_table(conn)
        scan = self.archive.scan()
        with catalog(conn) as cur:
            return {t: scan.segments(cur, t) for t in tables if t in archived}

    def _with_status(self, result: StatusResult) -> StatusResult:
        """`result` with each tier's forecast and cost; as it is where the history cannot be read."""
        found = self._outlook({name: one.used_bytes for name, one in result.tiers.items()})
        if found is None:
            return result
        tiers = {
            name: warned(name, result.tiers[name].model_copy(update={"forecast": forecast, "cost": cost}), forecast)
            for name, (forecast, cost) in found.items()
        }
        return result.model_copy(update={"tiers": tiers, "cost": _total(found)})

    def _with_quota(self, result: QuotaResult) -> QuotaResult:
        """As `_with_status`."""
        found = self._outlook({name: one.used_bytes_after for name, one in result.tiers.items()})
        if found is None:
            return result
        tiers = {n: result.tiers[n].model_copy(update={"forecast": f, "cost": c}) for n, (f, c) in found.items()}
        return result.model_copy(update={"tiers": tiers})

    def _outlook(self, used: Mapping[str, int | None]) -> dict[Tier, tuple[ForecastResult, CostResult]] | None:
        now: datetime = self._clock.now()
        names: dict[Tier, int | None] = {t: used.get(t) for t in self._tiers}
        with looking():
            try:
                found = outlook(self.history, self._tiers, names, now, self._requests(now))
            except TierkeeperError:
                return None
        away = self.history.away
        if away is not None:
            found = {name: without_history(one, self._tiers[name], away.cause) for name, one in found.items()}
        return found

    def _requests(self, now: datetime) -> Mapping[Tier, int]:
        """Scans of this month by tier, from the log of asked ages; nothing where nobody pays for them, or Main is away."""
        counted = Counter[Tier]()
        if not any(tier.price.requests_per_million for tier in self._tiers.values()):
            return counted
        try:
            found = asked.read(self.links["main"], month_of(now)[0].date())
        except TierkeeperError:
            return counted
        for policy in self._policies:
            if policy.name in found:
                reads = found[policy.name]
                counted.update(scans(with_days(reads.by_oldest, reads.everything, 1.0), cutoffs_of(policy, now).ends))
        return counted


def _total(found: Mapping[Tier, tuple[ForecastResult, CostResult]]) -> CostTotal:
    return total([cost for _, cost in found.values()])
