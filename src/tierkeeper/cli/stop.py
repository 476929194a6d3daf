"""Ctrl-C and SIGTERM: the first asks for an end at the next safe point, the second ends at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

from tierkeeper.kernel.stop import STOPPED, TimedStop

_TOLD: Final = b"\nStopping at the next safe point. Ctrl-C once more ends at once; the next run settles what is in flight.\n"


class StopFlag(TimedStop):
    """A flag that signals raise, too. A limit on the run's time asks as the first signal does."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, the signals ask instead of interrupting."""
        with handled(self._ask):
            yield

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.reason is not None:
            interrupt(signum, frame)
        self.reason = STOPPED
        with suppress(OSError):  # nobody may read it any more
            os.write(2, _TOLD)  # a signal handler may interrupt a print: only a bare write is safe here


def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """Ends the work at once, running its `finally` blocks."""
    del signum, frame
    raise KeyboardInterrupt


@contextmanager
def handled(handler: "signal._HANDLER") -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler` inside the block; outside a program's main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
