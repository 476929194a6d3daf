"""What the balancer saw of the tiers, put before each attempt to reach one, so that nobody waits for what is known to be away.

Invariant: a hint ends an attempt early, with the error that the attempt would end with, and changes nothing else (I2).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.ports import Gate
from tierkeeper.monitoring import seen
from tierkeeper.monitoring.seen import Seen
from tierkeeper.postgres.link import Link

_REMEDY = "Run it again when the tier is back; `tierkeeper balance status` says when it is"


class Hints:
    """Of one keeper. `read` gives what was seen, and is asked before each attempt."""

    def __init__(self, read: Callable[[], Mapping[str, Seen]], clock: Clock) -> None:
        self._read, self._clock = read, clock
        self._reached: set[str] = set()
        self._anew = 0

    def link(self, tier: str, link: Link) -> Link:
        """`link`, which does not wait for a tier that is known to be away."""
        return replace(link, gate=self.gate(tier))

    def gate(self, tier: str) -> Gate:
        """See `kernel.ports.Gate`. Whoever has just reached the tier knows better than the hint."""

        @contextmanager
        def attempt(place: str) -> Iterator[None]:
            if not self._anew and tier not in self._reached:
                now = self._clock.now()
                if (one := seen.away(self._read(), tier, now)) is not None:
                    ago = f"as the balancer saw {(now - one.asked_at).total_seconds():.0f} s ago"
                    raise NotNow(place, f"it is out since {one.since:%Y-%m-%d %H:%M:%S} UTC: {one.why} ({ago})", _REMEDY)
            try:
                yield
            except BaseException:
                self._reached.discard(tier)
                raise
            self._reached.add(tier)

        return attempt

    @contextmanager
    def asking_anew(self) -> Iterator[None]:
        """In the block every tier is asked itself: for what is to tell how it stands."""
        self._anew += 1
        try:
            yield
        finally:
            self._anew -= 1
