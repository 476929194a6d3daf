"""Why a run must end before it is through, and the plainest thing that says so: a flag with a time limit.

What asks it is `kernel.ports.Stop`; who listens to signals besides is the command line's.
"""

import time
from typing import Final

STOPPED: Final = "stopped"
TIME_LIMIT: Final = "time limit"


class TimedStop:
    """A `kernel.ports.Stop`. Work that asks it between batches never ends with a batch half done by our own hand."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._until: float | None = None

    def __call__(self) -> str | None:
        if self.reason is None and self._until is not None and time.monotonic() >= self._until:
            return TIME_LIMIT
        return self.reason

    def end_after(self, seconds: float) -> None:
        """From then on it says that the time is over."""
        self._until = time.monotonic() + seconds
