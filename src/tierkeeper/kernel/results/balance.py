"""What the commands of `balance` print."""

from datetime import datetime

from pydantic import Field

from tierkeeper.kernel.results.base import ErrorResult, Result


class BalanceEvent(Result):
    """One line of `balance serve`: something that it did, or that became of a backend."""

    at: datetime
    event: str = Field(
        description="serves, state (a backend's), primary (who takes writes), weight, drained, undrained, reloaded, plane (what"
        " carries the traffic was started again), fault, well (the fault is over), audit, ended"
    )
    told: str = Field(description="the same in words")
    service: str | None = None
    backend: str | None = None
    error: ErrorResult | None = None


class BalanceShare(Result):
    """What one backend gets of one port's traffic."""

    takes: str = Field(description="traffic, nothing new (it may end what it has begun), nothing")
    weight: int = Field(description="100 for each 1 that is configured, unless `adaptive` says less")
    share: float = Field(description="of what is new, from 0 to 1, as the weights have it")


class BalanceBackend(Result):
    """One backend of a service."""

    name: str = Field(description="host:port")
    state: str = Field(description="in, out, drained, unknown (not asked yet)")
    role: str | None = Field(default=None, description="postgres: primary, replica, not the primary (it says so, and is not)")
    why: str = Field(description="the reason for its state, in words")
    since: datetime
    again_at: datetime | None = Field(default=None, description="when one that is out is tried again")
    priority: int
    ports: dict[str, BalanceShare] = Field(description="by service, and by service/reads for Postgres's reads")
    check_seconds: float | None = Field(default=None, description="how long its last good check took")
    latency_seconds: float | None = Field(default=None, description="of requests: a moving average of the last ones")
    lag_bytes: int | None = Field(default=None, description="postgres: log that it has not replayed yet")
    timeline: int | None = None
    requests: int = Field(default=0, description="since the data plane began")
    errors: int = 0
    refused: int = 0
    in_flight: int = 0
    connections: int = 0
    falls: int = Field(default=0, description="within the last minutes: each lengthens the time until it is in again")
    changes: int = Field(default=0, description="of state, since the brain began")


class BalanceService(Result):
    """One service."""

    name: str
    protocol: str
    algorithm: str
    listen: str
    listen_reads: str | None = None
    primary: str | None = Field(default=None, description="postgres: who takes writes")
    why: str | None = Field(default=None, description="postgres: why that one, or why none")
    backends: list[BalanceBackend]


class BalanceTier(Result):
    """One tier of the configuration, which the brain watches and sends no traffic to."""

    name: str = Field(description="core, main, archive (its catalog), store")
    state: str = Field(description="in, out, unknown (not asked yet)")
    why: str = Field(description="the reason for its state, in words")
    since: datetime
    asked_at: datetime = Field(description="when it last answered or failed to")
    away: bool = Field(description="it does not answer: commands that need it end at once, with exit code 75")


class BalanceStatusResult(Result):
    """`balance status`."""

    running: bool = Field(description="whether the brain runs; traffic goes on without it, as it was")
    at: datetime | None = Field(default=None, description="the instant of all that follows")
    plane: dict[str, str | int] = Field(default_factory=dict, description="what carries the traffic")
    services: list[BalanceService] = Field(default_factory=list)
    tiers: list[BalanceTier] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class DrainResult(Result):
    """`balance drain` and `balance undrain`."""

    service: str
    backend: str
    drained: bool
    changed: bool = Field(description="false where it was so before")
    notes: list[str] = Field(default_factory=list)


class ReloadResult(Result):
    """What reading the configuration anew came to."""

    services: list[str]
    notes: list[str] = Field(default_factory=list)


class BalanceCheckItem(Result):
    """A backend that was asked once, or a file of the configuration that was looked at."""

    name: str
    ok: bool
    found: str = Field(description="what it says of itself, or what is wrong")
    latency_seconds: float | None = None
    remedy: str | None = None
    service: str | None = Field(default=None, description="that it is of; null: a tier, the store, or a file")
    backend: str | None = Field(default=None, description="host:port")


class BalanceCheckResult(Result):
    """`balance check`."""

    ok: bool
    checks: list[BalanceCheckItem]
    notes: list[str] = Field(default_factory=list)
