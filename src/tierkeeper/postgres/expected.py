"""Connections that will be wanted in a moment, dialled while the program still loads: on a slow link the one takes as long as the
other.

Nothing is asked over them before whoever wants one dials, and gets it. Nobody waits for one that nobody wants.
"""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """A connection."""

    def close(self) -> None:
        """Ends it."""
        ...


T = TypeVar("T", bound=Closes)


class Expected(Generic[T]):
    """By their address those that nobody has taken yet. Several threads take."""

    def __init__(self, dial: Callable[[str], T]) -> None:
        self._dial = dial
        self._coming: dict[str, list[Future[T]]] = defaultdict(list)
        self._lock = Lock()

    def expect(self, conninfo: str) -> None:
        """Begins to dial."""
        future: Future[T] = Future()
        self._coming[conninfo].append(future)
        # No program waits for such a thread when it ends, as it would for a pool's.
        Thread(target=self._begin, args=(conninfo, future), name="expected", daemon=True).start()

    def take(self, conninfo: str) -> T | None:
        """One that was dialled, waited for; None where no more was expected. Raises what dialling it did."""
        with self._lock:
            coming = self._coming.get(conninfo)
            future = coming.pop(0) if coming else None
        return None if future is None else future.result()

    def close(self) -> None:
        """What nobody has taken is closed, as soon as it is there."""
        with self._lock:
            left = [future for coming in self._coming.values() for future in coming]
            self._coming.clear()
        for future in left:
            future.add_done_callback(_close)

    def _begin(self, conninfo: str, future: "Future[T]") -> None:
        try:
            future.set_result(self._dial(conninfo))
        except BaseException as error:  # noqa: BLE001 - it is raised where the connection is wanted
            future.set_exception(error)


def _close(future: "Future[T]") -> None:
    if future.exception() is None:
        future.result().close()
