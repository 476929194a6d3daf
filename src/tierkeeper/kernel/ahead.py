"""The stages of a pipeline at once, each in a thread of its own and at most one step apart: memory stays bounded."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


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
