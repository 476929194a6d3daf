"""The connections of one move: dialled all at once, for on a slow link each dialling costs many round trips."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.policy import Tier
from tierkeeper.mover.request import Request
from tierkeeper.postgres.keeping import at_once
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
    dialled = at_once([partial(tiers[name].link.connect, purpose) for name, purpose in wanted])
    with ExitStack() as stack:
        conns = [stack.enter_context(closing(one)) for one in dialled if not isinstance(one, TierkeeperError)]
        for one in dialled:
            if isinstance(one, TierkeeperError):
                raise one
        looking = [(tiers[name], conn) for name, conn in zip(names, conns[len(names) :], strict=True)]
        yield Ends(conns[0], conns[1] if len(names) > 1 else None, looking)
