"""Brains over a plane in memory, each in a thread of its own."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from memory_plane import MemoryPlane
from support import eventually
from tierkeeper.balance.brain import Brain
from tierkeeper.balance.kept import Kept
from tierkeeper.balance.model import Pool
from tierkeeper.balance.pools import Ask, Service, node, pools
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.results import BalanceEvent

ASK = Ask("http", interval_seconds=30.0, timeout_seconds=0.5)


def service(name: str, addresses: Sequence[str], ask: Ask = ASK, **more: object) -> Service:
    nodes = tuple(node(address, 1, 0) for address in addresses)
    base = Pool(name, "http", "127.0.0.1", 1, tuple(n.backend for n in nodes), **more)  # type: ignore[arg-type]
    return Service(name, ask, nodes, pools(base, ask.protocol, None))


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
def running(folder: Path, *services: Service, plane: MemoryPlane | None = None) -> Iterator[Running]:
    plane, events, given = plane or MemoryPlane(), list[BalanceEvent](), list(services)
    brain = Brain(plane, Kept(folder), lambda: list(given), events.append, SystemClock())
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
