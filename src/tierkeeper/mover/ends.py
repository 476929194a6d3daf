"""The connections of one move: dialled at once and ahead, for on a slow link each dialling costs many round trips."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Destination
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.request import ASIDES, Request, dialled
from tierkeeper.mover.source import Source
from tierkeeper.postgres.keeping import Asides, at_once
from tierkeeper.postgres.link import Connection, Full, Link, named
from tierkeeper.tiers.tier import Tier as TierFacts

Pair = tuple[Source, Destination]
_Dialled = Connection | TierkeeperError
OpenPair = Callable[[], AbstractContextManager[Pair]]


@dataclass(frozen=True)
class Ends:
    """Connections to both tiers (None for the archive), and more for `looking` at their servers, the source's first; others for
    what can be asked aside of the source (`here`) and of the destination (`there`).
    """

    source: Connection
    destination: Connection | None
    looking: Sequence[tuple[TierFacts, Connection]]
    here: Asides
    there: Asides | None

    def main(self, source: Tier) -> Connection:
        """The one to Main, of a move from `source`."""
        return self.source if self.destination is None or source == "main" else self.destination

    @property
    def spare(self) -> tuple[Connection, Connection] | None:
        """Two to both tiers that nothing is asked over any more; no worker takes them."""
        return None if self.there is None else (self.here.last, self.there.last)


@contextmanager
def opened(tiers: Mapping[Tier, TierFacts], request: Request) -> Iterator[Ends]:
    """Raises as `Link.connect` does; of several errors the source's. A server with few connections left is asked less at once."""
    names: list[Tier] = [t for t in (request.source, request.destination) if t != "archive"]
    wanted = dialled(request.source, request.destination)
    found = _in_place(wanted, at_once([partial(tiers[name].link.connect, purpose) for name, purpose in wanted]))
    with ExitStack() as stack:
        conns = [stack.enter_context(closing(one)) for one in found if not isinstance(one, TierkeeperError)]
        for one in found[: 1 - ASIDES]:
            if isinstance(one, TierkeeperError):
                raise one
        n = len(names)
        (source, *destination), looking, (here, *there), further = (
            conns[:n],
            conns[n : 2 * n],
            conns[2 * n : 3 * n],
            conns[3 * n :],
        )
        yield Ends(
            source,
            next(iter(destination), None),
            [(tiers[name], conn) for name, conn in zip(names, looking, strict=True)],
            stack.enter_context(Asides([here, *further])),
            stack.enter_context(Asides(there)) if there else None,
        )


def _in_place(wanted: Sequence[tuple[Tier, str]], found: Sequence[_Dialled]) -> list[_Dialled]:
    """`found`, where one that a run can go on without stands in for one that it needs and that a server was too full to give.

    They are all dialled at once, so that it may refuse any.
    """
    placed = list(found)
    for at, (name, purpose) in enumerate(wanted[: 1 - ASIDES]):
        for spare in range(len(wanted) - ASIDES + 1, len(wanted)):
            conn = placed[spare]
            if isinstance(placed[at], Full) and wanted[spare][0] == name and not isinstance(conn, TierkeeperError):
                conn.name = named(purpose)
                placed[at], placed[spare] = conn, placed[at]
    return placed


@contextmanager
def pair(
    links: Mapping[Tier, Link], request: Request, first: PostgresDestination, source: Connection | None = None
) -> Iterator[Pair]:
    """Connections to both tiers of a move between servers, for a worker beside that of `first`; `source` is there already."""
    here, there = links[request.source], links[request.destination]
    with ExitStack() as stack:
        leaves = source or stack.enter_context(closing(here.connect("mover")))
        arrives = stack.enter_context(closing(there.connect("mover")))
        yield Source(here, leaves, request.source), first.beside(arrives)


class Pairs:
    """Pairs of connections for workers, `ahead` of them dialled while the run is still looking. They last for all its passes."""

    def __init__(self, open_pair: OpenPair, ahead: int) -> None:
        self._open_pair = open_pair
        self._dialling = ThreadPoolExecutor(thread_name_prefix="dial")
        self._dialled: list[tuple[AbstractContextManager[Pair], Future[Pair]]] = []
        self._dial(ahead)

    def up_to(self, wanted: int) -> list[Future[Pair]]:
        """So many, of which some may still be dialled; who takes one sees whether a server refused it."""
        self._dialled = [one for one in self._dialled if not one[1].done() or one[1].exception() is None]
        self._dial(wanted - len(self._dialled))
        return [entered for _, entered in self._dialled[:wanted]]

    def _dial(self, more: int) -> None:
        for context in [self._open_pair() for _ in range(more)]:
            self._dialled.append((context, self._dialling.submit(context.__enter__)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with ExitStack() as stack, self._dialling:
            for context, entered in self._dialled:
                if entered.exception() is None:
                    stack.push(context)
