"""A server with few connections left: what a run needs comes before what only makes it faster."""

from typing import Any, cast

import pytest

from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.mover.ends import _in_place
from tierkeeper.mover.request import ASIDES, dialled
from tierkeeper.postgres.link import Connection, Full

WANTED = dialled("core", "main")
NEEDED = len(WANTED) - (ASIDES - 1)


class Dialled:
    """A connection, of which only the name is looked at."""

    def __init__(self, purpose: str) -> None:
        self.name = f"tierkeeper {purpose}"


def found(*refused: int, error: type[TierkeeperError] = Full) -> list[Connection | TierkeeperError]:
    made: list[Any] = [error("x", "y", "z") if at in refused else Dialled(purpose) for at, (_, purpose) in enumerate(WANTED)]
    return cast("list[Connection | TierkeeperError]", made)


def names(conns: list[Connection | TierkeeperError]) -> list[str | None]:
    return [None if isinstance(one, TierkeeperError) else one.name for one in conns]


@pytest.mark.parametrize("at", [i for i in range(NEEDED) if WANTED[i][0] == "core"])
def test_one_that_is_not_needed_stands_in_for_one_that_is(at: int) -> None:
    """Under the name of the other: by it goes whether it shares the lock of movers."""
    placed = names(_in_place(WANTED, found(at)))
    assert placed[:NEEDED] == names(found())[:NEEDED]
    assert placed[NEEDED:].count(None) == 1


def test_each_stands_in_once_and_only_at_its_own_server() -> None:
    here, there = ([i for i in range(NEEDED) if WANTED[i][0] == tier] for tier in ("core", "main"))
    assert names(_in_place(WANTED, found(*here))).count(None) == len(here)
    assert [i for i, name in enumerate(names(_in_place(WANTED, found(*here)))[:NEEDED]) if name is None] == here[ASIDES - 1 :]
    assert names(_in_place(WANTED, found(there[0]))) == names(found(there[0]))
    assert names(_in_place(WANTED, found(here[0], error=UsageError))) == names(found(here[0])), "another fault is told"
