"""A keeper: everything a user can ask for, on the configured tiers."""

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, cast

from tierkeeper.compose import board
from tierkeeper.compose.alerting import Alerting
from tierkeeper.compose.facts import Given
from tierkeeper.compose.stores import lifetimes, store_fault, store_report
from tierkeeper.compose.watching import WatchingKeeper
from tierkeeper.kernel.errors import Faults, UsageError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.results import (
    AlertStatusResult,
    AlertTestResult,
    AlertTurnResult,
    AwakeResult,
    BoardResult,
    CheckResult,
    HealthItem,
    MovePlan,
    MoveResult,
    QuotaResult,
    StatusResult,
)
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring import egress
from tierkeeper.monitoring.alerts.facts import Facts
from tierkeeper.mover.request import Request
from tierkeeper.mover.service import MoveService
from tierkeeper.postgres.keeping import looking, sharing
from tierkeeper.quotas.early import Ahead
from tierkeeper.quotas.runner import QuotaManager, Thresholds
from tierkeeper.setup import checks, status
from tierkeeper.tiers.tier import Tier as TierFacts

if TYPE_CHECKING:
    import pyarrow as pa


class Keeper(WatchingKeeper):
    """Everything a user can ask for, on the configured tiers. Each call opens what it needs and closes it again or soon after."""

    def check(self) -> CheckResult:
        """Looks at everything. Raises Faults, all at once, each with its remedy."""
        with self._hints.asking_anew():
            report = checks.check(
                cast("dict[str, TierFacts]", self._tiers), self._policies, self._probe_store, self.archive.rows_by_table
            )
        from tierkeeper.compose.balancing import faults

        wrong, worth = self._alerting.faults()
        wrong += faults(self._settings.balance)
        try:
            worth += [] if self._key_present else ["the archive has no key yet: setup --apply makes one"]
        except UsageError as error:
            wrong.append(error)
        if report.errors or wrong:
            raise Faults([*report.errors, *wrong])
        return CheckResult(ok=True, checks=report.checks, notes=[*report.notes, *worth])

    def status(self) -> StatusResult:
        """Tiers and tables as they are; a tier that is away is a line of it."""
        found = self._with_status(self._asked_status())
        undelivered = self._alerting.undelivered()
        return found.model_copy(update={"undelivered": undelivered}) if undelivered else found

    def _asked_status(self) -> StatusResult:
        """Without what is to come and what it costs."""
        today = self._clock.now().date()
        with self._hints.asking_anew():
            return status.status(
                cast("dict[str, TierFacts]", self._tiers),
                self._policies,
                store_bytes=self._store_bytes,
                store_fault=lambda: store_fault(self._store),
                archive_rows=self.archive.rows_by_table,
                archive_reading=self.archive.reading,
                start_at=self._settings.quotas.start_at,
                egress=lambda mains, tier: self.history.own_egress(mains, tier, today),
                month=today.replace(day=1),
            )

    def board(self) -> BoardResult:
        """What `status` says, what moved, what is due and what the audit has, for a page; what it cost in egress is counted."""
        asked = board.Looks(
            status=self.status,
            alerts=self.alert_status,
            links={str(name): link for name, link in self.links.items()},
            policies=self._policies,
            crons=self._settings.schedule.crons(),
            clock=self._clock,
        )
        found = board.look(asked)
        sent = [(self.links[name].received.so_far, tier.profile.egress_bytes_per_month) for name, tier in self._tiers.items()]
        if found.audit is not None:  # else Main is away, and would be waited for once more
            self.count_egress()
        return found.model_copy(update={"fresh_seconds": egress.fresh_seconds(sent)})

    def health(self) -> list[HealthItem]:
        """The tiers and the store, asked once."""
        found = self._asked_status().tiers
        return [HealthItem(name=n, healthy=t.healthy, cause=t.cause, remedy=t.remedy) for n, t in found.items()]

    def quota(self, dry_run: bool = False, *, allow_rewrite: bool = False) -> QuotaResult:
        """The quota manager's run. Raises UsageError, before anything moves, where the tiers are not who they should be.

        `allow_rewrite` (else `[quotas] allow_rewrite`): VACUUM FULL may lock a table, and scratch space may exceed the quota.
        """
        with sharing("quota"):
            self._set_up((), frozenset(("core", "main")), apply=not dry_run)
            return self._with_quota(self.quota_manager(allow_rewrite=allow_rewrite).run(dry_run=dry_run))

    def quota_if_pressed(self) -> QuotaResult | None:
        """A run of the quota manager before its time, where a tier cannot wait for it; None where all can."""
        with sharing("quota"):
            manager = self.quota_manager()
            pressed, lacks = self._pressed(manager)
            if lacks:
                self._set_up((), frozenset(("core", "main")), apply=True)
                pressed, _ = self._pressed(manager)
            return self._with_quota(manager.run(dry_run=False)) if pressed is not None else None

    def _pressed(self, manager: QuotaManager) -> tuple[str | None, bool]:
        """Why a run should not wait; or whether Core and Main lack what it needs, and it is not known yet.

        It is asked a hundred times a day, and mostly in vain.
        """
        with looking(p.name for p in self._policies):
            lacks = bool(self._set_up((), frozenset(("core", "main")), apply=False).steps)
            return None if lacks else manager.pressed(self._in_vain()), lacks

    def quota_manager(self, *, allow_rewrite: bool = False, ahead: Callable[[Tier], Ahead] | None = None) -> QuotaManager:
        """`ahead` says what is to come in a tier; left out, its history does."""
        quotas = self._settings.quotas
        may_rewrite = allow_rewrite or quotas.allow_rewrite
        rest_seconds = self._bounds.longest_reader_seconds
        return QuotaManager(
            self._tiers,
            self._policies,
            _Moves(self._mover),
            store=self._store_room(),
            ahead=ahead or self._ahead,
            thresholds=Thresholds(quotas.start_at, quotas.stop_at, rest_seconds, may_rewrite=may_rewrite),
            audit=self._audit,
            clock=self._clock,
            stop=self._stop,
        )

    def alerts(self, facts: Facts | None = None, *, given: Given | None = None) -> AlertTurnResult:
        """One look at the tiers, or at `facts`: what needs a person is remembered, and told to whom it is due."""
        with sharing("alerts"):
            return self._alerting.turn(facts, given or (self._given() if facts is None else Given()))

    def alert_test(self) -> AlertTestResult:
        """Sends a message to each target of `[alerts] notify`. Raises UsageError where there is none, or one is no address."""
        return self._alerting.test()

    def alert_status(self) -> AlertStatusResult:
        """What fires, since when, and who was told; from this machine's memory where Main is away."""
        return self._alerting.show()

    def keep_awake(self, *, force: bool = False) -> AwakeResult:
        """Reads a row in each tier whose provider pauses quiet projects, where the last read is a day old or `force`."""
        with sharing("keep awake"):
            return self._alerting.keep_awake(force=force)

    @cached_property
    def _alerting(self) -> Alerting:
        return Alerting(
            self._settings,
            {str(name): tier for name, tier in self._tiers.items()},
            self._audit,
            self._clock,
            self._state_dir,
            self._asked_status,
            lambda: store_report(self._store),
            lambda: lifetimes(self._store),
        )

    def query(self, sql: str) -> "pa.Table":
        """The answer over every tier, each row once (I2)."""
        from tierkeeper.query.runner import FastDoor

        door = FastDoor(
            self.links["core"],
            self.links["main"],
            self.links["archive"],
            self._policies,
            timeout_seconds=self._bounds.longest_reader_seconds,
            archive=self.archive.scan(),
            asked=self._asked,
        )
        return door.query(sql)

    def _probe_store(self) -> str:
        self._store_bytes()
        return self.archive.probe()


class _Moves:
    """The mover as the quota manager's port."""

    def __init__(self, service: MoveService) -> None:
        self._service = service

    def move(
        self, table: TableName, source: Tier, destination: Tier, *, before: datetime | None = None, limit: int | None = None
    ) -> MoveResult:
        return self._service.move(Request(table, source, destination, before, limit=limit, as_room_allows=True))

    def plan(self, table: TableName, source: Tier, destination: Tier) -> MovePlan:
        return self._service.plan(Request(table, source, destination, as_room_allows=True))


def silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


def never() -> str | None:
    """A run that nothing asks to end."""
    return None
