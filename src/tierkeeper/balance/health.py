"""Whether one backend takes traffic, from the answers to its checks and from what traffic met there. Pure: instants are given.

A backend falls by `fall` failed checks in a row or by what traffic meets, and is in again after `rise` good ones. One that falls
again and again is let in later each time, so that its comings and goings do not become the clients'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final

from tierkeeper.balance.model import Counters
from tierkeeper.balance.pools import Ask

EVIDENCE_SECONDS: Final = 1.0  # what traffic met this long ago still counts: short, since a sick backend is to be shed at once
EVIDENCE_REQUESTS: Final = 10  # fewer in that time say too little of a share
EVIDENCE_SHARE: Final = 0.5  # of them failed: weights deal with less, and a backend that serves half is of use to nobody
EVIDENCE_BETTER: Final = 0.5  # of its error share is the most that another may have: where all fail, the cause lies elsewhere
REFUSED: Final = 3  # connections in that time, with none made: nobody listens there
FLAP_SECONDS: Final = 300.0  # falls within this time are counted together
HOLD_SECONDS: Final = 2.0  # a second fall keeps it out at least so long, each further one double that
HOLD_MOST_SECONDS: Final = 60.0  # and never longer: what is well must not stay out for its past
DOUBT_SECONDS: Final = 0.25  # between two checks of one in doubt: two of them find a fall in half a second
DOUBT_KEPT_SECONDS: Final = 5.0  # after the last sign that something is wrong
DEAD_SECONDS: Final = 30.0  # one that is out for longer is asked less and less often
DEAD_DOUBLES_SECONDS: Final = 15.0  # in which the time between two checks of it doubles, up to the interval


class Standing(StrEnum):
    """Where a backend stands."""

    UNKNOWN = "unknown"
    IN = "in"
    OUT = "out"


@dataclass(frozen=True)
class Answer:
    """What came of one check. `why` is for a person; `seconds` how long it took."""

    ok: bool
    why: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What traffic met at a backend within EVIDENCE_SECONDS."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    ejected: bool = False

    @property
    def share(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    @property
    def tells(self) -> bool:
        """Whether there are enough requests for their share of errors to mean something."""
        return self.requests >= EVIDENCE_REQUESTS

    @property
    def is_doubtful(self) -> bool:
        return bool(self.errors or self.refused or self.ejected)


@dataclass(frozen=True)
class Health:
    """A backend's standing. `since` is when that began, `falls` those within FLAP_SECONDS; instants are monotonic seconds."""

    standing: Standing = Standing.UNKNOWN
    why: str = "it was not asked yet"
    since: float = 0.0
    fails: int = 0
    wells: int = 0
    falls: tuple[float, ...] = ()
    held_until: float = 0.0
    doubted_at: float | None = None
    seconds: float | None = None

    @property
    def is_out(self) -> bool:
        return self.standing is Standing.OUT


def seen(readings: Sequence[tuple[float, Counters]]) -> Evidence:
    """Of counts of one backend, oldest first. A data plane that was restarted counts from nothing again."""
    if not readings:
        return Evidence()
    requests = errors = refused = 0
    for (_, before), (_, after) in pairwise(readings):
        base = Counters() if after.requests < before.requests or after.refused < before.refused else before
        requests += after.requests - base.requests
        errors += max(0, after.errors - base.errors)
        refused += after.refused - base.refused
    return Evidence(requests, min(errors, requests), refused, readings[-1][1].ejected)


def after_answer(health: Health, answer: Answer, now: float, ask: Ask) -> Health:
    """The standing after one check."""
    return _after_well(health, answer, now, ask) if answer.ok else _after_failed(health, answer, now, ask)


def _after_failed(health: Health, answer: Answer, now: float, ask: Ask) -> Health:
    failed = replace(health, fails=health.fails + 1, wells=0, doubted_at=now)
    if health.standing is Standing.UNKNOWN:
        return replace(failed, standing=Standing.OUT, why=answer.why, since=now)
    if health.is_out:
        return replace(failed, why=answer.why)
    return _fallen(failed, answer.why, now) if failed.fails >= ask.fall else failed


def _after_well(health: Health, answer: Answer, now: float, ask: Ask) -> Health:
    well = replace(health, fails=0, wells=health.wells + 1, seconds=answer.seconds)
    if health.standing is Standing.UNKNOWN:
        return replace(well, standing=Standing.IN, why=answer.why, since=now)
    if health.standing is Standing.IN:
        return replace(well, why=answer.why)
    if well.wells < ask.rise:
        return replace(well, why=f"{well.wells} of {ask.rise} checks in a row went well")
    if now < health.held_until:
        return replace(well, why=f"it is well again; after {len(health.falls)} falls in {FLAP_SECONDS / 60:.0f} minutes it waits")
    return replace(well, standing=Standing.IN, why=answer.why, since=now, doubted_at=now)


def after_evidence(health: Health, evidence: Evidence, others: Sequence[Evidence], now: float) -> Health:
    """The standing after a look at what traffic met, beside what it met at the other backends that are in."""
    if health.standing is not Standing.IN:
        return health
    doubted = replace(health, doubted_at=now) if evidence.is_doubtful else health
    reason = against(evidence, others)
    if reason is None:
        return doubted
    fallen = _fallen(doubted, reason, now)
    return replace(fallen, held_until=max(fallen.held_until, now + HOLD_SECONDS))  # its checks may go well all the while


def against(evidence: Evidence, others: Sequence[Evidence]) -> str | None:
    """Why what traffic met is reason enough to take a backend out; None where it is not."""
    if evidence.refused >= REFUSED and evidence.requests <= evidence.errors:
        return f"{evidence.refused} connections to it could not be made within {EVIDENCE_SECONDS:g} s"
    better = any(o.tells and o.share <= evidence.share * EVIDENCE_BETTER for o in others)
    if evidence.tells and evidence.share >= EVIDENCE_SHARE and better:
        return f"{evidence.errors} of {evidence.requests} requests to it failed within {EVIDENCE_SECONDS:g} s"
    return None


def pace_seconds(health: Health, now: float, interval_seconds: float, *, urgent: bool = False) -> float:
    """The time between two checks. `urgent`: more depends on it than its own traffic, such as who takes writes."""
    soon = min(DOUBT_SECONDS, interval_seconds)
    if urgent or health.standing is Standing.UNKNOWN:
        return soon
    if health.is_out:
        if health.wells:
            return soon  # it comes back
        dead = min(30 * DEAD_DOUBLES_SECONDS, max(0.0, now - health.since - DEAD_SECONDS))
        return float(min(interval_seconds, soon * 2 ** (dead / DEAD_DOUBLES_SECONDS)))
    in_doubt = health.fails or (health.doubted_at is not None and now - health.doubted_at < DOUBT_KEPT_SECONDS)
    return soon if in_doubt else interval_seconds


def _fallen(health: Health, why: str, now: float) -> Health:
    falls = (*(f for f in health.falls if now - f < FLAP_SECONDS), now)
    held = 0.0 if len(falls) == 1 else min(HOLD_MOST_SECONDS, HOLD_SECONDS * 2.0 ** (len(falls) - 2))
    return replace(health, standing=Standing.OUT, why=why, since=now, wells=0, falls=falls, held_until=now + held, doubted_at=now)
