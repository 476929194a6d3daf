"""What rings of the things that happen by themselves: runs that failed or did not come, damage, and what expires. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from tierkeeper.kernel.limits import EXPIRY_SERIOUS_DAYS, JOB_LATE_HOLD_SECONDS, JOB_LATE_SECONDS_MIN, RUN_GRACE_SHARE
from tierkeeper.monitoring.alerts.facts import Expiry, Facts, Fault, Job, Run
from tierkeeper.monitoring.alerts.model import Condition, Kind, Severity

_RUNS = {
    "quota": (Kind.MIGRATION_FAILED, Severity.URGENT, "the quota manager", "Run `tierkeeper quota`, and read what it says"),
    "archive": (Kind.MIGRATION_FAILED, Severity.URGENT, "the archiver", "Run `tierkeeper archive run`, and read what it says"),
    "scrub": (Kind.SCRUB_OVERDUE, Severity.WARNING, "the archive", "Run `tierkeeper archive verify`, which reads all of it"),
    "drill": (Kind.DRILL_FAILED, Severity.SERIOUS, "the restore drill", "Run `tierkeeper archive drill`, and read what it says"),
}
_JOBS = {name: remedy for name, (_, _, _, remedy) in _RUNS.items()} | {
    "checkpoint": "Read what `tierkeeper run` tells of it: the archive may have been put back to an earlier time",
}
LATE_JOBS = tuple(_JOBS)
"""The jobs that ring where they are late: what the others watch over rings itself."""
_DAMAGE = "Run `tierkeeper archive verify`, which names every damaged segment; put the objects back from a copy of the store"


def judge(conditions: list[Condition], unsaid: set[tuple[Kind, str]], facts: Facts) -> None:
    """Adds what holds, and of what nothing can be said."""
    late = set[str]()
    for name, (kind, severity, _, _) in _RUNS.items():
        run = facts.runs.get(name)
        if run is None:
            unsaid.add((kind, name))
            continue
        conditions += [_failed(name, kind, severity, fault) for fault in run.faults]
        conditions += (by_run := list(_late(name, run, facts.at)))
        late |= {name} if by_run else set()
    if facts.jobs is None:
        unsaid.add((Kind.JOB_LATE, "jobs"))
    conditions += [c for name, job in (facts.jobs or {}).items() if name not in late for c in _missed(name, job, facts.at)]
    if facts.damage is None:
        unsaid.add((Kind.DAMAGED, "archive"))
    for fault in facts.damage or ():
        what = f"the archive is damaged: {fault.place}"
        conditions.append(
            Condition(Kind.DAMAGED, fault.place, "archive", Severity.SERIOUS, what, fault.cause, fault.remedy or _DAMAGE)
        )
    for scope, expiries in (("expiries", facts.expiries), ("home server", facts.served)):
        if expiries is None:
            unsaid.add((Kind.EXPIRING, scope))
        conditions += [c for expiry in expiries or () for c in _expiring(expiry, scope, facts.at)]


def _failed(name: str, kind: Kind, severity: Severity, fault: Fault) -> Condition:
    what = "the restore drill failed" if kind is Kind.DRILL_FAILED else f"moving {fault.place} failed"
    remedy = f"{fault.remedy}; then {_again(name)}" if fault.remedy else _RUNS[name][3]
    return Condition(kind, f"{name}: {fault.place}", name, severity, what, fault.cause, remedy)


def _again(name: str) -> str:
    return "`tierkeeper archive drill`" if name == "drill" else f"`tierkeeper {'quota' if name == 'quota' else 'archive run'}`"


def _late(name: str, run: Run, at: datetime) -> Iterator[Condition]:
    """A run that did not come, or did not go well, within its period and half of it again: an ordinary delay does not ring."""
    kind, _, who, remedy = _RUNS[name]
    last = run.ok_at or run.since
    if last is None or at - last <= max(run.period * (1 + RUN_GRACE_SHARE), timedelta(seconds=JOB_LATE_SECONDS_MIN)):
        return
    days, period_days = (at - last) / timedelta(days=1), run.period / timedelta(days=1)
    if kind is Kind.SCRUB_OVERDUE:
        what = "a part of the archive was not read for too long"
        cause = f"some of it was last read whole {days:.0f} days ago, and all of it is to be read every {_every(period_days)}"
    else:
        what = f"{who} is late"
        when = f"it last went well {days:.1f} days ago" if run.ok_at is not None else f"it never went well in {days:.1f} days"
        cause = f"{when}, and should every {_every(period_days)}"
    yield Condition(
        kind,
        f"{name}: late",
        name,
        Severity.WARNING,
        what,
        cause,
        run.remedy or remedy,
        {"days": round(days, 2)},
        hold_seconds=JOB_LATE_HOLD_SECONDS,
    )


def _missed(name: str, job: Job, at: datetime) -> Iterator[Condition]:
    """A job that has not gone well for two of its due times, whatever else is known of its work."""
    last = job.ok_at or job.since
    if last >= job.due_at or (at - last).total_seconds() < JOB_LATE_SECONDS_MIN:
        return
    days = (at - last) / timedelta(days=1)
    when = f"it last went well {days:.1f} days ago" if job.ok_at is not None else f"it never went well in {days:.1f} days"
    why = f"; the last try: {job.cause}" if job.cause else "; no try since then has come to its end"
    elsewhere = f'If it is run elsewhere, write {name} = "off" under [schedule]'
    yield Condition(
        Kind.JOB_LATE,
        name,
        "jobs",
        Severity.WARNING,
        f"the job {name} is late",
        f"{when}, and is due every {_every(job.period / timedelta(days=1))}{why}",
        f"Look that `tierkeeper run` runs. {_JOBS[name]}. {elsewhere}",
        {"days": round(days, 2)},
        hold_seconds=JOB_LATE_HOLD_SECONDS,
    )


def _every(days: float) -> str:
    minutes = round(days * 24 * 60)
    if minutes < 120:  # noqa: PLR2004 - fewer than two hours
        return "hour" if minutes == 60 else f"{minutes} minutes" if minutes > 1 else "minute"  # noqa: PLR2004
    return "day" if days == 1 else f"{days:.0f} days" if days > 1 else f"{days * 24:.0f} hours"


def _expiring(expiry: Expiry, scope: str, at: datetime) -> Iterator[Condition]:
    left = expiry.at - at
    if left > expiry.notice:
        return
    days = left / timedelta(days=1)
    over = left <= timedelta()
    # By its date: once nobody can ask any more, it is told as it was seen last.
    what = f"{expiry.what} has expired" if over else f"{expiry.what} expires on {expiry.at:%Y-%m-%d}"
    severity = Severity.SERIOUS if days <= EXPIRY_SERIOUS_DAYS else Severity.WARNING
    cause = f"it is valid until {expiry.at:%Y-%m-%d %H:%M} UTC, and nothing is read or written through it after that"
    yield Condition(
        Kind.EXPIRING, expiry.what, scope, severity, what, cause, expiry.remedy, {"valid_until": expiry.at.isoformat()}
    )
