"""pending -> firing -> resolved: what changes with each look, what is due to be told to whom, and what was told. Pure.

Keeps: a target hears of an alert once, until it is over or graver or a reminder is due; it never hears that something is over of
which it never heard, but that it was; what was not noted as told is due again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from tierkeeper.kernel.limits import ALERT_CALM_SECONDS, ALERT_RESOLVED_DAYS, ALERT_WAS_SECONDS
from tierkeeper.monitoring.alerts.model import Condition, Judged, Notice, Record, Severity, State, Told, Unheard
from tierkeeper.monitoring.alerts.quiet import Quiet


@dataclass(frozen=True)
class Rules:
    """When who is told: `remind` after the last word of what still rings; `urgent` notices in `quiet` hours."""

    remind: timedelta = timedelta(days=1)
    quiet: Quiet | None = None
    zone: tzinfo = UTC
    urgent: Literal["send", "hold"] = "send"

    def is_quiet(self, now: datetime) -> bool:
        return self.quiet is not None and self.quiet.holds(now, self.zone)


def firing(state: State) -> frozenset[tuple[str, str]]:
    """The keys of what rings."""
    return frozenset(r.key for r in state.records if r.phase == "firing")


def step(state: State, judged: Judged, now: datetime) -> State:
    """The state after a look. It tells nothing: `due` says what is to be told."""
    holding = {c.key: c for c in judged.conditions}
    known = {r.key: _until(now, r) for r in state.records}
    records = list[Record]()
    for key, record in known.items():
        after = _held(record, holding[key], now) if key in holding else _absent(record, judged, now)
        if after is not None:
            records.append(after)
    records += [_fired(Record(c, "pending", now, now), now) for key, c in holding.items() if key not in known]
    return replace(state, records=tuple(records))


def _until(now: datetime, record: Record) -> Record:
    """`record` without an instant that lies ahead: by a clock that was wrong it would not ring, remind or end until then."""

    def past(at: datetime | None) -> datetime | None:
        return None if at is None else min(at, now)

    return replace(
        record,
        since=min(record.since, now),
        changed_at=min(record.changed_at, now),
        fired_at=past(record.fired_at),
        clear_since=past(record.clear_since),
        resolved_at=past(record.resolved_at),
        told={target: replace(word, at=min(word.at, now)) for target, word in record.told.items()},
    )


def _fired(record: Record, now: datetime) -> Record:
    """A pending record rings once it has held for long enough."""
    if record.phase != "pending" or now - record.since < timedelta(seconds=record.condition.hold_seconds):
        return record
    return replace(record, phase="firing", fired_at=now, changed_at=now)


def _held(record: Record, condition: Condition, now: datetime) -> Record:
    changed = record.changed_at if condition.severity == record.condition.severity else now
    if record.phase == "resolved":
        told = {target: one for target, one in record.told.items() if not one.over}
        again = replace(record, condition=condition, phase="pending", since=now, changed_at=now, told=told)
        again = replace(again, returned=not _is_calm(record, now))
        return _fired(replace(again, fired_at=None, clear_since=None, resolved_at=None), now)
    return _fired(replace(record, condition=condition, clear_since=None, changed_at=changed), now)


def _absent(record: Record, judged: Judged, now: datetime) -> Record | None:
    """One whose condition was not seen. None: nobody need remember it any more."""
    if record.phase == "resolved":
        assert record.resolved_at is not None  # noqa: S101 - resolving sets it
        return record if now - record.resolved_at < timedelta(days=ALERT_RESOLVED_DAYS) else None
    if (record.condition.kind, record.condition.scope) in judged.unsaid:
        return record
    if record.phase == "pending":
        return replace(record, phase="resolved", resolved_at=now, changed_at=now) if record.told else None
    since = record.clear_since or now
    if now - since < timedelta(seconds=record.condition.clear_seconds):
        return replace(record, clear_since=since)
    return replace(record, phase="resolved", clear_since=since, resolved_at=now, changed_at=now)


def due(state: State, targets: Collection[str], now: datetime, rules: Rules) -> dict[str, list[Notice]]:
    """What each target is to be told now, the gravest first; targets that hear nothing are left out.

    In quiet hours only what is new or worse and urgent, if anything. The rest waits for their end. What was over by then, and
    never told, is told as what was: it held in both windows, so that it was no noise, and may have left its traces.
    """
    quiet = rules.is_quiet(now)
    found = {target: sorted(_due(state.records, target, now, rules), key=_order) for target in targets}
    if quiet:
        found = {t: [n for n in notices if rules.urgent == "send" and _rings(n)] for t, notices in found.items()}
    return {target: notices for target, notices in found.items() if notices}


def _rings(notice: Notice) -> bool:
    return notice.news in ("new", "worse") and notice.record.condition.severity is Severity.URGENT


def _order(notice: Notice) -> tuple[bool, int, str, str]:
    over = notice.news in ("over", "was")
    return (over, -notice.record.condition.severity, *notice.record.key)


def _due(records: Sequence[Record], target: str, now: datetime, rules: Rules) -> Iterator[Notice]:
    for record in records:
        told = record.told.get(target)
        if record.phase == "firing":
            if told is None:
                yield Notice(record, "new")
            elif told.severity < record.condition.severity:
                yield Notice(record, "worse")
            elif now - told.at >= rules.remind:
                yield Notice(record, "reminder")
        elif record.phase == "resolved" and told is not None and not told.over:
            if not record.returned or _is_calm(record, now):
                yield Notice(record, "over")
        elif record.phase == "resolved" and told is None and _is_recent(record, now):
            yield Notice(record, "was")


def _is_calm(record: Record, now: datetime) -> bool:
    """Whether it has been over for long enough that it may be taken for over."""
    return record.resolved_at is not None and now - record.resolved_at >= timedelta(seconds=ALERT_CALM_SECONDS)


def _is_recent(record: Record, now: datetime) -> bool:
    """Whether it ended so lately that it may have waited for the end of quiet hours; what is older is nobody's news."""
    return record.resolved_at is not None and now - record.resolved_at < timedelta(seconds=ALERT_WAS_SECONDS)


def delivered(state: State, target: str, notices: Sequence[Notice], now: datetime) -> State:
    """The state once a target has got a message with `notices`."""
    by_key = {n.record.key: n for n in notices}
    records = tuple(_told(r, target, by_key.get(r.key), now) for r in state.records)
    return replace(state, records=records, unheard={t: u for t, u in state.unheard.items() if t != target})


def _told(record: Record, target: str, notice: Notice | None, now: datetime) -> Record:
    if notice is None:
        return record
    told = Told(now, notice.record.condition.severity, over=notice.news in ("over", "was"))
    return replace(record, told={**record.told, target: told})


def undelivered(state: State, target: str, cause: str, now: datetime) -> State:
    """The state once a message to a target has failed for good in this turn."""
    before = state.unheard.get(target)
    return replace(state, unheard={**state.unheard, target: Unheard(before.since if before else now, now, cause)})


def merge(one: State, other: State) -> State:
    """Two memories of the same alerts, of a time when they could not be kept together: the later word on each counts."""
    records = {r.key: r for r in one.records}
    for record in other.records:
        mine = records.get(record.key)
        records[record.key] = record if mine is None else _merged(mine, record)
    claims = [c for c in (one.claim, other.claim) if c is not None]
    unheard = dict(one.unheard)
    for target, word in other.unheard.items():
        if target not in unheard or unheard[target].at < word.at:
            unheard[target] = word
    return State(tuple(records.values()), unheard, max(claims, key=lambda c: c.until, default=None))


def _merged(one: Record, other: Record) -> Record:
    later = other if other.changed_at > one.changed_at else one
    told: Mapping[str, Told] = {
        target: max((w for w in (one.told.get(target), other.told.get(target)) if w is not None), key=lambda w: w.at)
        for target in {*one.told, *other.told}
    }
    if later.phase != "resolved":
        # What was over before it came again says nothing about this time.
        begun = later.since
        told = {t: w for t, w in told.items() if not (w.over and w.at < begun)}
    return replace(later, told=told)
