"""How `adaptive` weighs backends: from what was seen of them, ten times a second or so. Pure: it reads no clock.

A backend is well, shed or coming back. One that is far slower than its peers, fails more often than they do or has stopped to
answer is shed to a trickle; the trickle goes on for ever, and once what it shows is well again, the share doubles at each look
until it is fair. Between well and shed there is a moderate grade for hardware that is merely slower.

All arithmetic is +, -, *, / and square roots, which IEEE 754 fixes to the bit: the same inputs give the same weights anywhere.
"""

import math
from collections.abc import Iterable, Mapping
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
    keep,
    read_lines,
    state_line,
)
from tierkeeper.balance.model import WEIGHT_SCALE, Counters, Sample, Takes
from tierkeeper.balance.peers import Group, Peers, looks_slow, lower_median, piled_up
from tierkeeper.balance.tuning import (
    AGAIN,
    CLIP_RATIO,
    ERROR_ALLOWED,
    ERROR_ALLOWED_FACTOR,
    ERROR_SAMPLES,
    ERROR_SCORE,
    ERROR_SCORE_MOST,
    ERROR_SCORE_RATE,
    ERROR_SCORE_USUAL,
    GRADE_DOWN,
    GRADE_EXCESS_SECONDS,
    GRADE_SAMPLES,
    GRADE_SECONDS,
    GRADE_UP,
    GRADES,
    HOLD_SECONDS,
    HOLD_UNWELL,
    IDLE_STEP_SECONDS,
    PATIENCE_SECONDS,
    PILE,
    PILE_PEERS,
    PILE_RATIO,
    PILE_SECONDS,
    RAMP_SECONDS,
    RELAPSE_RATIO,
    RELAPSE_SCORE,
    RELAPSE_SECONDS,
    SETTLED_SECONDS,
    SHED_EXCESS_SECONDS,
    SHED_LATE,
    SHED_RATIO,
    SHED_SAMPLES,
    SHED_SIGMAS,
    SHED_SIGMAS_FEW,
    SLOW_SAMPLES,
    SLOW_SECONDS,
    STALE_SECONDS,
    STALL_IN_FLIGHT,
    STALL_RATIO,
    STALL_SECONDS,
    TRICKLE_FAIR,
    TRICKLE_PER_SECOND,
    TRICKLE_SHARE,
    TRY_COST,
    TRY_SECONDS,
    WEIGHT_MAX,
    WELL_ERRORS,
    WELL_ERRORS_MOST,
    WELL_SAMPLES,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
)
from tierkeeper.kernel.errors import UsageError

__all__ = ["Cause", "Inputs", "Known", "Phase", "Seen", "State", "inputs_line", "replay", "state_line", "step"]

_SCALE_STEP: Final = 0.05
_SERVER_ERROR: Final = 500


@dataclass(frozen=True)
class _Look:
    """One backend at this look: what is known with the averages brought up to now, and what has ended since the last."""

    known: Known
    requests: float = 0.0
    errors: float = 0.0
    samples: tuple[Sample, ...] = ()


def step(state: State, inputs: Inputs) -> State:
    """The state after one look. In a new pool each backend begins with its fair share; one that joins later works its way up."""
    usual = {group: _usual(state, inputs, group) for group in {seen.group for seen in inputs.backends.values()}}
    looks = {name: _look(state, name, inputs, usual[seen.group]) for name, seen in inputs.backends.items()}
    known: dict[str, Known] = {name: look.known for name, look in looks.items()}
    panic = []
    for group in sorted({seen.group for seen in inputs.backends.values()}):
        names = [n for n, s in inputs.backends.items() if s.group == group and s.takes is Takes.TRAFFIC]
        peers = Group([looks[n].known for n in names])
        total = sum(inputs.backends[n].weight for n in names)
        judged = {n: _judged(looks[n], inputs.backends[n], peers.of(looks[n].known), total, inputs.seconds) for n in names}
        well = sum(inputs.backends[n].weight for n in names if judged[n].phase is not Phase.SHED)
        count = sum(k.phase is not Phase.SHED for k in judged.values())
        if count * 100 < inputs.panic_percent * len(names) or (names and not count):
            panic.append(group)
        before = {n for n, k in state.known.items() if k.phase is Phase.WELL and n in inputs.backends}
        if any(n not in judged or judged[n].phase is Phase.SHED for n in before if inputs.backends[n].group == group):
            # What is left has more to carry: one that is held may be better than they are by now.
            judged = {n: k if n in before else replace(k, hold_seconds=DISTANT) for n, k in judged.items()}
        rate = math.fsum(judged[n].rate for n in names)
        known |= {n: replace(k, trickle=_trickle(k, inputs.backends[n].weight, well, rate)) for n, k in judged.items()}
    alike = {n for n, s in inputs.backends.items() if s.group in panic}
    shares = {n: 1.0 if n in alike else _share(k) for n, k in known.items()}
    weights: dict[str, int] = {}
    for group in {seen.group for seen in inputs.backends.values()}:
        weights |= _weights({n: s for n, s in inputs.backends.items() if s.group == group}, shares)
    return State(inputs.seconds, known, {n: weights[n] for n in inputs.backends}, shares, tuple(panic))


def replay(lines: Iterable[str], pool: str | None = None) -> State:
    """The state that the recorded lines of a pool lead to, to the bit.

    Raises UsageError for a line that is no record, and for one whose weights are not what its inputs give.
    """
    state = State()
    for line in read_lines(lines, pool):
        state = line.told if isinstance(line.told, State) else step(state, line.told)
        if line.weights is not None and line.weights != state.weights:
            cause = "its inputs give other weights than it has"
            raise UsageError(f"line {line.number}", cause, "Give the lines as they were recorded, from a state on")
    return state


def _usual(state: State, inputs: Inputs, group: int) -> float | None:
    """The latency of a group as it was before this look."""
    known = (state.known[n] for n, seen in inputs.backends.items() if seen.group == group and n in state.known)
    return lower_median([k.fast.mean for k in known if k.fast.count >= SHED_SAMPLES])


def _look(state: State, name: str, inputs: Inputs, reference: float | None) -> _Look:
    now, seen = inputs.seconds, inputs.backends[name]
    old = state.known.get(name)
    if old is None or seen.takes is not Takes.TRAFFIC:
        new = Known(
            seen.counters, since_seconds=now, answered_seconds=now, stepped_seconds=now, unwell_seconds=now, trickle=TRICKLE_FAIR
        )
        new = replace(new, waiting=float(seen.counters.in_flight))
        return _Look(new if not state.known and seen.takes is Takes.TRAFFIC else replace(new, phase=Phase.RAMP, level=0.0))
    span = max(1e-3, now - state.seconds)
    requests, errors = _ended(old.counters, seen)
    ceiling = CLIP_RATIO * reference if reference is not None else math.inf
    latencies = [min(s.seconds, ceiling) for s in seen.samples if 0 < s.status < _SERVER_ERROR]
    late = old.late
    if latencies and reference is not None:
        kept = keep(len(latencies), span, WINDOW_SECONDS, WINDOW_SAMPLES)
        late = late * kept + sum(v > looks_slow(reference) for v in latencies) / len(latencies) * (1 - kept)
    share, slow_share = old.error_share, old.error_slow
    if requests:
        kept = keep(requests, span, WINDOW_SECONDS, 2 * WINDOW_SAMPLES)
        share = share * kept + (errors / requests) * (1 - kept)
        kept = keep(requests, span, SLOW_SECONDS, ERROR_SAMPLES)
        slow_share = slow_share * kept + (errors / requests) * (1 - kept)
    in_flight = float(seen.counters.in_flight)
    waits = seen.counters.in_flight > 0 and not any(s.status for s in seen.samples)
    known = replace(
        old,
        counters=seen.counters,
        fast=old.fast.take(latencies, span, WINDOW_SECONDS, WINDOW_SAMPLES),
        late=late,
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


def _judged(look: _Look, seen: Seen, peers: Peers | None, total: int, now: float) -> Known:
    if peers is None:
        return replace(look.known, phase=Phase.WELL, cause=Cause.NONE, level=1.0, grade=1.0, error_score=0.0)
    allowed = ERROR_ALLOWED + ERROR_ALLOWED_FACTOR * peers.error_share
    usual = ERROR_SCORE_USUAL * peers.error_share
    sheds_at = max(ERROR_SCORE, ERROR_SCORE_RATE * look.known.rate) + usual
    score = look.known.error_score + look.errors - look.requests * allowed
    known = replace(look.known, error_score=min(max(0.0, score), ERROR_SCORE_MOST * sheds_at))
    if known.phase is Phase.SHED:
        return _recovering(known, look, peers, now)
    strict = known.phase is Phase.RAMP
    doubted = strict or now - known.returned_seconds < RELAPSE_SECONDS
    cause = _fault(known, seen.counters.in_flight, peers, RELAPSE_SCORE + usual if doubted else sheds_at, now)
    if cause is not Cause.NONE:
        return _shed(known, cause, seen.weight / total, now)
    return _rising(known, look, seen, now) if strict else _graded(known, peers, now)


def _fault(known: Known, in_flight: int, peers: Peers, score: float, now: float) -> Cause:
    """What speaks for shedding it now. On the way back less is enough."""
    strict = known.phase is Phase.RAMP
    if known.error_score >= score:
        return Cause.FAILING
    silent = now - known.answered_seconds
    waiting = 1 if strict else STALL_IN_FLIGHT
    if in_flight >= waiting and silent >= max(STALL_SECONDS, STALL_RATIO * peers.latency):
        return Cause.STALLED
    if piled_up(known) >= max(PILE, PILE_RATIO * peers.latency * known.rate, PILE_PEERS * peers.piled):
        return Cause.PILING
    fast = known.fast
    excess = fast.mean - peers.latency
    if fast.count >= SHED_SAMPLES and excess >= SHED_EXCESS_SECONDS:
        ratio = RELAPSE_RATIO if strict else SHED_RATIO
        sigmas = SHED_SIGMAS if known.late >= SHED_LATE else SHED_SIGMAS_FEW
        if fast.mean >= ratio * peers.latency and excess * math.sqrt(fast.count) >= sigmas * peers.spread:
            return Cause.SLOW
    return Cause.NONE


def _shed(known: Known, cause: Cause, fair: float, now: float) -> Known:
    """`fair` is the part of its priority's traffic that is its due."""
    relapse = known.phase is Phase.RAMP or now - known.returned_seconds < RELAPSE_SECONDS
    vain = known.vain + 1 if relapse else 0
    needed, cost = float(WELL_SAMPLES), known.level * fair * TRY_SECONDS
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
        hold_seconds=now + min(HOLD_SECONDS, cost / TRY_COST) if relapse and cause is not Cause.FAILING else DISTANT,
        slow=Average(),
    )


def _again(vain: int) -> float:
    """How much more proof is asked for after so many tries in vain."""
    return AGAIN[min(vain, len(AGAIN) - 1)]


def _recovering(known: Known, look: _Look, peers: Peers, now: float) -> Known:
    """What the trickle says of one that is shed."""
    as_bad = peers.error_share * 2 >= max(known.error_share, ERROR_ALLOWED)
    bound = looks_slow(peers.latency)
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
            late=0.0,
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


def _graded(known: Known, peers: Peers, now: float) -> Known:
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
