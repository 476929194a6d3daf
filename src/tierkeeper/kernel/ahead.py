"""The stages of a pipeline at once, each in a thread of its own and at most one step apart: memory stays bounded."""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from threading import Timer
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_MOMENT_SECONDS: Final = 0.005


def ahead(work: Callable[[T], R], items: Iterable[T], *, alone: Callable[[T], bool] = lambda _: False) -> Generator[R]:
    """`work(item)` of each item, in order. While one result is with its taker, the next item is worked on in the thread.

    No further item is taken before one that is `alone` is done with. Close it when you stop early: that waits for the thread.
    """
    with ThreadPoolExecutor(1, "ahead") as pool:
        pending: Future[R] | None = None
        for item in items:
            before, pending = pending, pool.submit(work, item)
            waits = alone(item)
            del item  # a large one must not stay while the next is taken
            if before is not None:
                yield before.result()
            del before
            if waits:
                done, pending = pending, None
                yield done.result()
                del done
        if pending is not None:
            yield pending.result()


def drawn(items: Iterator[T], *, alone: Callable[[T], bool] = lambda _: False) -> Generator[T]:
    """`items`, which are made in a thread: the next one while one is with its taker, unless that one is `alone`.

    Close it when you stop early: that waits for the thread.
    """
    with ThreadPoolExecutor(1, "drawn") as pool:
        pending = pool.submit(_next, items)
        while (made := pending.result()) is not None:
            del pending  # it holds what it made
            (item,) = made
            del made
            waits = alone(item)
            if not waits:
                pending = pool.submit(_next, items)
            yield item
            del item
            if waits:
                pending = pool.submit(_next, items)


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None


class Beside:
    """Calls in a thread, one after the other, while its owner goes on; each waits until the one before is done with.

    What a call raises comes out of the next one, of `settle`, or of the end of the block.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._pending: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        self.settle()
        self._pending = self._pool.submit(call, *args, **kwargs)

    def settle(self) -> None:
        """Waits for the last call."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            self._pool.shutdown()


def preload(module: str) -> None:
    """Imports `module` in a thread, in a moment, when its caller has sent a question and waits: to load a library keeps all other
    threads waiting. Whoever imports it meanwhile waits for the rest of it, or hears why it cannot be.
    """

    def load() -> None:
        with suppress(ImportError):
            import_module(module)

    if module not in sys.modules:
        later = Timer(_MOMENT_SECONDS, load)
        later.name = "preload"
        later.start()
