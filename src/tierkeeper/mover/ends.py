"""The connections of one move: dialled all at once, for on a slow link each dialling costs many round trips."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from contextvars import copy_context
from dataclasses import dataclass

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.policy import Tier
from tierkeeper.mover.request import Request
from tierkeeper.postgres.link import Connection
from tierkeeper.tiers.tier import Tier as TierFacts


@dataclass(frozen=True)
class Ends:
    """Connections to both tiers (None for the archive), and more for `looking` at their servers, the source's first."""

    source: Connection
    destination: Connection | None
    looking: Sequence[tuple[TierFacts, Connection]]


@contextmanager
def opened(tiers: Mapping[Tier, TierFacts], request: Request) -> Iterator[Ends]:
    """Raises as `Link.connect` does; of several errors the source's."""
    names: list[Tier] = [t for t in (request.source, request.destination) if t != "archive"]
    wanted = [(name, purpose) for purpose in ("mover", "budget") for name in names]
    with ThreadPoolExecutor(len(wanted), "dial") as pool:
        dialled = [pool.submit(copy_context().run, tiers[name].link.connect, purpose) for name, purpose in wanted]
    with ExitStack() as stack:
        conns, errors = [], []
        for one in dialled:
            try:
                conns.append(stack.enter_context(closing(one.result())))
            except TierkeeperError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        looking = [(tiers[name], conn) for name, conn in zip(names, conns[len(names) :], strict=True)]
        yield Ends(conns[0], conns[1] if len(names) > 1 else None, looking)
