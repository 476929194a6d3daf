"""Facts in, conditions out. Pure: which facts ring, how gravely, in which words, and what to do now."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

from tierkeeper.kernel import limits
from tierkeeper.kernel.units import format_bytes
from tierkeeper.monitoring.alerts import running
from tierkeeper.monitoring.alerts.facts import Facts, TierFacts
from tierkeeper.monitoring.alerts.levels import Level, Windows, holds
from tierkeeper.monitoring.alerts.model import Condition, Judged, Kind, Severity
from tierkeeper.monitoring.alerts.once import told_once
from tierkeeper.monitoring.model import Slot
from tierkeeper.tiers.usage import WRITABLE_AGAIN

_NEAR = Windows(limits.ALERT_SHORT_SECONDS, limits.ALERT_LONG_SECONDS)
_FULL = Windows(limits.BREACH_SHORT_SECONDS, limits.BREACH_LONG_SECONDS)
_OF_SIZE = (Kind.APPROACHING, Kind.BREACHED, Kind.FORECAST)
_OF_A_TIER = (*_OF_SIZE, Kind.READ_ONLY, Kind.SLOT)
_ROOM = {
    "core": "Run `tierkeeper quota`: rows that are old enough leave for Main; `tierkeeper quota --dry-run` shows what would",
    "main": "Run `tierkeeper quota`: rows that are old enough leave for the archive; or raise quota under [tiers.main]",
    "archive": "Nothing is deleted there to make room: give the store space and raise quota under [tiers.archive], or let"
    " `tierkeeper archive run` remove what archive = … under [[tables]] no longer asks for",
}


@dataclass
class _Found:
    """What is being collected for a `Judged`."""

    conditions: list[Condition] = field(default_factory=list)
    unsaid: set[tuple[Kind, str]] = field(default_factory=set)


def judge(facts: Facts, start_at: float, firing: Collection[tuple[str, str]] = ()) -> Judged:
    """What holds now. `start_at`: the share of a quota at which it is near; `firing`: keys of what rings already.

    A graver condition covers those that follow from it: of a tier that is over its quota nobody is told that it comes near it.
    """
    found = _Found()
    for tier in facts.tiers:
        _judge_tier(found, facts, tier, start_at, firing)
    running.judge(found.conditions, found.unsaid, facts)
    conditions, covered = told_once(found.conditions, firing)
    return Judged(tuple(conditions), frozenset(found.unsaid | covered))


def _judge_tier(found: _Found, facts: Facts, tier: TierFacts, start_at: float, firing: Collection[tuple[str, str]]) -> None:
    if tier.away is not None:
        found.conditions.append(_away(tier))
    holding = list(_sizes(tier, facts, start_at, firing))
    kinds = {c.kind for c in holding}
    covers = {
        Kind.BREACHED: {Kind.APPROACHING, Kind.FORECAST},
        Kind.READ_ONLY: {Kind.FORECAST},
    }
    covered = set().union(*(covers.get(kind, set()) for kind in kinds))
    found.conditions += [c for c in holding if c.kind not in covered]
    found.conditions += _slots(tier)
    found.conditions += _pausing(tier, facts)
    unknown = {kind for kind in _OF_SIZE if tier.used_bytes is None}
    unknown |= {Kind.READ_ONLY} if tier.read_only is None else set()
    unknown |= {Kind.SLOT} if tier.slots is None else set()
    unknown |= {Kind.FORECAST} if tier.forecast is None else set()
    found.unsaid |= {(kind, tier.tier) for kind in unknown | covered}


def _sizes(tier: TierFacts, facts: Facts, start_at: float, firing: Collection[tuple[str, str]]) -> Iterator[Condition]:
    if tier.read_only:
        yield _read_only(tier)
    if tier.used_bytes is None:
        return
    earlier = [(s.at, s.bytes / tier.quota_bytes) for s in tier.samples if s.at < facts.at]
    level = Level([*sorted(earlier), (facts.at, tier.used_bytes / tier.quota_bytes)])

    def at_least(kind: Kind, bound: float, windows: Windows) -> bool:
        return holds(level, bound, windows, is_firing=(kind.value, tier.tier) in firing)

    shown = f"{format_bytes(tier.used_bytes)} of its quota of {format_bytes(tier.quota_bytes)} are used ({level.now:.0%})"
    figures = {"used_bytes": tier.used_bytes, "quota_bytes": tier.quota_bytes, "share": round(level.now, 4)}
    if at_least(Kind.BREACHED, 1.0, _FULL):
        what = f"{tier.tier} is over its quota"
        yield _of(tier, Kind.BREACHED, Severity.URGENT, what=what, cause=shown, remedy=_ROOM[tier.tier], figures=figures)
    if at_least(Kind.APPROACHING, start_at, _NEAR):
        what, cause = f"{tier.tier} comes near its quota", f"{shown}, and {start_at:.0%} is where it should end"
        yield _of(tier, Kind.APPROACHING, Severity.WARNING, what=what, cause=cause, remedy=_ROOM[tier.tier], figures=figures)
    if not tier.read_only:
        yield from _forecast(tier, facts, level, shown, figures)


def _forecast(
    tier: TierFacts, facts: Facts, level: Level, shown: str, figures: Mapping[str, float | int | str]
) -> Iterator[Condition]:
    """Low space, and a forecast, and not read-only already, as node-mixin asks."""
    forecast = tier.forecast
    if forecast is None or forecast.full_at is None or level.now < limits.FORECAST_LOW_SHARE:
        return
    left = forecast.full_at - facts.at
    if left > timedelta(days=limits.FORECAST_DAYS):
        return
    ends = [f"{at:%Y-%m-%d}" if at is not None else "never" for at in (forecast.earliest, forecast.latest)]
    between = f" (between {ends[0]} and {ends[1]})" if forecast.earliest is not None or forecast.latest is not None else ""
    drives = f"; {forecast.table} grows most" if forecast.table else ""
    serious = left <= timedelta(days=limits.FORECAST_SERIOUS_DAYS)
    yield _of(
        tier,
        Kind.FORECAST,
        Severity.SERIOUS if serious else Severity.WARNING,
        what=f"{tier.tier} will be full in {_span(left)}",
        cause=f"{shown}, and at this pace it is full on {forecast.full_at:%Y-%m-%d %H:%M} UTC{between}{drives}",
        remedy=_ROOM[tier.tier],
        figures={**figures, "full_at": forecast.full_at.isoformat()},
        hold_seconds=limits.FORECAST_HOLD_SECONDS,
    )


def _read_only(tier: TierFacts) -> Condition:
    used = "" if tier.used_bytes is None else f"; {format_bytes(tier.used_bytes)} of {format_bytes(tier.quota_bytes)} are used"
    make_room = "Run `tierkeeper quota`, which takes rows out all the same" if tier.tier == "core" else "Make room there"
    remedy = f"{make_room}, or raise its quota; then, there: {WRITABLE_AGAIN}"
    what, cause = f"{tier.tier} is read-only", f"new sessions there may not write (default_transaction_read_only is on){used}"
    return _of(tier, Kind.READ_ONLY, Severity.URGENT, what=what, cause=cause, remedy=remedy)


def _away(tier: TierFacts) -> Condition:
    assert tier.away is not None  # noqa: S101 - whoever calls has looked
    return _of(
        tier,
        Kind.AWAY,
        Severity.SERIOUS,
        what=f"{tier.tier} does not answer",
        cause=tier.away.cause,
        remedy=f"{tier.away.remedy}; then `tierkeeper check`",
        hold_seconds=limits.AWAY_HOLD_SECONDS,
        clear_seconds=limits.AWAY_HOLD_SECONDS,
    )


def _slots(tier: TierFacts) -> Iterator[Condition]:
    for slot in tier.slots or ():
        kept_bytes = slot.pinned_wal_bytes or 0
        if kept_bytes >= max(limits.SLOT_WAL_BYTES, limits.SLOT_WAL_SHARE * tier.quota_bytes):
            yield _slot(tier, slot, kept_bytes)


def _slot(tier: TierFacts, slot: Slot, kept_bytes: int) -> Condition:
    read = "somebody is connected to it, and behind" if slot.active else "nobody reads it"
    remedy = (
        f"Have its subscriber catch up; if nobody needs it, in {tier.tier}: SELECT pg_drop_replication_slot({_quoted(slot.name)})"
    )
    serious = kept_bytes >= limits.SLOT_SERIOUS_SHARE * tier.quota_bytes
    return Condition(
        Kind.SLOT,
        f"{tier.tier}/{slot.name}",
        tier.tier,
        Severity.SERIOUS if serious else Severity.WARNING,
        f"replication slot {slot.name} in {tier.tier} keeps {format_bytes(kept_bytes)} of log",
        f"{read}, so that the server may not remove its log: that fills the disk beside a database of"
        f" {format_bytes(tier.used_bytes or 0)}, and no quota shows it",
        remedy,
        {"wal_bytes": kept_bytes},
        hold_seconds=limits.SLOT_HOLD_SECONDS,
        clear_seconds=limits.SLOT_HOLD_SECONDS,
    )


def _pausing(tier: TierFacts, facts: Facts) -> Iterator[Condition]:
    if tier.pauses_after_days is None or tier.read_at is None:
        return
    left = tier.read_at + timedelta(days=tier.pauses_after_days) - facts.at
    if left > timedelta(days=limits.PAUSE_DAYS_LEFT):
        return
    quiet_days = (facts.at - tier.read_at) / timedelta(days=1)
    serious = left <= timedelta(days=limits.PAUSE_SERIOUS_DAYS_LEFT)
    why = f"; the last try: {tier.read_cause}" if tier.read_cause else ""
    nobody = "no read came through" if tier.kept_awake else "no row there was read or written, as far as the history goes,"
    is_about_to = left > timedelta() or tier.away is None  # whoever answers is awake still
    yield _of(
        tier,
        Kind.PAUSING,
        Severity.SERIOUS if serious else Severity.WARNING,
        what=f"the project of {tier.tier} is about to be paused" if is_about_to else f"{tier.tier} may be paused by now",
        cause=f"{nobody} for {quiet_days:.1f} days, and its provider pauses it after {tier.pauses_after_days}{why}",
        remedy=_awaken(tier),
        figures={"quiet_days": round(quiet_days, 2)},
        hold_seconds=limits.JOB_LATE_HOLD_SECONDS,
    )


def _awaken(tier: TierFacts) -> str:
    if tier.away is not None:
        return "Run `tierkeeper status`; if the tier is away, restore the project in the provider's dashboard"
    if tier.kept_awake:
        return (
            "Read a row of any table there; look that `tierkeeper run` runs, which does it daily, and what it tells of keep_awake"
        )
    return f"Read a row of any table there; take keep_awake = false under [tiers.{tier.tier}] out, and `tierkeeper run` does it"


def _of(
    tier: TierFacts,
    kind: Kind,
    severity: Severity,
    *,
    what: str,
    cause: str,
    remedy: str,
    figures: Mapping[str, float | int | str] = MappingProxyType({}),
    hold_seconds: float = 0,
    clear_seconds: float = 0,
) -> Condition:
    return Condition(kind, tier.tier, tier.tier, severity, what, cause, remedy, dict(figures), hold_seconds, clear_seconds)


def _span(left: timedelta) -> str:
    """ "2.5 days", "7 hours", "less than an hour"."""
    hours = left / timedelta(hours=1)
    if hours >= 48:  # noqa: PLR2004
        return f"{hours / 24:.1f} days"
    return f"{hours:.0f} hours" if hours >= 1 else "less than an hour"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
