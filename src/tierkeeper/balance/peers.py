"""What a backend is compared with: nobody is slow by himself. Pure."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from tierkeeper.balance.evidence import Known
from tierkeeper.balance.tuning import GRADE_SAMPLES, SHED_EXCESS_SECONDS, SHED_SAMPLES, WELL_RATIO


@dataclass(frozen=True)
class Peers:
    """What backends of a group are like: the lower median of latency, the spread of a sample, the share that fails."""

    latency: float
    spread: float
    slow_latency: float
    error_share: float
    piled: float


def lower_median(values: Sequence[float]) -> float | None:
    """Of two the lower: of a pool of two the better one is what the other is compared with."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def looks_slow(latency: float) -> float:
    """What looks slow by itself."""
    return max(WELL_RATIO * latency, latency + SHED_EXCESS_SECONDS)


def piled_up(known: Known) -> float:
    """Requests in flight that were not there shortly before."""
    return max(0.0, known.counters.in_flight - known.waiting)


class Group:
    """The backends of a group that take traffic, and what each of them is compared with."""

    def __init__(self, known: Sequence[Known]) -> None:
        fast = [k.fast for k in known if k.fast.count >= SHED_SAMPLES]
        slow = [k.slow for k in known if k.slow.count >= GRADE_SAMPLES]
        self._measured = len(fast)
        self._latency = lower_median([a.mean for a in fast])
        spreads = [a.spread * a.spread for a in (slow or fast)]
        self._spread = math.sqrt(math.fsum(spreads) / len(spreads)) if spreads else None
        self._slow = lower_median([a.mean for a in slow])
        self._piled = lower_median([piled_up(k) for k in known]) or 0.0
        self._failing = sorted(max(k.error_share, k.error_slow) for k in known)

    def of(self, one: Known) -> Peers | None:
        """What `one` is compared with; None where it is alone."""
        if len(self._failing) == 1:
            return None
        own = bisect_left(self._failing, max(one.error_share, one.error_slow))
        middle = (len(self._failing) - 2) // 2
        failing = self._failing[middle if middle < own else middle + 1]
        others = self._measured - (one.fast.count >= SHED_SAMPLES)
        if not others or self._latency is None or self._spread is None:
            return Peers(math.inf, 0.0, 0.0, failing, self._piled)
        return Peers(self._latency, self._spread, self._slow or 0.0, failing, self._piled)
