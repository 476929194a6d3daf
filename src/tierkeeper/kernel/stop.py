"""Why a run must end before it is through, and the plainest thing that says so: a flag with a time limit.

What asks it is `kernel.ports.Stop`; who listens to signals besides is the command line's.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

STOPPED: Final = "stopped"
TIME_LIMIT: Final = "time limit"


class TimedStop:
    """A `kernel.ports.Stop`. Work that asks it between batches never ends with a batch half done by our own hand."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.reason: str | None = None
        self._monotonic = monotonic
        self._until: float | None = None
        self._latest: float | None = None
        self._over = False
        self._asked = threading.local()
        self._longest_seconds = 0.0

    def __call__(self) -> str | None:
        now = self._monotonic()
        if not self._over and self._until is not None:
            self._over = self._too_late_for_another(now) or now >= self._until
        return self.reason or (TIME_LIMIT if self._over else None)

    def end_after(self, seconds: float, at_latest_seconds: float | None = None) -> None:
        """From then on it says that the time is over; and before, where what a thread did between two of its questions took so
        long that it would go on beyond `at_latest_seconds` if it took so long again.
        """
        now = self._monotonic()
        self._until = now + seconds
        self._latest = None if at_latest_seconds is None else now + at_latest_seconds

    def _too_late_for_another(self, now: float) -> bool:
        if self._latest is None:
            return False
        self._longest_seconds = max(self._longest_seconds, now - getattr(self._asked, "at", now))
        self._asked.at = now
        return now + self._longest_seconds >= self._latest
