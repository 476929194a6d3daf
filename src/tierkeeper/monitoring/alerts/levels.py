"""Whether a level holds: in a short window and in a long one, as multi-window burn-rate alerts do. Pure.

The long window keeps a peak from ringing; the short one ends the alert soon after the level has fallen. A level stays as it was
seen until it is looked at again. Where nobody looked within a window, the present decides alone: who looks once a day must hear
it that day, and cannot tell noise from more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tierkeeper.kernel.limits import ALERT_RECOVERY_SHARE


@dataclass(frozen=True)
class Windows:
    """Seconds."""

    short: float
    long: float


@dataclass(frozen=True)
class Level:
    """Shares by instant, oldest first; the last one is the present."""

    seen: Sequence[tuple[datetime, float]]

    @property
    def now(self) -> float:
        return self.seen[-1][1]

    def within(self, seconds: float) -> list[float]:
        """Those that were seen in the last `seconds`, the present among them."""
        begin = self.seen[-1][0] - timedelta(seconds=seconds)
        return [share for at, share in self.seen if at > begin]

    def mean(self, seconds: float) -> float:
        """Over the last `seconds`, weighed by how long each was the last one seen; from when it was looked at in them first."""
        end, begin = self.seen[-1][0], self.seen[-1][0] - timedelta(seconds=seconds)
        total = weight = 0.0
        for (at, share), (until, _) in zip(self.seen, self.seen[1:], strict=False):
            if at > begin and (lasted := (min(until, end) - at).total_seconds()) > 0:
                total, weight = total + share * lasted, weight + lasted
        return total / weight if weight else self.now


def holds(level: Level, bound: float, windows: Windows, *, is_firing: bool) -> bool:
    """Whether the level is at `bound` or above. One that rings already ends only clearly below, all through the short window."""
    short = level.within(windows.short)
    if is_firing:
        return max(short) >= bound - ALERT_RECOVERY_SHARE
    return min(short) >= bound and level.mean(windows.long) >= bound
