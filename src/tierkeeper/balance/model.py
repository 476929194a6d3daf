"""What traffic is spread over, and what is known of it. Pure values: no socket, no clock, no environment.

A **pool** is one port and the backends behind it. An HTTP or TCP service is one pool; a Postgres service is one for writes and,
where a second port is configured, one for reads. The data plane knows pools and nothing of Postgres.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Algorithm = Literal["round_robin", "weighted", "least_request", "random_two", "consistent_hash", "adaptive"]
Wire = Literal["http", "tcp"]

WEIGHT_SCALE = 100  # a backend of configured weight 1 that takes its fair share has this weight: room for fine steps below it


@dataclass(frozen=True)
class Backend:
    """Where traffic may go. `name` is "host:port", unique in its pool, and carries no secret.

    `weight` is the configured one (1 to 100). Backends of the lowest `priority` number take all traffic while enough of them are
    up; the next group is for when they are not.
    """

    name: str
    host: str
    port: int
    weight: int = 1
    priority: int = 0
    tls: bool = False


@dataclass(frozen=True)
class Certificate:
    """Files in PEM form with which a port ends TLS."""

    chain: str
    key: str


@dataclass(frozen=True)
class Pool:
    """One port and its backends, as configured. Times in seconds.

    `hash_on` is "address" or "header:NAME", for `consistent_hash`. `backend_ca` is the file of CAs that TLS backends are
    verified by; None for the system's. `request_timeout_seconds` is for a whole HTTP request with its tries; 0 for none.
    """

    name: str
    wire: Wire
    host: str
    port: int
    backends: tuple[Backend, ...]
    algorithm: Algorithm = "round_robin"
    max_retries: int = 3
    certificate: Certificate | None = None
    backend_ca: str | None = None
    http2: bool = False
    hash_on: str = "address"
    request_timeout_seconds: float = 60.0
    slow_start_seconds: float = 0.0
    panic_percent: int = 50
    cuts_sessions: bool = False
    """Whether sessions at a backend that takes nothing any more are ended at once (Postgres), or left to end by themselves."""


class Takes(StrEnum):
    """What may be sent to a backend now."""

    TRAFFIC = "traffic"
    NOTHING_NEW = "nothing new"  # drained: what it has begun it may end
    NOTHING = "nothing"  # out


@dataclass(frozen=True)
class Share:
    """What one backend gets: `weight` counts within those of its pool and priority that take traffic; from 1 to 10,000."""

    takes: Takes = Takes.TRAFFIC
    weight: int = WEIGHT_SCALE


Routing = Mapping[str, Mapping[str, Share]]
"""Pool by name, and in it the share of each backend by name. What it does not name keeps the share it has."""


@dataclass(frozen=True)
class Sample:
    """One request as the data plane saw it end at a backend. `status` is 0 where none came (reset, time-out)."""

    status: int
    seconds: float


@dataclass(frozen=True)
class Counters:
    """Counts of one backend since the data plane began, and two gauges (`in_flight`, `connections`) at this instant."""

    requests: int = 0
    errors: int = 0  # 5xx, resets, time-outs: whatever a client would call failed
    refused: int = 0  # connections that could not be made
    in_flight: int = 0
    connections: int = 0
    ejected: bool = False  # whether the data plane itself keeps it out for a moment (consecutive failures)


@dataclass(frozen=True)
class Reading:
    """What was seen of one backend at one instant. `samples` are a fair draw of the requests that ended since the one before."""

    counters: Counters
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class Observation:
    """All readings of one instant: by pool, then by backend. `seconds` is on the monotonic clock."""

    seconds: float
    readings: Mapping[str, Mapping[str, Reading]] = field(default_factory=dict)
