"""Brains over a data plane that carries nothing, each in a thread of its own."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from support import eventually
from tierkeeper.balance.brain import Brain
from tierkeeper.balance.kept import Kept
from tierkeeper.balance.model import Counters, Observation, Pool, Reading, Routing, Sample, Share, Takes
from tierkeeper.balance.pools import Ask, Service, node, pools
from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.results import BalanceEvent

ASK = Ask("http", interval_seconds=30.0, timeout_seconds=0.5)


def service(name: str, addresses: Sequence[str], ask: Ask = ASK, **more: object) -> Service:
    nodes = tuple(node(address, 1, 0) for address in addresses)
    base = Pool(name, "http", "127.0.0.1", 1, tuple(n.backend for n in nodes), **more)  # type: ignore[arg-type]
    return Service(name, ask, nodes, pools(base, ask.protocol, None))


@dataclass
class MemoryPlane:
    """Implements `balance.plane.Plane`: holds what the brain publishes, and shows what a test says that traffic met.

    `fails` is raised by the named method for as long as it stands there."""

    pools: tuple[Pool, ...] = ()
    routing: dict[str, dict[str, Share]] = field(default_factory=dict)
    published: list[tuple[float, Routing]] = field(default_factory=list)
    started: int = 0
    reloads: int = 0
    stopped: bool = False
    process: int = 0
    start_seconds: float = 0.0
    says: list[str] = field(default_factory=list)
    fails: dict[str, BaseException] = field(default_factory=dict)
    _counters: dict[tuple[str, str], Counters] = field(default_factory=dict)
    _samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def factory(self, folder: Path, clock: Clock) -> "MemoryPlane":
        """As `compose.balancer.serve` asks for one."""
        del folder, clock
        return self

    def meets(
        self, pool: str, backend: str, *, requests: int = 0, errors: int = 0, refused: int = 0, seconds: float = 0.005
    ) -> None:
        """Traffic that came through since the last look."""
        with self._lock:
            old = self._counters.get((pool, backend), Counters())
            self._counters[pool, backend] = replace(
                old, requests=old.requests + requests, errors=old.errors + errors, refused=old.refused + refused
            )
            samples = self._samples.setdefault((pool, backend), [])
            samples += [Sample(503 if i < errors else 200, seconds) for i in range(requests)]

    def takes(self, pool: str) -> dict[str, Takes]:
        """What each backend of a pool takes now."""
        with self._lock:
            return {name: share.takes for name, share in self.routing[pool].items()}

    def taking(self, pool: str) -> set[str]:
        """Those that take traffic now."""
        return {name for name, takes in self.takes(pool).items() if takes is Takes.TRAFFIC} if pool in self.routing else set()

    def start(self, pools: Sequence[Pool], routing: Routing) -> None:
        self._may("start")
        time.sleep(self.start_seconds)
        self.started += 1
        self._hold(pools, routing)

    def reload(self, pools: Sequence[Pool], routing: Routing) -> None:
        self._may("reload")
        self.reloads += 1
        self._hold(pools, routing)

    def publish(self, routing: Routing) -> None:
        self._may("publish")
        with self._lock:
            self.published.append((time.monotonic(), {pool: dict(shares) for pool, shares in routing.items()}))
            for pool, shares in routing.items():
                self.routing.setdefault(pool, {}).update(shares)

    def observe(self) -> Observation:
        self._may("observe")
        with self._lock:
            readings: dict[str, dict[str, Reading]] = {}
            for pool in self.pools:
                for backend in pool.backends:
                    key = (pool.name, backend.name)
                    reading = Reading(self._counters.get(key, Counters()), tuple(self._samples.pop(key, ())))
                    readings.setdefault(pool.name, {})[backend.name] = reading
        return Observation(time.monotonic(), readings)

    def tend(self) -> str | None:
        self._may("tend")
        return self.says.pop(0) if self.says else None

    def facts(self) -> Mapping[str, str | int]:
        return {"kind": "memory", "restarts": 0, "process": self.process}

    def stop(self) -> None:
        self.stopped = True

    def _hold(self, pools: Sequence[Pool], routing: Routing) -> None:
        with self._lock:
            self.pools = tuple(pools)
            self.routing = {pool: dict(shares) for pool, shares in routing.items()}

    def _may(self, what: str) -> None:
        error = self.fails.get(what)
        if error is not None:
            raise error


@dataclass
class Running:
    """A brain in a thread of its own."""

    brain: Brain
    plane: MemoryPlane
    events: list[BalanceEvent]
    services: list[Service]
    ends_because: str = "stopped"
    error: list[BaseException] = field(default_factory=list)

    def told(self, kind: str) -> list[str]:
        return [f"{e.backend or ''} {e.told}" for e in self.events if e.event == kind]


@contextmanager
def running(
    folder: Path,
    *services: Service,
    plane: MemoryPlane | None = None,
    tell: Callable[[BalanceEvent], None] | None = None,
) -> Iterator[Running]:
    plane, events, given = plane or MemoryPlane(), list[BalanceEvent](), list(services)
    brain = Brain(plane, Kept(folder), lambda: list(given), tell or events.append, SystemClock())
    stop = threading.Event()
    run = Running(brain, plane, events, given)

    def work() -> None:
        try:
            brain.run(lambda: run.ends_because if stop.is_set() else None)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            run.error.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert eventually(lambda: bool(plane.started or run.error)), "it did not begin"
        yield run
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
