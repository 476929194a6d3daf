"""How much may be repeated over time. Pure.

Envoy bounds what is repeated at once, which cannot tell the death of a server (a third of what is under way, for a moment)
from a service that is at fault as a whole (all, for good). Over time they differ.
"""

from dataclasses import dataclass

from tierkeeper.balance.envoy.limits import RETRIES_SAVED_MIN, RETRIES_SAVED_SECONDS, RETRY_EARNED_PERCENT


@dataclass
class Budget:
    """An account of one pool: a part of its requests comes in, each repeated try goes out. In debt nothing is repeated."""

    saved: float = RETRIES_SAVED_MIN
    open: bool = True
    _retries: int = 0

    def look(self, requests: int, retries_so_far: int, seconds: float) -> bool:
        """Whether this changed what may be. `requests` came in the last `seconds`, tries included; `retries_so_far` is a count
        of Envoy, which begins anew with it."""
        retries = retries_so_far - (self._retries if retries_so_far >= self._retries else 0)
        self._retries = retries_so_far
        earned = max(0, requests - retries) * RETRY_EARNED_PERCENT / 100
        most = max(RETRIES_SAVED_MIN, RETRIES_SAVED_SECONDS * earned / max(seconds, 1e-3))
        self.saved = min(most, self.saved + earned - retries)
        before = self.open
        self.open = self.saved > (0 if self.open else RETRIES_SAVED_MIN / 5)
        return self.open is not before
