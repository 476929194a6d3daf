"""Counts every row again whenever rows have moved since the last count: what is shown of lost rows is never of before.

While something is on its way, or was cut off, a count would find copies that are not rows yet: it waits.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tierkeeper.kernel.errors import NotNow, TierkeeperError
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.results import BoardAction, BoardProof, BoardResult, FaultResult, told

_log = Log()


class Counting:
    """`look` gives a board, `count` rows lost and doubled. Nothing of it goes on after `end`."""

    def __init__(self, look: Callable[[], BoardResult], count: Callable[[], tuple[int, int]], first: BoardProof) -> None:
        self._look, self._count = look, count
        self._lock = threading.Lock()
        self._proof = first
        self._counted_at_note = look().last_note
        self._running: threading.Thread | None = None
        self._looking = threading.Lock()
        self._ended = False
        self._error: FaultResult | None = None

    def board(self) -> BoardResult:
        """Now, with the last count; where rows have moved since, another count has begun in a thread."""
        with self._looking:
            if self._ended:
                raise NotNow("the page", "the demo has ended", "Start it again")
            board = self._look()
        with self._lock:
            unseen = moving(board)
            current = board.last_note == self._counted_at_note and unseen is None
            if not current and unseen is None and not self._ended and (self._running is None or not self._running.is_alive()):
                self._running = threading.Thread(target=self._again, args=(board.last_note,), name="count", daemon=True)
                self._running.start()
            proof = self._proof.model_copy(update={"current": current, "error": None if current else unseen or self._error})
        return board.model_copy(update={"proof": proof})

    def end(self) -> None:
        """Waits for a look and a count that are under way: they write into the folder, and may not outlive it."""
        with self._looking:
            self._ended = True
        with self._lock:
            running = self._running
        if running is not None:
            running.join()

    def _again(self, note: int) -> None:
        began = time.monotonic()
        error: FaultResult | None = None
        try:
            lost, doubled = self._count()
            after = self._look()
            if after.last_note != note or moving(after) is not None:
                return  # rows moved meanwhile: some were seen twice, or not at all
            proof = self._proof.model_copy(
                update={
                    "lost": lost,
                    "doubled": doubled,
                    "counted_at": datetime.now(UTC),
                    "seconds": round(time.monotonic() - began, 2),
                }
            )
        except TierkeeperError as fault:
            error = told([fault])[0]
        except Exception as fault:  # noqa: BLE001 - the page says that there is no new count
            _log.exception("the rows could not be counted")
            error = FaultResult(place="the count", cause=f"an unexpected {type(fault).__name__}", remedy="Report it")
        with self._lock:
            self._error = error
            if error is None:
                self._proof, self._counted_at_note = proof, note


def moving(board: BoardResult) -> FaultResult | None:
    """Why a count would be wrong now: a copy may be under way, was left by what was cut off, or cannot be seen; else None."""
    if board.audit is None or any(t.in_flight is None for t in board.tables.values()):
        return FaultResult(place="the count", cause="a tier cannot be seen now", remedy="Bring it back", not_now=True)
    if any(t.in_flight for t in board.tables.values()) or any(_goes_on(a, board.audit) for a in board.audit):
        cause = "rows are on their way, or a move was cut off"
        return FaultResult(place="the count", cause=cause, remedy="Run `tierkeeper quota`, which settles it", not_now=True)
    return None


def _goes_on(action: BoardAction, all_of_them: list[BoardAction]) -> bool:
    """One without an outcome goes on, unless the same was done later: then it was cut off, and the later one settled it."""
    same = [a for a in all_of_them if (a.verb, a.subject) == (action.verb, action.subject)]
    return action.state == "open" and action.verb != "restore" and not any(a.at > action.at and a.state == "done" for a in same)
