"""One service as the brain knows it: what was heard and seen of its backends, what follows, and how that is shown.

It holds state and reads no clock; what follows from the state is decided in `deciding`, `health` and `primary`.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from tierkeeper.balance import adaptive, health
from tierkeeper.balance.checks import Report
from tierkeeper.balance.deciding import Decision, Known, Memory, Verdict, decide
from tierkeeper.balance.evidence import why
from tierkeeper.balance.health import EVIDENCE_SECONDS, Answer, Evidence, Standing
from tierkeeper.balance.model import Counters, Observation, Reading, Share, Takes
from tierkeeper.balance.pools import Service, obeyed
from tierkeeper.balance.primary import Claim, Remembered
from tierkeeper.kernel.results import BalanceBackend, BalanceService, BalanceShare

ROLE_SECONDS: Final = 1.0  # a Postgres node is asked so often at least: its role and its lag change without any failure
_EWMA: Final = 0.1  # weight of the newest request in a backend's shown latency
_PANIC: Final = "it takes traffic all the same, as too few others are well"
_ENDED: Final = Answer(False, "its open session ended")


@dataclass
class Seen:
    """What traffic met at one backend through one pool."""

    counts: "deque[tuple[float, Counters]]" = field(default_factory=deque)
    reading: Reading = field(default_factory=lambda: Reading(Counters()))


@dataclass
class Tended:
    """See the module. `changes` counts changes of state."""

    service: Service
    remembered: Remembered = field(default_factory=Remembered)
    known: dict[str, Known] = field(default_factory=dict)
    decision: Decision | None = None
    changes: dict[str, int] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    states: dict[str, adaptive.State] = field(default_factory=dict)
    _seen: dict[tuple[str, str], Seen] = field(default_factory=dict)
    _since: dict[str, tuple[str, str | None, float]] = field(default_factory=dict)
    _reach: int = 0

    def follow(self, service: Service, drained: frozenset[str]) -> None:
        """Is for `service` from now on; of backends that stay all stays known. What a copy of this has is left as it is."""
        known = self.known if service.ask.protocol == self.service.ask.protocol else {}
        self.known = {n.name: replace(known.get(n.name, Known()), drained=n.name in drained) for n in service.nodes}
        pools = {p.name for p in service.pools}
        learning = {p.name for p in service.pools if p.algorithm == "adaptive"}
        self._seen = {key: s for key, s in self._seen.items() if key[0] in pools and key[1] in self.known}
        self.states = {pool: s for pool, s in self.states.items() if pool in learning}
        self.service = service

    def drain(self, backend: str, *, drained: bool) -> None:
        self.known[backend] = replace(self.known[backend], drained=drained)

    def hear(self, report: Report, now: float) -> None:
        """The outcome of one check. A session that ended and a server that then fails its check are two failures.

        A server that lives and lets the check not in is as it was: its traffic fills it, or its password was changed, and to
        cut what it serves would be the outage that the check looks for.
        """
        name = report.key[1]
        known = self.known.get(name)
        if known is None:
            return
        stands, answer = known.health, report.heard.answer
        before = known.claim or (self._held(name) if report.heard.lives else None)
        if report.heard.lives and before is not None and not stands.is_out:
            answer = replace(answer, ok=True)
        if report.lost and not answer.ok:
            stands = health.after_answer(stands, _ENDED, now, self.service.ask)
        stands = health.after_answer(stands, answer, now, self.service.ask)
        claim = report.heard.claim or (None if stands.is_out else before)
        self.known[name] = replace(known, health=stands, claim=claim, unasked=report.heard.lives)

    def _held(self, name: str) -> Claim | None:
        """What the last primary is taken to say where it cannot be asked at the start; None of any other node."""
        was = self.remembered
        return Claim(True, self._reach, was.timeline, was.system) if was.holder == name else None

    def see(self, observation: Observation) -> None:
        """What traffic met, and what follows from it for health."""
        now = observation.seconds
        for pool in self.service.pools:
            for name, reading in observation.readings.get(pool.name, {}).items():
                if name not in self.known:
                    continue
                seen = self._seen.setdefault((pool.name, name), Seen())
                seen.reading = reading
                seen.counts.append((now, reading.counters))
                while len(seen.counts) > 1 and seen.counts[1][0] <= now - EVIDENCE_SECONDS:
                    seen.counts.popleft()
                for sample in reading.samples:
                    if sample.status:
                        before = self.latency.get(name, sample.seconds)
                        self.latency[name] = before + _EWMA * (sample.seconds - before)
        evidence = {name: self._evidence(name) for name in self.known}
        doubtful = [name for name, e in evidence.items() if e.is_doubtful]
        peers = {name: e for name, e in evidence.items() if e.tells and self.known[name].is_in} if doubtful else {}
        for name in doubtful:
            known, others = self.known[name], [e for other, e in peers.items() if other != name]
            self.known[name] = replace(known, health=health.after_evidence(known.health, evidence[name], others, now))

    def decide(self, now: float, elsewhere: Sequence[Remembered] = ()) -> Decision:
        """What holds from now on; who was primary is to be remembered before it does. `elsewhere`: of other services."""
        decision = decide(self.service, self.known, Memory(self.remembered, self._reach, elsewhere))
        ruling = decision.ruling
        if ruling is not None and ruling.primary is not None:
            claim = self.known[ruling.primary].claim
            self._reach = claim.lsn if claim is not None else self._reach
        for name, verdict in decision.verdicts.items():
            before = self._since.get(name)
            if before is None or before[:2] != (verdict.state, verdict.role):
                self._since[name] = (verdict.state, verdict.role, now)
        self.decision = decision
        return decision

    def weigh(self, seconds: float) -> list[tuple[str, adaptive.State, adaptive.Inputs]]:
        """A step of `adaptive` in each pool that asks for it: the pool, the state before, and what it looked at."""
        steps: list[tuple[str, adaptive.State, adaptive.Inputs]] = []
        for pool in self.service.pools:
            if pool.algorithm != "adaptive" or self.decision is None:
                continue
            shares = self.decision.routing[pool.name]
            readings = {b.name: self._seen.get((pool.name, b.name), Seen()).reading for b in pool.backends}
            backends = {
                b.name: adaptive.Seen(
                    b.weight, shares[b.name].takes, readings[b.name].counters, readings[b.name].samples, b.priority
                )
                for b in pool.backends
            }
            before, inputs = self.states.get(pool.name, adaptive.State()), adaptive.Inputs(seconds, backends, pool.panic_percent)
            self.states[pool.name] = adaptive.step(before, inputs)
            steps.append((pool.name, before, inputs))
        return steps

    def routing(self) -> dict[str, dict[str, Share]]:
        """What is to hold, with the weights that were learned."""
        routing = {} if self.decision is None else {p: dict(shares) for p, shares in self.decision.routing.items()}
        for pool, state in self.states.items():
            for name, share in routing.get(pool, {}).items():
                routing[pool][name] = replace(share, weight=state.weights.get(name, share.weight))
        return routing

    def pace(self, name: str, now: float) -> float:
        """Seconds between two checks of a backend."""
        interval = self.service.ask.interval_seconds
        if self.service.is_postgres:
            interval = min(interval, ROLE_SECONDS)
        known = self.known[name]
        urgent = self.decision is not None and self.decision.urgent and not known.health.is_out and not known.drained
        return health.pace_seconds(known.health, now, interval, urgent=urgent)

    def all_asked(self) -> bool:
        """Whether every backend has been asked once."""
        return all(k.health.standing is not Standing.UNKNOWN for k in self.known.values())

    def shown(self, at: Callable[[float], datetime], now: float, due: Callable[[str], float | None]) -> BalanceService:
        """For a person. `at` gives an instant of the monotonic clock as one of the calendar's."""
        pools, ask = self.service.pools, self.service.ask
        ruling = self.decision.ruling if self.decision is not None else None
        listens = [f"{p.host}:{p.port}" for p in pools]
        served = self._served()
        return BalanceService(
            name=self.service.name,
            protocol=ask.protocol,
            algorithm=pools[0].algorithm,
            listen=listens[0],
            listen_reads=listens[1] if len(listens) > 1 else None,
            primary=ruling.primary if ruling is not None else None,
            why=ruling.why if ruling is not None else None,
            backends=[self._backend(name, at, now, due(name), served) for name in self.known],
        )

    def _served(self) -> dict[str, dict[str, Share]]:
        """What each backend gets of each pool, panic included."""
        routing = self.routing()
        return {
            p.name: {name: replace(routing[p.name][name], takes=takes) for name, takes in obeyed(p, routing[p.name]).items()}
            for p in self.service.pools
            if p.name in routing
        }

    def _backend(
        self,
        name: str,
        at: Callable[[float], datetime],
        now: float,
        due: float | None,
        served: Mapping[str, Mapping[str, Share]],
    ) -> BalanceBackend:
        known, node = self.known[name], self.service.node(name)
        verdict = self.decision.verdicts[name] if self.decision is not None else Verdict("unknown", known.health.why)
        again = max(due or now, known.health.held_until) if known.health.is_out else None
        counters = [self._seen[p.name, name].reading.counters for p in self.service.pools if (p.name, name) in self._seen]
        panics = known.health.is_out and any(shares[name].takes is Takes.TRAFFIC for shares in served.values())
        lag = None if known.claim is None or known.claim.writable else max(0, self._reach - known.claim.lsn)
        return BalanceBackend(
            name=name,
            state=verdict.state,
            role=verdict.role,
            why="; ".join([verdict.why, *([_PANIC] if panics else []), *self.learned(name)]),
            since=at(self._since.get(name, ("", None, now))[2]),
            again_at=at(again) if again is not None else None,
            priority=node.backend.priority if node is not None else 0,
            ports={pool: shared(shares, name, self._priorities()) for pool, shares in served.items()},
            check_seconds=_rounded(known.health.seconds),
            latency_seconds=_rounded(self.latency.get(name)),
            lag_bytes=lag,
            timeline=known.claim.timeline if known.claim is not None else None,
            requests=sum(c.requests for c in counters),
            errors=sum(c.errors for c in counters),
            refused=sum(c.refused for c in counters),
            in_flight=sum(c.in_flight for c in counters),
            connections=sum(c.connections for c in counters),
            falls=len(known.health.falls),
            changes=self.changes.get(name, 0),
        )

    def learned(self, name: str) -> list[str]:
        """Why `adaptive` gives a backend that takes traffic less than its fair share, if it does."""
        known = [state.known[name] for state in self.states.values() if name in state.known]
        takes = self.decision is None or any(shares[name].takes is Takes.TRAFFIC for shares in self.decision.routing.values())
        return list(dict.fromkeys(words for k in known if takes and (words := why(k)) is not None))

    def _priorities(self) -> dict[str, int]:
        return {n.name: n.backend.priority for n in self.service.nodes}

    def _evidence(self, name: str) -> Evidence:
        keys = [(pool.name, name) for pool in self.service.pools]
        found = [health.seen(self._seen[key].counts) for key in keys if key in self._seen]
        if len(found) == 1:
            return found[0]
        return Evidence(
            sum(e.requests for e in found),
            sum(e.errors for e in found),
            sum(e.refused for e in found),
            any(e.ejected for e in found),
        )


def shared(shares: Mapping[str, Share], name: str, priorities: Mapping[str, int]) -> BalanceShare:
    """What a backend gets of what is new: by weight, among those of the first priority of which any takes traffic."""
    taking = {n: s.weight for n, s in shares.items() if s.takes is Takes.TRAFFIC}
    first = min((priorities[n] for n in taking), default=0)
    whole = sum(weight for n, weight in taking.items() if priorities[n] == first)
    own = taking.get(name, 0) if priorities[name] == first else 0
    return BalanceShare(takes=shares[name].takes.value, weight=shares[name].weight, share=round(own / whole, 4) if whole else 0.0)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 5)
