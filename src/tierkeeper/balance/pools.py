"""What the brain is told to balance, in plain values, and the pools that the data plane makes of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal
from urllib.parse import urlsplit

from tierkeeper.balance.model import Backend, Pool, Share, Takes

Protocol = Literal["http", "tcp", "postgres"]
READS: Final = "/reads"  # no service can be named so: a name has no slash
_PORTS: Final = {"http": 80, "https": 443, "postgres": 5432, "postgresql": 5432}


@dataclass(frozen=True)
class Ask:
    """How the backends of a service are asked. `status` empty: any answer below 500; `body` has to stand in its first 64 kB."""

    protocol: Protocol
    interval_seconds: float = 30.0
    timeout_seconds: float = 2.0
    path: str = "/"
    status: tuple[int, ...] = ()
    body: str | None = None
    backend_ca: str | None = None
    fall: int = 2
    rise: int = 2
    max_lag_bytes: int = 16_000_000


@dataclass(frozen=True)
class Node:
    """A backend and the address that it is asked at, which may carry a password."""

    backend: Backend
    address: str = field(repr=False)

    @property
    def name(self) -> str:
        return self.backend.name


@dataclass(frozen=True)
class Service:
    """One service. Its first pool is for all traffic, or for Postgres's writes; a second one is for Postgres's reads."""

    name: str
    ask: Ask
    nodes: tuple[Node, ...]
    pools: tuple[Pool, ...]

    @property
    def is_postgres(self) -> bool:
        return self.ask.protocol == "postgres"

    def node(self, backend: str) -> Node | None:
        """The node of that name."""
        return next((n for n in self.nodes if n.name == backend), None)


def node(address: str, weight: int, priority: int) -> Node:
    """Of "http://host:port/path", "postgresql://user:password@host/db" or "host:port".

    Raises ValueError for one that names no host, or several.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    host, port = parts.hostname, _PORTS.get(parts.scheme) if parts.port is None else parts.port
    if not host or not port or "," in parts.netloc.rpartition("@")[2]:
        raise ValueError(address)
    shown = f"[{host}]" if ":" in host else host
    backend = Backend(f"{shown}:{port}", host, port, weight, priority, tls=parts.scheme == "https")
    return Node(backend, address)


def pools(base: Pool, protocol: Protocol, reads: tuple[str, int] | None) -> tuple[Pool, ...]:
    """The pools of a service: `base` with its name, port and backends as configured, and one for reads at `reads`.

    Postgres never panics: a write to a node that is not the primary is worse than none. Whoever does not follow its sessions
    when the primary changes would go on writing to the old one, so that they are cut.
    """
    if protocol != "postgres":
        return (replace(base, wire="http" if protocol == "http" else "tcp"),)
    writes = replace(base, wire="tcp", panic_percent=0, cuts_sessions=True, slow_start_seconds=0.0)
    if reads is None:
        return (writes,)
    host, port = reads
    return writes, replace(base, name=base.name + READS, wire="tcp", panic_percent=0, cuts_sessions=True, host=host, port=port)


def obeyed(pool: Pool, shares: Mapping[str, Share]) -> dict[str, Takes]:
    """What each backend takes in the end.

    Where in no priority the configured share of backends is left, all that are not drained take traffic: a judgement that
    finds nearly all at fault is more likely wrong than they are. Where sessions are cut (Postgres) the word stands: a
    write to the wrong node is worse than none.
    """
    told = {name: share.takes for name, share in shares.items()}
    if pool.cuts_sessions:
        return told
    for priority in {b.priority for b in pool.backends}:
        able = [b.name for b in pool.backends if b.priority == priority and told[b.name] is not Takes.NOTHING_NEW]
        up = sum(told[name] is Takes.TRAFFIC for name in able)
        if up and 100 * up >= pool.panic_percent * len(able):
            return told
    return {name: Takes.TRAFFIC if takes is Takes.NOTHING else takes for name, takes in told.items()}


def names(services: Sequence[Service]) -> dict[str, list[str]]:
    """The backends of each service, by name."""
    return {s.name: [n.name for n in s.nodes] for s in services}
