"""Alerts and the reads that keep projects awake, wired for a keeper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tierkeeper.compose.facts import Given, Sources, gather
from tierkeeper.config import Settings
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.kernel.ports import Audit
from tierkeeper.kernel.results import (
    AlertResult,
    AlertStatusResult,
    AlertTargetResult,
    AlertTestResult,
    AlertTurnResult,
    AwakeResult,
    AwakeTier,
    StatusResult,
    StoreReport,
    told,
)
from tierkeeper.monitoring import shown
from tierkeeper.monitoring.alerts import messages, sending
from tierkeeper.monitoring.alerts.facts import Facts
from tierkeeper.monitoring.alerts.form import AlertForm
from tierkeeper.monitoring.alerts.model import Record, State
from tierkeeper.monitoring.alerts.sending import AppriseSender, Delivery, Sender, Target
from tierkeeper.monitoring.alerts.service import Alerts
from tierkeeper.monitoring.awake import Awake, AwakeForm, Reads, keep_awake
from tierkeeper.monitoring.memory import Kept, Memory
from tierkeeper.monitoring.shown import ByTier, ShownForm
from tierkeeper.objectstore.enrolment import Lifetime
from tierkeeper.tiers.tier import Tier

_NOBODY = 'Write notify = ["env:ALERT_URL"] under [alerts], with an Apprise URL in ALERT_URL'


@dataclass(frozen=True)
class Alerting:
    """What `tierkeeper alert` asks for. `folder`: where this machine remembers; None where its disk does not last."""

    settings: Settings
    tiers: Mapping[str, Tier]
    audit: Audit
    clock: Clock
    folder: Path | None
    status: Callable[[], StatusResult]
    report: Callable[[], StoreReport | None]
    lifetimes: Callable[[], Sequence[Lifetime]]
    sender: Sender = field(default_factory=AppriseSender)

    @cached_property
    def _memory(self) -> Memory[State]:
        return Memory(self.tiers["main"].link, self.folder, AlertForm())

    @cached_property
    def _reads(self) -> Memory[Reads]:
        return Memory(self.tiers["main"].link, self.folder, AwakeForm())

    @cached_property
    def _targets(self) -> tuple[Target, ...]:
        return self.settings.alerts.targets()

    @cached_property
    def _certificates(self) -> Memory[ByTier]:
        return Memory(self.tiers["main"].link, self.folder, ShownForm())

    def faults(self) -> tuple[list[TierkeeperError], list[str]]:
        """What is wrong with `[alerts] notify`, and what is worth knowing of it. No target is reached."""
        return sending.look(self._targets)

    def test(self) -> AlertTestResult:
        """Sends a message to each target. Raises UsageError where there is none, or one that is no address; sends none then."""
        if not self._targets:
            raise UsageError("alerts.notify", "nobody is to be told", _NOBODY)
        deliveries = AppriseSender().test(dict.fromkeys(self._targets, messages.TEST))
        return AlertTestResult(ok=all(d.ok for d in deliveries), targets=_delivered(deliveries))

    def turn(self, facts: Facts | None, given: Given) -> AlertTurnResult:
        """One look at `facts`, else at what is gathered now; what is due is told."""
        unseen: list[str] = []
        if facts is None:
            facts, unseen = self.facts(given)
        alerts = Alerts(
            self._targets,
            self.settings.alerts.rules(),
            self.settings.quotas.start_at,
            self._memory,
            self.sender,
            self.audit,
            self.clock,
        )
        turn = alerts.turn(facts)
        phases = [r.phase for r in turn.kept.document.records]
        lines = {f"{n.news}: {n.record.condition.what}": None for notices in turn.told.values() for n in notices}
        return AlertTurnResult(
            ok=all(d.ok for d in turn.deliveries),
            firing=phases.count("firing"),
            pending=phases.count("pending"),
            told=list(lines),
            targets=_delivered(turn.deliveries),
            waits=turn.waits,
            kept=turn.kept.where,
            unseen=unseen,
        )

    def facts(self, given: Given) -> tuple[Facts, list[str]]:
        """What is so now, as far as it can be had, and what could not be."""
        kept, now = self._known_reads() if self._awake else {}, self.clock.now()
        reads = {tier: kept[tier] for tier in self._awake if tier in kept}
        return gather(
            Sources(
                now,
                self.tiers,
                self.status,
                self.report,
                self.lifetimes,
                reads,
                lambda links, live: shown.look(links, live, self._certificates, now),
            ),
            given,
        )

    def show(self) -> AlertStatusResult:
        """What fires, since when, and who was told."""
        kept, now = self._memory.load(), self.clock.now()
        records = sorted(kept.document.records, key=lambda r: (-r.condition.severity, r.since, r.key))
        notes = [] if kept.away is None else [f"{kept.away.place}: {kept.away.cause}; this is what this machine remembers"]
        if not self._targets:
            notes.append(f"nobody is told: {_NOBODY}")
        return AlertStatusResult(
            alerts=[self._shown(r) for r in records if r.phase != "resolved"],
            resolved=[self._shown(r) for r in records if r.phase == "resolved"],
            targets=[t.name for t in self._targets],
            undelivered=self._undelivered(kept),
            quiet=self.settings.alerts.rules().is_quiet(now),
            kept=kept.where,
            notes=notes,
        )

    def undelivered(self) -> dict[str, str]:
        """Targets that did not get the last message to them, and why. Asks nobody where none is configured."""
        return self._undelivered(self._memory.load()) if self._targets else {}

    def keep_awake(self, *, force: bool) -> AwakeResult:
        """Reads a row in each tier whose profile pauses, where it is due."""
        links = {tier: self.tiers[tier].link for tier in self._awake}
        preferred = [p.name for p in self.settings.policies()]
        now = self.clock.now()
        reads, errors = keep_awake(links, preferred, self._reads, now, force=force) if links else ({}, {})
        shown = {tier: _awake(self.tiers[tier], reads.get(tier), is_new=_is_at(reads.get(tier), now)) for tier in links}
        return AwakeResult(ok=not errors, tiers=shown, errors=told(errors.values()))

    @property
    def _awake(self) -> list[str]:
        """The tiers that are kept awake."""
        wanted = {"core": self.settings.tiers.core.keep_awake, "main": self.settings.tiers.main.keep_awake}
        return [t for t, tier in self.tiers.items() if wanted.get(t) and tier.profile.pauses_after_days is not None]

    def _known_reads(self) -> Reads:
        return self._reads.load().document

    def _undelivered(self, kept: Kept[State]) -> dict[str, str]:
        names = {t.id: t.name for t in self._targets}
        return {
            names[target]: f"{word.cause} (since {word.since:%Y-%m-%d %H:%M} UTC)"
            for target, word in kept.document.unheard.items()
            if target in names
        }

    def _shown(self, record: Record) -> AlertResult:
        names, condition = {t.id: t.name for t in self._targets}, record.condition
        return AlertResult(
            kind=condition.kind.value,
            subject=condition.subject,
            severity=condition.severity.word,
            state=record.phase,
            what=condition.what,
            cause=condition.cause,
            remedy=condition.remedy,
            figures=dict(condition.figures),
            since=record.since,
            resolved_at=record.resolved_at,
            told={names[target]: word.at for target, word in record.told.items() if target in names},
        )


def _delivered(deliveries: Sequence[Delivery]) -> list[AlertTargetResult]:
    return [AlertTargetResult(target=d.target.name, ok=d.ok, tries=d.tries, cause=d.cause) for d in deliveries]


def _is_at(read: Awake | None, now: object) -> bool:
    return read is not None and read.ok_at == now


def _awake(tier: Tier, read: Awake | None, *, is_new: bool) -> AwakeTier:
    return AwakeTier(
        pauses_after_days=tier.profile.pauses_after_days or 0,
        read=is_new,
        table=read.table if read else None,
        read_at=read.ok_at if read else None,
        cause=read.cause if read else None,
    )
