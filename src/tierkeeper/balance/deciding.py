"""What each backend of a service takes, from its health, what it says of itself and what a person wants. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tierkeeper.balance.health import Health, Standing
from tierkeeper.balance.model import WEIGHT_SCALE, Pool, Routing, Share, Takes
from tierkeeper.balance.pools import Service
from tierkeeper.balance.primary import Claim, Remembered, Ruling, rule

DRAINED_PRIMARY: Final = "a person has drained it, so that no new session can write until it is undrained or another is promoted"


@dataclass(frozen=True)
class Known:
    """What is known of one backend. `unasked`: `claim` is what it said before: it lives, and lets the check not in."""

    health: Health = field(default_factory=Health)
    claim: Claim | None = None
    drained: bool = False
    unasked: bool = False

    @property
    def is_in(self) -> bool:
        return self.health.standing is Standing.IN


@dataclass(frozen=True)
class Verdict:
    """What one backend is: `state` is in, out, drained or unknown, `role` a Postgres node's, `why` the reason for both."""

    state: str
    why: str
    role: str | None = None


@dataclass(frozen=True)
class Decision:
    """Of one service at one instant. `urgent`: something is not known that its traffic waits for."""

    routing: Routing
    verdicts: Mapping[str, Verdict]
    ruling: Ruling | None = None
    urgent: bool = False


@dataclass(frozen=True)
class Memory:
    """What a Postgres service has been, how far its log was seen to reach, and what other services have been."""

    remembered: Remembered = field(default_factory=Remembered)
    reach: int = 0
    elsewhere: Sequence[Remembered] = ()


def decide(service: Service, known: Mapping[str, Known], memory: Memory) -> Decision:
    """Weights are the configured ones; `adaptive` puts its own over them."""
    if service.is_postgres:
        return _postgres(service, known, memory)
    (pool,) = service.pools
    begun = any(k.health.standing is not Standing.UNKNOWN for k in known.values())
    takes = {name: Takes.NOTHING_NEW if begun and _waits(k) else _takes(k, fit=True) for name, k in known.items()}
    routing = {b.name: Share(takes[b.name], WEIGHT_SCALE * b.weight) for b in pool.backends}
    return Decision({pool.name: routing}, {name: _verdict(k) for name, k in known.items()})


def _postgres(service: Service, known: Mapping[str, Known], memory: Memory) -> Decision:
    claims = {name: k.claim for name, k in known.items() if k.is_in and k.claim is not None}
    limit = service.ask.max_lag_bytes
    ruling = rule(memory.remembered, claims, frozenset(known), limit, memory.reach, elsewhere=memory.elsewhere)
    if ruling.primary is not None and known[ruling.primary].drained:
        ruling = replace(ruling, why=f"{ruling.why}; {DRAINED_PRIMARY}")
    writers = frozenset(() if ruling.primary is None else (ruling.primary,))
    # Reads of the primary are right, only dearer than a replica's: so it has them where nobody else may.
    fit = frozenset(name for name in ruling.readers if not known[name].drained)
    readers = ruling.readers if fit else ruling.readers | writers
    taking = dict(zip((p.name for p in service.pools), (writers, readers), strict=False))
    routing = {pool.name: _shares(pool, known, taking[pool.name]) for pool in service.pools}
    verdicts = {}
    for name, k in known.items():
        role = _role(name, k, ruling)
        why = ruling.why if name == ruling.primary else ruling.against.get(name) if k.is_in else None
        if k.unasked and k.is_in:
            why = f"{why or role}; {k.health.why}, so that what it said before holds"
        verdicts[name] = _verdict(k, role, why)
    return Decision(routing, verdicts, ruling, urgent=ruling.primary is None)


def _shares(pool: Pool, known: Mapping[str, Known], taking: frozenset[str]) -> dict[str, Share]:
    return {b.name: Share(_takes(known[b.name], fit=b.name in taking), WEIGHT_SCALE * b.weight) for b in pool.backends}


def _waits(known: Known) -> bool:
    """Whether it has yet to be asked: as nobody has found it at fault, it counts for no panic, which would send it traffic."""
    return known.health.standing is Standing.UNKNOWN


def _takes(known: Known, *, fit: bool) -> Takes:
    """A drained one may end what it has begun, but not where it may not do that work at all."""
    if not known.is_in or not fit:
        return Takes.NOTHING
    return Takes.NOTHING_NEW if known.drained else Takes.TRAFFIC


def _role(name: str, known: Known, ruling: Ruling) -> str | None:
    if known.claim is None or not known.is_in:
        return None
    if name == ruling.primary:
        return "primary"
    return "not the primary" if known.claim.writable else "replica"


def _verdict(known: Known, role: str | None = None, why: str | None = None) -> Verdict:
    if known.drained:
        away = "" if known.is_in else f"; beside that it is out: {known.health.why}"
        return Verdict("drained", f"a person has drained it{away}", role)
    return Verdict(known.health.standing.value, why or known.health.why, role)
