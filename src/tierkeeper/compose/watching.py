"""What the history says of the future, wired to whoever acts by it: the quota manager and the alerts."""

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta
from functools import cache, partial

from tierkeeper.compose.facts import Given
from tierkeeper.compose.spending import SpendingKeeper
from tierkeeper.kernel import cron
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import OUTLOOK_READ_DAYS
from tierkeeper.kernel.policy import TIERS, Tier
from tierkeeper.kernel.series import Sample
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring import went
from tierkeeper.monitoring.alerts.facts import Forecast, Job
from tierkeeper.monitoring.alerts.running import LATE_JOBS
from tierkeeper.monitoring.model import activity, last_active
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import translated
from tierkeeper.quotas.early import Ahead
from tierkeeper.quotas.forecast import coming
from tierkeeper.quotas.growth import WINDOW_DAYS
from tierkeeper.quotas.outlook import foreseen
from tierkeeper.security.runs import last_outcome

_DAY = timedelta(days=1)


class WatchingKeeper(SpendingKeeper):
    """Looks ahead. What the history cannot tell is left out: a run without it goes by the figures of now."""

    def _ahead(self, tier: Tier) -> Ahead:
        """What is to come in `tier` before the quota manager's next run, and how often its rows are read."""
        now = self._clock.now()
        try:
            with looking():
                samples = self.history.series(tier, since=now - timedelta(days=WINDOW_DAYS))
        except TierkeeperError:
            return Ahead()
        return Ahead(
            coming(samples, self._tiers[tier].quota_bytes, now, self._next("quota", now)), cache(partial(self._reads, tier, now))
        )

    def _in_vain(self) -> Mapping[str, int]:
        """The tiers that the quota manager's last run, of the last day, could not bring down, and what they used then."""
        with translated("tiers.main"), closing(self.links["main"].connect("usage")) as conn:
            found = last_outcome(conn, "quota", "core", _DAY.total_seconds()).get("in_vain") or {}
        return {str(tier): int(used) for tier, used in found.items()}

    def _reads(self, tier: Tier, now: datetime) -> Mapping[TableName, float]:
        """How often a row of each table is read in a day; nothing of what the history cannot tell."""
        since = now - timedelta(days=OUTLOOK_READ_DAYS)
        try:
            with looking():
                samples = self.history.samples(tier, every=True, since=since)
        except TierkeeperError:
            return {}
        rows = {s.table: s.rows for s in samples if s.table is not None}
        days, reads = dict[TableName, int](), dict[TableName, int]()
        for one in activity(samples):
            if one.table is not None:
                days[one.table] = days.get(one.table, 0) + 1
                reads[one.table] = reads.get(one.table, 0) + one.reads
        return {table: reads[table] / days[table] / held for table, held in rows.items() if held and table in days}

    def _given(self) -> Given:
        """What the history and the schedule know that alerts are decided from."""
        now = self._clock.now()
        samples, forecasts = dict[str, list[Sample]](), dict[str, Forecast]()
        try:
            with looking():
                seen = {tier: foreseen(self.history, self._tiers[tier], tier, None, now) for tier in TIERS}
            for tier, (found, some, drives) in seen.items():
                samples[tier] = list(some)
                if found.confidence != "none":
                    full, table = found.full, None if drives is None else str(drives[0])
                    forecasts[tier] = Forecast(full.likely, full.earliest, full.latest, table)
        except TierkeeperError:
            samples, forecasts = {}, {}
        crons = self._settings.schedule.crons()
        periods = {str(name): self._period(name, now) for name in ("quota", "archive", "scrub", "drill") if name in crons}
        return Given(samples=samples, forecasts=forecasts, periods=periods, active=self._active(now), jobs=self._jobs_went(now))

    def _active(self, now: datetime) -> Mapping[str, datetime]:
        """When rows of the tiers that pause and that nobody keeps awake were last read or written."""
        wanted = {"core": self._settings.tiers.core.keep_awake, "main": self._settings.tiers.main.keep_awake}
        found = dict[str, datetime]()
        for name, tier in self._tiers.items():
            days = tier.profile.pauses_after_days
            if days is None or wanted.get(name, True):
                continue
            try:
                at = last_active(self.history.samples(name, every=True, since=now - 2 * days * _DAY))
            except TierkeeperError:
                continue
            if at is not None:
                found[str(name)] = at
        return found

    def _jobs_went(self, now: datetime) -> Mapping[str, Job] | None:
        """How the jobs that are on went; None where Main cannot say."""
        try:
            known = went.read(self.links["main"])
        except TierkeeperError:
            return None
        crons, found = self._settings.schedule.crons(), dict[str, Job]()
        for name in LATE_JOBS:
            if name in crons and (one := known.get(name)) is not None:
                newest = cron.newest(crons[name], now)
                before = cron.newest(crons[name], newest - timedelta(minutes=1))
                found[name] = Job(before, newest - before, one.since, one.ok_at, one.cause)
        return found

    def _period(self, job: str, now: datetime) -> timedelta:
        text = self._settings.schedule.crons()[job]
        following = cron.following(text, now)
        return cron.following(text, following) - following

    def _next(self, job: str, now: datetime) -> datetime:
        """When a job runs next by the schedule; of one that is off a day from now: somebody else calls it."""
        text = self._settings.schedule.crons().get(job)
        return now + _DAY if text is None else cron.following(text, now)
