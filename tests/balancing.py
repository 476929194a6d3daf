"""A pool of backends and its balancer, simulated: seeded, in one thread, minutes in a fraction of a second.

Requests arrive by themselves (open loop, Poisson), each backend serves so many at once and queues the others, and faults begin
and end at set times. Every balancer meets the same arrivals, services and faults for a seed. `python tests/balancing.py` prints
the table of docs/internals/balance-algorithms.md.
"""

import heapq
import itertools
import math
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tierkeeper.balance import adaptive
from tierkeeper.balance.model import Backend, Counters, Pool, Sample, Takes
from tierkeeper.balance.plan import Chooser

LOOK_SECONDS = 0.1
HOLDS_AFTER_SECONDS = 0.05  # until new weights hold
TOLD_AFTER_SECONDS = 0.05  # until the brain has a sample
TIMEOUT_SECONDS = 2.0  # after which a request to one that hangs is given up
REFUSED_SECONDS = 0.0005
BIN_SECONDS = 0.05
DONE, FAILED = 200, 503


@dataclass(frozen=True)
class Fault:
    """What ails `backend` from `start` to `end`. `slower` multiplies its service; `slots` caps what it does at once."""

    backend: int
    start: float
    end: float
    added_seconds: float = 0.0
    slower: float = 1.0
    slots: int | None = None
    error_share: float = 0.0
    hangs: bool = False
    refuses: bool = False


@dataclass(frozen=True)
class World:
    """`service_seconds` is the mean of one request's service, half of it fixed, half exponential."""

    backends: int = 3
    rate: float = 1000.0
    seconds: float = 30.0
    service_seconds: float = 0.005
    slots: int = 16
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    weights: tuple[int, ...] = ()
    hardware: tuple[float, ...] = ()
    """How much longer each backend takes than `service_seconds`."""
    heavy_share: float = 0.0
    """Of the requests take twenty times as long, wherever they are served: what a workload is like, not a fault."""
    errors: float = 0.0
    """The share of requests that fail at each backend, always."""

    def with_seed(self, seed: int) -> "World":
        return replace(self, seed=seed)


class Balancer(Protocol):
    """Chooses among backends 0 to n-1. `in_flight` is what a proxy knows of each: requests it has sent and not had answered."""

    def choose(self, now: float, in_flight: Sequence[int]) -> int: ...

    def ended(self, now: float, backend: int, status: int, seconds: float) -> None: ...


@dataclass
class Trace:
    """What became of the requests: when each was sent, where, how long it took and how it ended."""

    sent: list[float] = field(default_factory=list)
    backend: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)

    def within(self, start: float, end: float) -> list[int]:
        """The numbers of the requests sent from `start` on and before `end`."""
        return [i for i, at in enumerate(self.sent) if start <= at < end]

    def share(self, backend: int, start: float, end: float) -> float:
        """Of the requests, those that `backend` got."""
        mine = self.within(start, end)
        return sum(1 for i in mine if self.backend[i] == backend) / max(1, len(mine))

    def percentile(self, q: float, start: float, end: float) -> float:
        """Of the latencies, failures left out."""
        found = sorted(self.seconds[i] for i in self.within(start, end) if not self.failed[i])
        return found[min(len(found) - 1, int(q * len(found)))] if found else 0.0

    def errors(self, start: float, end: float) -> float:
        """The share of requests that failed."""
        mine = self.within(start, end)
        return sum(self.failed[i] for i in mine) / max(1, len(mine))

    def first_below(self, backend: int, share: float, start: float, window: float = 0.25) -> float | None:
        """Seconds from `start` until the window in which `backend` gets at most `share`, and from then on for a second."""
        return self._first(
            lambda at: all(self.share(backend, at + k * window, at + (k + 1) * window) <= share for k in range(4)), start
        )

    def first_above(self, backend: int, share: float, start: float, window: float = 0.5) -> float | None:
        """Seconds from `start` until the window in which `backend` gets at least `share`."""
        return self._first(lambda at: self.share(backend, at, at + window) >= share, start)

    def _first(self, holds: Callable[[float], bool], start: float) -> float | None:
        at, last = start, self.sent[-1] - 1.0
        while at < last:
            if holds(at):
                return round(at - start, 3)
            at += BIN_SECONDS
        return None

    def longest_silence(self, backend: int, start: float, end: float) -> float:
        """The longest time in which `backend` got nothing."""
        times = [start, *(self.sent[i] for i in self.within(start, end) if self.backend[i] == backend), end]
        return max(b - a for a, b in itertools.pairwise(times))


class _Server:
    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free = [0.0] * slots

    def resize(self, slots: int, now: float) -> None:
        if slots != self.slots:
            busy = sorted(self.free)
            self.free = busy[-slots:] if slots < self.slots else [*busy, *[now] * (slots - self.slots)]
            heapq.heapify(self.free)
            self.slots = slots


def simulate(world: World, balancer: Balancer) -> Trace:
    """What becomes of all requests of `world`. Randomness of arrivals and services depends on the seed alone."""
    arrivals, service, luck = (random.Random(f"{world.seed}-{kind}") for kind in ("arrivals", "service", "luck"))  # noqa: S311 - it is to be the same each time
    servers = [_Server(world.slots) for _ in range(world.backends)]
    hardware = world.hardware or (1.0,) * world.backends
    in_flight = [0] * world.backends
    ending: list[tuple[float, int, int, int, float]] = []
    trace = Trace()
    by_backend: list[list[Fault]] = [[f for f in world.faults if f.backend == b] for b in range(world.backends)]
    now, number, half = 0.0, 0, world.service_seconds / 2
    while True:
        now += arrivals.expovariate(world.rate)
        if now >= world.seconds:
            break
        while ending and ending[0][0] <= now:
            at, _, b, status, seconds = heapq.heappop(ending)
            in_flight[b] -= 1
            balancer.ended(at, b, status, seconds)
        b = balancer.choose(now, in_flight)
        took, fails, heavy = half + service.expovariate(1 / half), luck.random(), luck.random()
        took *= 20 if heavy < world.heavy_share else 1
        fault = next((f for f in by_backend[b] if f.start <= now < f.end), None)
        end, status = _serve(servers[b], now, took * hardware[b], fails, fault=fault, world=world)
        in_flight[b] += 1
        number += 1
        heapq.heappush(ending, (end, number, b, status, end - now))
        trace.sent.append(now)
        trace.backend.append(b)
        trace.seconds.append(end - now)
        trace.failed.append(status != DONE)
    return trace


def _serve(server: _Server, now: float, took: float, fails: float, *, fault: Fault | None, world: World) -> tuple[float, int]:
    """When it ends, and how. A queue is worked off in order."""
    if fails < world.errors:
        return now + took / 5, FAILED
    if fault is None:
        server.resize(world.slots, now)
    elif fault.refuses:
        return now + REFUSED_SECONDS, 0
    else:
        server.resize(fault.slots or world.slots, now)
        if fails < fault.error_share:
            return now + took / 5, FAILED
        took = took * fault.slower + fault.added_seconds
        if fault.hangs:
            back = fault.end + took
            return (back, DONE) if back - now < TIMEOUT_SECONDS else (now + TIMEOUT_SECONDS, 0)
    begins = max(now, server.free[0])
    end = begins + took
    if end - now > TIMEOUT_SECONDS:
        return now + TIMEOUT_SECONDS, 0
    heapq.heapreplace(server.free, end)
    return end, DONE


class RoundRobin:
    """Each in its turn."""

    def __init__(self, world: World) -> None:
        self._next, self._count = 0, world.backends

    def choose(self, now: float, in_flight: Sequence[int]) -> int:  # noqa: ARG002
        self._next = (self._next + 1) % self._count
        return self._next

    def ended(self, now: float, backend: int, status: int, seconds: float) -> None:
        pass


class Choosing:
    """The Chooser of a Python program, by one of its algorithms."""

    def __init__(self, world: World, algorithm: str) -> None:
        self.random = random.Random(world.seed)  # noqa: S311
        weights = world.weights or (1,) * world.backends
        self.backends = [Backend(f"b{i}:80", f"b{i}", 80, weight=w) for i, w in enumerate(weights)]
        self.number = {b.name: i for i, b in enumerate(self.backends)}
        pool = Pool("p", "http", "", 0, tuple(self.backends), algorithm=algorithm)  # type: ignore[arg-type]
        self.chooser = Chooser(pool)

    def choose(self, now: float, in_flight: Sequence[int]) -> int:  # noqa: ARG002
        chosen = self.chooser.choose(now, self.random.random)
        assert chosen is not None
        self.chooser.began(chosen, now)
        return self.number[chosen.name]

    def ended(self, now: float, backend: int, status: int, seconds: float) -> None:
        self.chooser.ended(self.backends[backend], now, seconds, status == DONE)


class Weighted:
    """Envoy's weighted round robin (earliest deadline first), with weights from `adaptive.step` ten times a second."""

    def __init__(self, world: World, *, drawn: float = 1.0) -> None:
        self.world, self.drawn = world, drawn
        self.random = random.Random(world.seed)  # noqa: S311
        self.state = adaptive.State()
        self.names = [f"b{i}" for i in range(world.backends)]
        self.requests, self.errors, self.refused = ([0] * world.backends for _ in range(3))
        self.told: list[tuple[float, int, Sample]] = []
        self.heap: list[tuple[float, float, int]] = []
        self.next_look = LOOK_SECONDS
        self.pending: list[tuple[float, Mapping[str, int]]] = []
        self.changes: list[tuple[float, Mapping[str, int]]] = []
        self.lines: list[str] = []
        self.record = False
        self.takes = dict.fromkeys(self.names, Takes.TRAFFIC)
        self._hold({n: 100 * w for n, w in zip(self.names, world.weights or (1,) * world.backends, strict=True)})

    def _hold(self, weights: Mapping[str, int]) -> None:
        self.step = [1 / weights[n] for n in self.names]
        self.heap = [(self.random.random() * s, self.random.random(), i) for i, s in enumerate(self.step)]
        heapq.heapify(self.heap)

    def choose(self, now: float, in_flight: Sequence[int]) -> int:
        while self.next_look <= now:
            self._look(self.next_look, in_flight)
            self.next_look += LOOK_SECONDS
        while self.pending and self.pending[0][0] <= now:
            self._hold(self.pending.pop(0)[1])
        deadline, order, i = self.heap[0]
        heapq.heapreplace(self.heap, (deadline + self.step[i], order, i))
        return i

    def ended(self, now: float, backend: int, status: int, seconds: float) -> None:
        self.requests[backend] += 1
        self.errors[backend] += status != DONE
        if status != DONE or self.drawn >= 1 or self.random.random() < self.drawn:
            self.told.append((now, backend, Sample(status, seconds)))

    def _look(self, now: float, in_flight: Sequence[int]) -> None:
        samples: list[list[Sample]] = [[] for _ in self.names]
        rest = []
        for at, b, sample in self.told:
            (samples[b].append(sample) if at <= now - TOLD_AFTER_SECONDS else rest.append((at, b, sample)))
        self.told = rest
        weights = self.world.weights or (1,) * self.world.backends
        inputs = adaptive.Inputs(
            now,
            {
                n: adaptive.Seen(
                    weights[i],
                    self.takes[n],
                    Counters(self.requests[i], self.errors[i], self.refused[i], in_flight[i]),
                    tuple(samples[i]),
                )
                for i, n in enumerate(self.names)
            },
        )
        before = self.state
        self.state = adaptive.step(before, inputs)
        if self.record:
            self.lines.append(adaptive.inputs_line(inputs))
        if before.weights and self.state.weights != before.weights:
            self.changes.append((now, self.state.weights))
            self.pending.append((now + HOLDS_AFTER_SECONDS, self.state.weights))


BALANCERS: Mapping[str, Callable[[World], Balancer]] = {
    "round robin": RoundRobin,
    "least request": lambda w: Choosing(w, "least_request"),
    "peak-EWMA of two": lambda w: Choosing(w, "adaptive"),
    "adaptive": Weighted,
}


PLAIN = World(rate=1000, seconds=40)
_START, _END = 10.0, 25.0
SCENES: Mapping[str, World] = {
    "all well": PLAIN,
    "one +50 ms": replace(PLAIN, faults=(Fault(0, _START, _END, added_seconds=0.05),)),
    "one fails 10 %": replace(PLAIN, faults=(Fault(0, _START, _END, error_share=0.1),)),
    "one hangs": replace(PLAIN, faults=(Fault(0, _START, _END, hangs=True),)),
    "one refuses": replace(PLAIN, faults=(Fault(0, _START, _END, refuses=True),)),
    "one capped to a fifth": replace(PLAIN, faults=(Fault(0, _START, _END, slots=1, slower=3.0),)),
    "one capped to a half": replace(PLAIN, faults=(Fault(0, _START, _END, slots=1, slower=1.2),)),
    "one flaps": replace(PLAIN, faults=tuple(Fault(0, _START + 3 * i, _START + 2 + 3 * i, added_seconds=0.05) for i in range(5))),
    "one restarts, cold": replace(PLAIN, faults=(Fault(0, _START, 11, refuses=True), Fault(0, 11, 14, slower=5.0))),
    "all +50 ms": replace(PLAIN, faults=tuple(Fault(b, _START, _END, added_seconds=0.05) for b in range(3))),
    "two of three refuse": replace(PLAIN, faults=tuple(Fault(b, _START, _END, refuses=True) for b in range(2))),
    "one alone, +50 ms": replace(PLAIN, backends=1, rate=200, faults=(Fault(0, _START, _END, added_seconds=0.05),)),
    "one of a hundred +50 ms": replace(PLAIN, backends=100, faults=(Fault(0, _START, _END, added_seconds=0.05),)),
    "300 a second, one +50 ms": replace(PLAIN, rate=300, faults=(Fault(0, _START, _END, added_seconds=0.05),)),
    "300 a second, one fails 10 %": replace(PLAIN, rate=300, faults=(Fault(0, _START, _END, error_share=0.1),)),
}
"""What the table shows. A fault is of the first backend, unless it is all of them, from second 10 to 25."""


def row(scene: str, balancer: str, seeds: Sequence[int]) -> str:
    """One line of the table: medians over the seeds."""
    found = []
    world = SCENES[scene]
    fair = 1 / world.backends
    for seed in seeds:
        made = BALANCERS[balancer](world.with_seed(seed))
        trace = simulate(world.with_seed(seed), made)
        shed = trace.first_below(0, min(0.015, fair / 2), _START)
        back = trace.first_above(0, 0.9 * fair, _END)
        found.append(
            (
                100 * trace.share(0, _START + 1, _END),
                trace.percentile(0.99, _START + 1, _END) / trace.percentile(0.99, 1, _START),
                100 * trace.errors(_START + 1, _END),
                math.inf if shed is None else shed,
                math.inf if back is None else back,
                len(made.changes) if isinstance(made, Weighted) else 0,
            )
        )
    share, p99, errors, shed, back, changes = (statistics.median(column) for column in zip(*found, strict=True))
    times = [f"{t:.2f}" if t < math.inf else "-" for t in (shed, back)]
    return f"| {scene} | {balancer} | {share:.2f} % | {p99:.2f} | {errors:.2f} % | {times[0]} | {times[1]} | {changes:.0f} |"


def main(seeds: Sequence[int]) -> None:
    """Prints the table."""
    out = sys.stdout.write
    out("| scene | balancer | share | p99 | failed | shed, s | back, s | changes |\n|---|---|---|---|---|---|---|---|\n")
    for scene in SCENES:
        for balancer in BALANCERS:
            out(row(scene, balancer, seeds) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(range(1, int(sys.argv[1]) + 1) if len(sys.argv) > 1 else range(1, 6))
