"""The clock port: decisions about age take their instant from here, so that a demo or a test can fix the day."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Says what time it is. All instants are in UTC."""

    def now(self, server: Callable[[], datetime] | None = None) -> datetime:
        """The instant for a decision about rows; `server` asks the clock of the server that holds them."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back: for time-outs and durations."""
        ...

    def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class SystemClock:
    """The real clock: a server's own where one is asked, this machine's else."""

    def now(self, server: Callable[[], datetime] | None = None) -> datetime:
        return server() if server is not None else datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class FixedDay(SystemClock):
    """Today is always `instant`; time-outs still run in real time."""

    instant: datetime

    def now(self, server: Callable[[], datetime] | None = None) -> datetime:  # noqa: ARG002 - that is the point
        return self.instant
