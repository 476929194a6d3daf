"""How `adaptive` weighs backends: from what was seen of them, ten times a second or so. Pure: it reads no clock.

A backend is well, shed or coming back. One that is far slower than its peers, fails more often than they do or has stopped to
answer is shed to a trickle; the trickle goes on for ever, and once what it shows is well again, the share doubles at each look
until it is fair. Between well and shed there is a moderate grade for hardware that is merely slower.

All arithmetic is +, -, *, / and square roots, which IEEE 754 fixes to the bit: the same inputs give the same weights anywhere.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tierkeeper.balance.evidence import (
    DISTANT,
    Average,
    Cause,
    Inputs,
    Known,
    Phase,
    Seen,
    State,
    inputs_line,
    read_lines,
    state_line,
)
from tierkeeper.balance.model import WEIGHT_SCALE, Counters, Sample, Takes

__all__ = ["Cause", "Inputs", "Known", "Phase", "Seen", "State", "inputs_line", "replay", "state_line", "step"]

WEIGHT_MAX: Final = 10_000  # what the data plane is given at most (model.Share)

WINDOW_SECONDS: Final = 0.25  # of the fast averages: a fault shows in two looks, and noise of one look does not
WINDOW_SAMPLES: Final = 10  # where so many take longer than the window they are the window: few samples are not forgotten
SLOW_SECONDS: Final = 5.0  # of the slow averages, by which the moderate grade is set
SLOW_SAMPLES: Final = 100  # their window where traffic is thin
ERROR_SAMPLES: Final = 400  # of the slow average of what fails: one in a hundred is to show

SHED_RATIO: Final = 3.0  # of the peers' latency: hardware twice as slow is well, +50 ms on a few ms is eleven times as slow
SHED_EXCESS_SECONDS: Final = 0.005  # above the peers' at least: no client feels less, and micro-latencies are ratios of noise
SHED_SAMPLES: Final = 3.0  # at least: fewer prove nothing
SHED_SIGMAS: Final = 4.0  # of the peers' spread over the root of the samples, 1 in 30,000 by chance and look
CLIP_RATIO: Final = (
    20.0  # of the peers' latency: what one sample may say at most, so that one that waited for a lock sheds nobody
)

ERROR_ALLOWED: Final = 0.03  # of requests may fail without blame; and on top
ERROR_ALLOWED_FACTOR: Final = 4.0  # times the share that fails at the peers, which are not to be better by chance
ERROR_SCORE: Final = 1.6  # errors beyond what is allowed shed: 2 of 13 requests, or 3 of 46
ERROR_SCORE_RATE: Final = 0.01  # and at least so many times the requests of a second: where proof is cheap it may be better
ERROR_SCORE_MOST: Final = 3.0  # times what sheds: a long fault is not remembered longer than a short one

STALL_SECONDS: Final = 0.15  # without an answer while requests wait
STALL_RATIO: Final = 12.0  # and so many times the peers' latency: answers that take long by nature are no stall
STALL_IN_FLIGHT: Final = 3  # requests that wait, at least, of a backend that is not shed: one may be a download

PILE: Final = 10  # more requests in flight than shortly before shed at once,
PILE_RATIO: Final = 6.0  # if they are so many times what its rate and the peers' latency make,
PILE_PEERS: Final = 4.0  # and so many times what has piled up at its peers: who waits for a thing that all need is not to blame
PILE_SECONDS: Final = 1.0  # in which more in flight becomes nothing new: connections that are held by nature are no pile

TRICKLE_SHARE: Final = 0.004  # of the traffic goes to one that is shed: below the 0.5 % that are promised
TRICKLE_PER_SECOND: Final = 1.2  # requests at least, where that share would be fewer: three of them have to show that it is well
TRICKLE_FAIR: Final = 0.125  # of its fair share at most, which in a large pool is less

STALE_SECONDS: Final = 1.5  # after it was shed: what ends then was begun before, and says nothing of a trickle
WELL_RATIO: Final = 2.5  # of the peers' latency and less is a sample that looks well; of a healthy one 92 % are (exponential)
WELL_SAMPLES: Final = 3  # samples that look well, and none that does not, begin the way back
WELL_ERRORS: Final = 1.6  # over the share that failed: so many good answers where only some had failed, 16 for 10 %
WELL_ERRORS_MOST: Final = 24
PATIENCE_SECONDS: Final = 3.0  # without a bad one stand for them where the trickle is thin
AGAIN: Final = (1.0, 1.5, 3.0, 6.0, 12.0, 16.0)  # times as much proof after so many tries in vain
RAMP_SECONDS: Final = 0.2  # between doublings: longer ones cost more in vain than they find out
RELAPSE_RATIO: Final = 2.5  # of the peers' latency on the way back: one in doubt is judged harder, a try in vain costs less
RELAPSE_SCORE: Final = 0.8  # errors: the first one, also while it is newly back
RELAPSE_SECONDS: Final = 5.0  # after the way back: what is shed again so soon has not been well
HOLD_SECONDS: Final = 30.0  # one that looks well at a trickle and is slow under load is tried no sooner again
HOLD_UNWELL: Final = 4.0  # more samples that do not look well than do: it was not the load, and no hold is needed
SETTLED_SECONDS: Final = 10.0  # with its fair share, and its tries in vain are forgotten
IDLE_STEP_SECONDS: Final = 1.0  # without a request on the way back, and it goes on: nothing is harmed where nothing comes

GRADES: Final = (1.0, 0.8, 0.63, 0.5, 0.4)  # for one that is slower, by the inverse of how much; never less: it is not sick
GRADE_SAMPLES: Final = 100.0  # at least
GRADE_DOWN: Final = 1.35  # times what its grade allows it is slower before it goes down
GRADE_UP: Final = 1.2  # times as fast it is before it goes up; the gap between both keeps it from going to and fro
GRADE_EXCESS_SECONDS: Final = 0.001  # above its peers at least
GRADE_SECONDS: Final = 2.0  # between two changes of a grade: the first has to show what it did

_SCALE_STEP: Final = 0.05
_SERVER_ERROR: Final = 500


@dataclass(frozen=True)
class _Look:
    """One backend at this look: what is known with the averages brought up to now, and what has ended since the last."""

    known: Known
    requests: float = 0.0
    errors: float = 0.0
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class _Peers:
    """What backends of a group are like: the lower median of latency, the spread of a sample, the share that fails."""

    latency: float
    spread: float
    slow_latency: float
    error_share: float
    piled: float


def step(state: State, inputs: Inputs) -> State:
    """The state after one look. In a new pool each backend begins with its fair share; one that joins later works its way up."""
    looks = {name: _look(state, name, seen, inputs) for name, seen in inputs.backends.items()}
    known: dict[str, Known] = {name: look.known for name, look in looks.items()}
    panic = []
    for group in sorted({seen.group for seen in inputs.backends.values()}):
        names = [n for n, s in inputs.backends.items() if s.group == group and s.takes is Takes.TRAFFIC]
        peers = _Group([looks[n].known for n in names])
        judged = {n: _judged(looks[n], inputs.backends[n], peers.of(looks[n].known), inputs.seconds) for n in names}
        well = sum(inputs.backends[n].weight for n in names if judged[n].phase is not Phase.SHED)
        count = sum(k.phase is not Phase.SHED for k in judged.values())
        if count * 100 < inputs.panic_percent * len(names) or (names and not count):
            panic.append(group)
        rate = math.fsum(judged[n].rate for n in names)
        known |= {n: replace(k, trickle=_trickle(k, inputs.backends[n].weight, well, rate)) for n, k in judged.items()}
    alike = {n for n, s in inputs.backends.items() if s.group in panic}
    shares = {n: 1.0 if n in alike else _share(k) for n, k in known.items()}
    weights: dict[str, int] = {}
    for group in {seen.group for seen in inputs.backends.values()}:
        weights |= _weights({n: s for n, s in inputs.backends.items() if s.group == group}, shares)
    return State(inputs.seconds, known, {n: weights[n] for n in inputs.backends}, shares, tuple(panic))


def replay(lines: Iterable[str]) -> State:
    """The state that recorded lines lead to, to the bit. Raises UsageError for a line that is no record."""
    state = State()
    for found in read_lines(lines):
        state = found if isinstance(found, State) else step(state, found)
    return state


def _look(state: State, name: str, seen: Seen, inputs: Inputs) -> _Look:
    now = inputs.seconds
    old = state.known.get(name)
    if old is None or seen.takes is not Takes.TRAFFIC:
        new = Known(
            seen.counters, since_seconds=now, answered_seconds=now, stepped_seconds=now, unwell_seconds=now, trickle=TRICKLE_FAIR
        )
        new = replace(new, waiting=float(seen.counters.in_flight))
        return _Look(new if not state.known and seen.takes is Takes.TRAFFIC else replace(new, phase=Phase.RAMP, level=0.0))
    span = max(1e-3, now - state.seconds)
    requests, errors = _ended(old.counters, seen)
    reference = _lower_median([k.fast.mean for k in state.known.values() if k.fast.count >= SHED_SAMPLES])
    ceiling = CLIP_RATIO * reference if reference is not None else math.inf
    latencies = [min(s.seconds, ceiling) for s in seen.samples if 0 < s.status < _SERVER_ERROR]
    share, slow_share = old.error_share, old.error_slow
    if requests:
        kept = max(1 / (1 + span / WINDOW_SECONDS), 1 / (1 + requests / (2 * WINDOW_SAMPLES)))
        share = share * kept + (errors / requests) * (1 - kept)
        kept = max(1 / (1 + span / SLOW_SECONDS), 1 / (1 + requests / ERROR_SAMPLES))
        slow_share = slow_share * kept + (errors / requests) * (1 - kept)
    in_flight = float(seen.counters.in_flight)
    waits = seen.counters.in_flight > 0 and not any(s.status for s in seen.samples)
    known = replace(
        old,
        counters=seen.counters,
        fast=old.fast.take(latencies, span, WINDOW_SECONDS, WINDOW_SAMPLES),
        slow=old.slow.take(latencies, span, SLOW_SECONDS, SLOW_SAMPLES) if old.phase is Phase.WELL else old.slow,
        error_share=share,
        error_slow=slow_share if old.phase is Phase.WELL else old.error_slow,
        rate=old.rate + (requests / span - old.rate) * (span / (span + 1.0)),
        answered_seconds=old.answered_seconds if waits else now,
        waiting=min(in_flight, old.waiting + (in_flight - old.waiting) * (span / (span + PILE_SECONDS))),
    )
    return _Look(known, requests, errors, seen.samples)


def _ended(before: Counters, seen: Seen) -> tuple[float, float]:
    """Requests that ended since, and those of them that failed. A plane that began anew counts from nought."""
    now = seen.counters
    if now.requests < before.requests:
        before = Counters()
    failed = sum(1 for s in seen.samples if s.status == 0 or s.status >= _SERVER_ERROR)
    errors = max(now.errors - before.errors, now.refused - before.refused, failed, 0)
    return float(max(now.requests - before.requests, len(seen.samples), errors)), float(errors)


def _lower_median(values: Sequence[float]) -> float | None:
    """Of two the lower: of a pool of two the better one is what the other is compared with."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def _piled(known: Known) -> float:
    return max(0.0, known.counters.in_flight - known.waiting)


class _Group:
    """The backends of a group that take traffic, and what each of them is compared with."""

    def __init__(self, known: Sequence[Known]) -> None:
        fast = [k.fast for k in known if k.fast.count >= SHED_SAMPLES]
        slow = [k.slow for k in known if k.slow.count >= GRADE_SAMPLES]
        self._measured = len(fast)
        self._latency = _lower_median([a.mean for a in fast])
        self._spread = _lower_median([a.spread for a in (slow or fast)])
        self._slow = _lower_median([a.mean for a in slow])
        self._piled = _lower_median([_piled(k) for k in known]) or 0.0
        self._failing = sorted(max(k.error_share, k.error_slow) for k in known)

    def of(self, one: Known) -> _Peers | None:
        """What `one` is compared with; None where it is alone."""
        if len(self._failing) == 1:
            return None
        own = bisect_left(self._failing, max(one.error_share, one.error_slow))
        middle = (len(self._failing) - 2) // 2
        failing = self._failing[middle if middle < own else middle + 1]
        others = self._measured - (one.fast.count >= SHED_SAMPLES)
        if not others or self._latency is None or self._spread is None:
            return _Peers(math.inf, 0.0, 0.0, failing, self._piled)
        return _Peers(self._latency, self._spread, self._slow or 0.0, failing, self._piled)


def _judged(look: _Look, seen: Seen, peers: _Peers | None, now: float) -> Known:
    if peers is None:
        return replace(look.known, phase=Phase.WELL, cause=Cause.NONE, level=1.0, grade=1.0, error_score=0.0)
    allowed = ERROR_ALLOWED + ERROR_ALLOWED_FACTOR * peers.error_share
    sheds_at = max(ERROR_SCORE, ERROR_SCORE_RATE * look.known.rate)
    score = look.known.error_score + look.errors - look.requests * allowed
    known = replace(look.known, error_score=min(max(0.0, score), ERROR_SCORE_MOST * sheds_at))
    if known.phase is Phase.SHED:
        return _recovering(known, look, peers, now)
    strict = known.phase is Phase.RAMP
    doubted = strict or now - known.returned_seconds < RELAPSE_SECONDS
    cause = _fault(known, seen.counters.in_flight, peers, RELAPSE_SCORE if doubted else sheds_at, now)
    if cause is not Cause.NONE:
        return _shed(known, cause, now)
    return _rising(known, look, seen, now) if strict else _graded(known, peers, now)


def _fault(known: Known, in_flight: int, peers: _Peers, score: float, now: float) -> Cause:
    """What speaks for shedding it now. On the way back less is enough."""
    strict = known.phase is Phase.RAMP
    if known.error_score >= score:
        return Cause.FAILING
    silent = now - known.answered_seconds
    waiting = 1 if strict else STALL_IN_FLIGHT
    if in_flight >= waiting and silent >= max(STALL_SECONDS, STALL_RATIO * peers.latency):
        return Cause.STALLED
    if _piled(known) >= max(PILE, PILE_RATIO * peers.latency * known.rate, PILE_PEERS * peers.piled):
        return Cause.PILING
    fast = known.fast
    excess = fast.mean - peers.latency
    if fast.count >= SHED_SAMPLES and excess >= SHED_EXCESS_SECONDS:
        ratio = RELAPSE_RATIO if strict else SHED_RATIO
        if fast.mean >= ratio * peers.latency and excess * math.sqrt(fast.count) >= SHED_SIGMAS * peers.spread:
            return Cause.SLOW
    return Cause.NONE


def _shed(known: Known, cause: Cause, now: float) -> Known:
    relapse = known.phase is Phase.RAMP or now - known.returned_seconds < RELAPSE_SECONDS
    vain = known.vain + 1 if relapse else 0
    needed = float(WELL_SAMPLES)
    if cause is Cause.FAILING:
        needed = min(max(needed, WELL_ERRORS / max(known.error_share, 1e-3)), float(WELL_ERRORS_MOST)) * _again(vain)
    return replace(
        known,
        phase=Phase.SHED,
        cause=cause,
        since_seconds=now,
        level=0.0,
        well=0.0,
        unwell=0.0,
        well_needed=needed,
        unwell_seconds=now,
        vain=vain,
        hold_seconds=now + HOLD_SECONDS if relapse and cause is not Cause.FAILING else DISTANT,
        slow=Average(),
    )


def _again(vain: int) -> float:
    """How much more proof is asked for after so many tries in vain."""
    return AGAIN[min(vain, len(AGAIN) - 1)]


def _recovering(known: Known, look: _Look, peers: _Peers, now: float) -> Known:
    """What the trickle says of one that is shed."""
    as_bad = peers.error_share * 2 >= max(known.error_share, ERROR_ALLOWED)
    bound = max(WELL_RATIO * peers.latency, peers.latency + SHED_EXCESS_SECONDS)
    failed = 0.0 if as_bad else look.errors
    slow = sum(1 for s in look.samples if 0 < s.status < _SERVER_ERROR and s.seconds > bound)
    # What no sample tells of counts where only its status matters.
    seen = look.requests if known.cause is Cause.FAILING else float(len(look.samples))
    good = max(0.0, seen - look.errors - slow) + (look.errors if as_bad else 0.0)
    well = 0.0 if failed else max(0.0, min(known.well + good, known.well_needed) - 2 * slow)
    unwell = max(0.0, known.unwell + slow + failed - good)
    unwell_at = now if failed else known.unwell_seconds
    if now - known.since_seconds < STALE_SECONDS:
        unwell = 0.0
    hold = DISTANT if unwell >= HOLD_UNWELL else known.hold_seconds
    patience = PATIENCE_SECONDS * _again(known.vain)
    enough = well >= known.well_needed or (well >= WELL_SAMPLES and now - unwell_at >= patience)
    if enough and now >= hold:
        start = Average(SHED_SAMPLES, peers.latency, peers.latency * peers.latency) if peers.latency < math.inf else Average()
        return replace(
            known,
            phase=Phase.RAMP,
            since_seconds=now,
            stepped_seconds=now,
            level=2 * known.trickle,
            fast=start,
            error_share=0.0,
            error_score=0.0,
            answered_seconds=now,
        )
    return replace(known, well=well, unwell=unwell, unwell_seconds=unwell_at, hold_seconds=hold)


def _rising(known: Known, look: _Look, seen: Seen, now: float) -> Known:
    waited = now - known.stepped_seconds
    shown = known.well + max(0.0, look.requests - look.errors)
    idle = waited >= IDLE_STEP_SECONDS and seen.counters.in_flight == 0
    if waited + 1e-6 < RAMP_SECONDS or not (shown >= 1 or idle):
        return replace(known, well=shown)
    level = max(2 * known.level, 2 * known.trickle)
    if level < 1:
        return replace(known, level=level, stepped_seconds=now, well=0.0)
    return replace(
        known,
        phase=Phase.WELL,
        cause=Cause.NONE,
        since_seconds=now,
        level=1.0,
        stepped_seconds=now,
        returned_seconds=now,
        graded_seconds=now,
        error_score=0.0,
        well=0.0,
        slow=Average(),
    )


def _graded(known: Known, peers: _Peers, now: float) -> Known:
    """One that is well: its grade by how much slower than its peers it is in the long run."""
    if known.vain and now - known.returned_seconds >= SETTLED_SECONDS:
        known = replace(known, vain=0)
    mean = known.slow.mean
    if known.slow.count < GRADE_SAMPLES or not peers.slow_latency or now - known.graded_seconds < GRADE_SECONDS:
        return known
    sure = SHED_SIGMAS * max(peers.spread, known.slow.spread) / math.sqrt(known.slow.count)
    deserved = min(1.0, peers.slow_latency / mean) if mean > 0 else 1.0
    excess = mean - peers.slow_latency
    down = known.grade / deserved >= GRADE_DOWN and excess >= max(GRADE_EXCESS_SECONDS, sure)
    up = deserved / known.grade >= GRADE_UP
    if not (down or up):
        return known
    grade = min(GRADES, key=lambda g: abs(g - max(deserved, GRADES[-1])))
    return known if grade == known.grade else replace(known, grade=grade, graded_seconds=now)


def _trickle(known: Known, weight: int, well: int, rate: float) -> float:
    """What one that is shed keeps, as a part of its fair share; only moved where it is off by a factor of two."""
    share = min(max(TRICKLE_SHARE, TRICKLE_PER_SECOND / rate if rate > 0 else TRICKLE_SHARE), TRICKLE_FAIR)
    others = well - (weight if known.phase is not Phase.SHED else 0)
    new = min(share / (1 - share) * others / weight, TRICKLE_FAIR) if others > 0 else TRICKLE_FAIR
    stays = known.phase is not Phase.WELL and 1 / 2 <= new / known.trickle <= 2  # noqa: PLR2004 - the factor of two
    return known.trickle if stays else new


def _share(known: Known) -> float:
    if known.phase is Phase.SHED:
        return known.trickle
    return known.grade * max(known.level, known.trickle) if known.phase is Phase.RAMP else known.grade


def _weights(group: Mapping[str, Seen], shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in the ratio of the shares: WEIGHT_SCALE times the configured weight for the fair one, more of all where
    the smallest would else be less than one.
    """
    fair = {n: WEIGHT_SCALE * s.weight for n, s in group.items()}
    takes = [n for n, s in group.items() if s.takes is Takes.TRAFFIC]
    least = min((fair[n] * shares[n] for n in takes), default=1.0)
    scale = max(1.0, math.ceil(1 / least / _SCALE_STEP) * _SCALE_STEP)
    scale = min(scale, WEIGHT_MAX / max((fair[n] for n in takes), default=WEIGHT_SCALE))
    return {
        n: min(max(1, int(f * shares[n] * scale + 0.5)), WEIGHT_MAX) if n in takes else min(f, WEIGHT_MAX)
        for n, f in fair.items()
    }
