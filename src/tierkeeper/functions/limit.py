"""The time that an invocation has: when a run is asked to end, when it is ended, and how much it takes at once.

AWS Lambda kills a function at its limit. Rows are safe then, too (I5), but nobody is told what was done; so a run is first asked
to end at its next safe point, and where that does not come in time it is interrupted, as by a second Ctrl-C: what was in flight
is taken back, or settled by the next run.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, Self, TypeVar

from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.limits import BATCH_ROWS, BATCH_ROWS_MIN, SEGMENT_ROWS
from tierkeeper.kernel.stop import TIME_LIMIT, TimedStop

T = TypeVar("T")

LEAST_SECONDS: Final = 2.0  # with less not even the tiers are reached: connections, their TLS, and a look at what is to do
IN_FLIGHT_SHARE: Final = 0.2  # of the time is for batches that had begun when the run was asked to end …
IN_FLIGHT_SECONDS: Final = 60.0  # … and no more than this: the longest between two safe points is one batch, which is cut to fit
END_SHARE: Final = 0.15  # of the time is for taking back what is interrupted, the lease, the audit's outcome and the answer …
END_SECONDS: Final = 8.0  # … a few round trips to each tier, whose connections may have to be dialled anew
ROWS_PER_SECOND: Final = 2_500  # that a slow link moves with all that a batch needs besides: 1.5 Mbit/s for the rows alone
RINGS: Final = 3  # of the alarm in the time for the end: the first takes statements back, the second cuts what does not end


class TimeOver(KeyboardInterrupt):
    """The time is over: ends the work at once, running its `finally` blocks."""


@dataclass(frozen=True)
class TimeLimit:
    """An invocation's time from its beginning, in seconds: its whole, after which it is asked to end, and is interrupted."""

    seconds: float
    ask_after_seconds: float
    end_after_seconds: float

    @classmethod
    def of(cls, seconds: float) -> Self:
        """The limit with its margins. Raises NotNow where it is too short for anything."""
        if seconds < LEAST_SECONDS:
            cause = f"{max(seconds, 0):.1f} seconds are left, and nothing can be done in less than {LEAST_SECONDS:.0f}"
            raise NotNow(TIME_LIMIT, cause, "Give the function a longer timeout; nothing was changed")
        end = seconds - min(END_SHARE * seconds, END_SECONDS)
        return cls(seconds, end - min(IN_FLIGHT_SHARE * seconds, IN_FLIGHT_SECONDS), end)

    @property
    def rows(self) -> int:
        """That one batch may have: on a slow link they go while batches in flight may."""
        return max(int((self.end_after_seconds - self.ask_after_seconds) * ROWS_PER_SECOND), BATCH_ROWS_MIN)


@dataclass
class Bounds:
    """What a keeper of an invocation is opened with, and how far its work came. Without a limit nothing ends it."""

    limit: TimeLimit | None = None
    stop: TimedStop = field(default_factory=TimedStop)
    reached: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, context: object) -> Self:
        """Of the invocation that `context` (AWS Lambda's, or a program's with a `stop`) is of. Raises NotNow where too little is
        left of it.
        """
        left, stop = getattr(context, "get_remaining_time_in_millis", None), getattr(context, "stop", None)
        bounds = cls(
            TimeLimit.of(left() / 1000) if callable(left) else None, stop if isinstance(stop, TimedStop) else TimedStop()
        )
        if bounds.limit is not None:
            bounds.stop.end_after(bounds.limit.ask_after_seconds, bounds.limit.end_after_seconds)
        return bounds

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Implements `kernel.ports.Progress`."""
        self.reached[what] = done, total

    @property
    def for_keeper(self) -> dict[str, Any]:
        """What `compose.open_keeper` is to be given."""
        given: dict[str, Any] = {"stop": self.stop, "progress": self.progress}
        if self.limit is not None:
            given |= {"batch_rows": min(BATCH_ROWS, self.limit.rows), "segment_rows": min(SEGMENT_ROWS, self.limit.rows)}
        return given

    def run(self, work: Callable[[], T], remedy: str) -> T:
        """What `work` gives. Raises NotNow where it had to be interrupted; `remedy` is what helps then."""
        if self.limit is None:
            return work()
        alarm = _Alarm()
        try:
            with alarm.ringing(self.limit.end_after_seconds, (self.limit.seconds - self.limit.end_after_seconds) / RINGS):
                return work()
        except TimeOver:
            alarm.disarm()
            cause = f"after {self.limit.end_after_seconds:.1f} of {self.limit.seconds:.1f} seconds it had to be interrupted"
            told = [
                f"{what}: {done:,} of {total:,} rows" if total else f"{what}: {done:,} rows"
                for what, (done, total) in self.reached.items()
            ]
            raise NotNow(TIME_LIMIT, "; ".join([cause, *told]), remedy) from None


class _Alarm:
    """SIGALRM as `TimeOver`, again and again until it is disarmed. Outside of a program's main thread it does not ring.

    From the second time on it cuts the connections to Postgres, as a network would: what waits for one comes to its end, in every
    thread, and what was begun there is settled by the next run (I5).
    """

    def __init__(self) -> None:
        self._armed, self._rings = True, 0

    @contextmanager
    def ringing(self, first_seconds: float, then_seconds: float) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, first_seconds, then_seconds)
        try:
            yield
        finally:
            self.disarm()
            signal.signal(signal.SIGALRM, before)

    def disarm(self) -> None:
        self._armed = False
        if (session := _loaded_session()) is not None:
            session.dial_again()
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        if not self._armed:
            return
        self._rings += 1
        if self._rings > 1 and (session := _loaded_session()) is not None:
            session.cut_all()
        raise TimeOver


def _loaded_session() -> Any:
    """The module of the connections; where it is not loaded yet, there are none."""
    return sys.modules.get("tierkeeper.postgres.session")
