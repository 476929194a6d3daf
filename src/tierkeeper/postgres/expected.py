"""Connections that will be wanted in a moment, dialled while the program still loads: on a slow link the one takes as long as the
other.

Nothing is asked over them before whoever wants one dials, and gets it. Nobody waits for one that nobody wants.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """A connection."""

    def close(self) -> None:
        """Ends it."""
        ...


T = TypeVar("T", bound=Closes)


class Expected(Generic[T]):
    """Those that nobody has taken yet, in the order in which they are needed. Several threads take.

    `leads_to` tells which addresses are one place's.
    """

    def __init__(self, dial: Callable[[str], T], leads_to: Callable[[str], Hashable] = str) -> None:
        self._dial = dial
        self._leads_to = leads_to
        self._coming: list[tuple[str, Future[T]]] = []
        self._lock = Lock()

    def expect(self, conninfo: str) -> None:
        """Begins to dial."""
        future: Future[T] = Future()
        self._coming.append((conninfo, future))
        # No program waits for such a thread when it ends, as it would for a pool's.
        Thread(target=self._begin, args=(conninfo, future), name="expected", daemon=True).start()

    def take(self, conninfo: str) -> T | None:
        """One that was dialled, waited for; None where no more was expected. Where a place gives only some, those that are needed
        first get them. Raises what dialling did.
        """
        with self._lock:
            found = next((at for at, (address, _) in enumerate(self._coming) if address == conninfo), None)
            if found is None:
                return None
            _, future = self._coming.pop(found)
            after = len(self._coming) - found
        try:
            return future.result()
        except Exception:
            if (other := self._last_to(self._leads_to(conninfo), after)) is None:
                raise
            return other

    def _last_to(self, place: Hashable, most: int) -> T | None:
        """Of the last `most`, one that was dialled."""
        while True:
            with self._lock:
                left = range(max(len(self._coming) - most, 0), len(self._coming))
                at = next((i for i in reversed(left) if self._leads_to(self._coming[i][0]) == place), None)
                if at is None:
                    return None
                _, future = self._coming.pop(at)
                most -= 1
            with suppress(Exception):
                return future.result()

    def close(self) -> None:
        """What nobody has taken is closed, as soon as it is there."""
        with self._lock:
            left = [future for _, future in self._coming]
            self._coming.clear()
        for future in left:
            future.add_done_callback(_close)

    def _begin(self, conninfo: str, future: "Future[T]") -> None:
        try:
            future.set_result(self._dial(conninfo))
        except BaseException as error:  # noqa: BLE001 - it is raised where the connection is wanted
            self._put_back(conninfo, future)
            future.set_exception(error)

    def _put_back(self, conninfo: str, failed: "Future[T]") -> None:
        """Who is needed last goes without: they are all dialled at once, so that a server with few places left may refuse any."""
        place = self._leads_to(conninfo)
        with self._lock:
            at = next((i for i, (_, future) in enumerate(self._coming) if future is failed), len(self._coming))
            for i in range(len(self._coming) - 1, at, -1):
                address, other = self._coming[i]
                if self._leads_to(address) == place and not (other.done() and other.exception()):
                    self._coming[at], self._coming[i] = (conninfo, other), (address, failed)
                    return


def _close(future: "Future[T]") -> None:
    if future.exception() is None:
        future.result().close()
