"""Connections that will be wanted in a moment, dialled while the program still loads: on a slow link the one takes as long as the
other.

Nothing is asked over them before whoever wants one dials, and gets it. Nobody waits for one that nobody wants.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """A connection."""

    def close(self) -> None:
        """Ends it."""
        ...


T = TypeVar("T", bound=Closes)


@dataclass(eq=False)
class _Coming(Generic[T]):
    conninfo: str
    future: "Future[T]"

    @property
    def refused(self) -> BaseException | None:
        return self.future.exception()


class Expected(Generic[T]):
    """Those that nobody has taken yet, in the order in which they are needed. Several threads take.

    `leads_to` tells which addresses are one place's, `may_be_over` whether a refusal may be over once all of them were answered.
    """

    def __init__(
        self,
        dial: Callable[[str], T],
        leads_to: Callable[[str], Hashable] = str,
        may_be_over: Callable[[BaseException], bool] = lambda _: False,
    ) -> None:
        self._dial = dial
        self._leads_to = leads_to
        self._may_be_over = may_be_over
        self._coming: list[_Coming[T]] = []
        self._lock = Lock()

    def expect(self, conninfo: str) -> None:
        """Begins to dial."""
        future: Future[T] = Future()
        self._coming.append(_Coming(conninfo, future))
        # No program waits for such a thread when it ends, as it would for a pool's.
        Thread(target=self._begin, args=(conninfo, future), name="expected", daemon=True).start()

    def take(self, conninfo: str) -> T | None:
        """One that was dialled; None where no more was expected, or where a refusal may be over. Raises what dialling did.

        They are all dialled at once, so that a place with few left to give may refuse any: who is needed last goes without. Hence
        it waits until the place has answered all of them.
        """
        for one in self._to(conninfo):
            one.future.exception()
        with self._lock:
            there = self._to(conninfo)
            at = next((i for i, one in enumerate(there) if one.conninfo == conninfo), None)
            if at is None:
                return None
            mine, given = there[at], [one for one in there if not one.refused]
            if at < len(given) and mine.refused:
                mine.future, given[-1].future = given[-1].future, mine.future
            elif at >= len(given) and not mine.refused:
                before = next(one for one in there if one.refused)
                mine.future, before.future = before.future, mine.future
            self._coming.remove(mine)
        if mine.refused and at == 0 and self._may_be_over(mine.refused):
            return None  # nobody who waits needs it sooner
        return mine.future.result()

    def close(self) -> None:
        """What nobody has taken is closed, as soon as it is there."""
        with self._lock:
            left = [one.future for one in self._coming]
            self._coming.clear()
        for future in left:
            future.add_done_callback(_close)

    def _to(self, conninfo: str) -> list[_Coming[T]]:
        return [one for one in list(self._coming) if self._leads_to(one.conninfo) == self._leads_to(conninfo)]

    def _begin(self, conninfo: str, future: "Future[T]") -> None:
        try:
            future.set_result(self._dial(conninfo))
        except BaseException as error:  # noqa: BLE001 - it is raised where the connection is wanted
            future.set_exception(error)


def _close(future: "Future[T]") -> None:
    if future.exception() is None:
        future.result().close()
