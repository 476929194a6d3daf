"""The last look at the tiers, and when a new one is due: however many read the page, the tiers are asked once in a while.

It must never show a figure as young that is not: what could not be asked anew in time says so.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import (
    BOARD_FIRST_WAIT_SECONDS,
    BOARD_FRESH_SECONDS,
    BOARD_GRACE_SECONDS,
    BOARD_WAIT_SECONDS,
)
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.results import BoardResult, FaultResult, told

_log = Log()


@dataclass(frozen=True)
class _Last:
    board: BoardResult
    began_at: float
    """By the monotonic clock, as is when it `ended_at`: what it shows is of somewhere between."""
    ended_at: float


class Fresh:
    """One cache for all readers; its looks are made one after the other, each in a thread of its own."""

    def __init__(
        self,
        look: Callable[[], BoardResult],
        clock: Clock | None = None,
        *,
        wait_seconds: float = BOARD_WAIT_SECONDS,
        first_wait_seconds: float = BOARD_FIRST_WAIT_SECONDS,
    ) -> None:
        self._look, self._clock = look, clock or SystemClock()
        self._wait_seconds, self._first_wait_seconds = wait_seconds, first_wait_seconds
        self._lock = threading.Lock()
        self._last: _Last | None = None
        self._under_way: threading.Event | None = None
        self._failed: tuple[FaultResult, ...] = ()

    def get(self) -> BoardResult:
        """The board; the tiers are asked for another where the last look ended `fresh_seconds` ago. It says if it is `old`."""
        with self._lock:
            if self._last is not None and self._clock.monotonic() - self._last.ended_at < self._last.board.fresh_seconds:
                return self._shown(self._clock.now())
            if self._under_way is None:
                self._under_way = threading.Event()
                threading.Thread(target=self._refresh, args=(self._under_way,), name="look", daemon=True).start()
            ended, first = self._under_way, self._last is None
        ended.wait(self._first_wait_seconds if first else self._wait_seconds)
        with self._lock:
            return self._shown(self._clock.now())

    def _shown(self, now: datetime) -> BoardResult:
        if self._last is None:
            slow = FaultResult(place="tiers", cause="they have not answered yet", remedy="Wait a little", not_now=True)
            return BoardResult(at=now, fresh_seconds=BOARD_FRESH_SECONDS, old=True, errors=[*(self._failed or (slow,))])
        board, age = self._last.board, self._clock.monotonic() - self._last.began_at
        old = age > board.fresh_seconds + BOARD_GRACE_SECONDS
        return board.model_copy(update={"old": old, "errors": [*board.errors, *self._failed]}) if old or self._failed else board

    def _refresh(self, ended: threading.Event) -> None:
        began, found = self._clock.monotonic(), self._last
        failed: tuple[FaultResult, ...] = ()
        try:
            found = _Last(self._look(), began, self._clock.monotonic())
        except TierkeeperError as error:
            failed = tuple(told([error]))
        except Exception as error:  # noqa: BLE001 - the page says so, and goes on showing what it had
            _log.exception("a look at the tiers failed")
            cause = f"an unexpected {type(error).__name__}: this is a fault of tierkeeper"
            failed = (FaultResult(place="the page", cause=cause, remedy="Report it, with the log"),)
        with self._lock:
            self._last, self._failed, self._under_way = found, failed, None
        ended.set()
