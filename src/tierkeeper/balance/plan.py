"""Chooses a backend for each request inside a program. Pure: clock readings and randomness are passed in; no thread, no socket.

One `Chooser` is held by one thread at a time: who shares it locks around its calls (`client.py` does).
"""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from tierkeeper.balance.model import WEIGHT_SCALE, Backend, Pool, Share, Takes

Random = Callable[[], float]
"""A number from 0 to 1, 1 excluded."""

RISE: Final = 0.3  # of a slower answer counts at once: the peak itself would be the tail of a healthy one
LATENCY_SECONDS: Final = 1.0  # a peak fades with this time constant: one that was slow is tried again after a second or two
FAILED_SECONDS: Final = 1.0  # what a failure counts as at least: one that fails fast must not look fast
START_SHARE: Final = 0.1  # of its weight, at least, is what one that starts slowly begins with
FAILURES: Final = 3  # in a row, and a backend is out
OUT_SECONDS: Final = 1.0  # the first time; twice as long each time that its first request after it fails again
OUT_MOST_SECONDS: Final = 10.0  # what it costs is one try again of a request that may be repeated
GRAIN_SECONDS: Final = 0.002  # added to every latency: differences far below it are a new connection's, or noise
LEAST_LATENCY_SECONDS: Final = 1e-6

RETRY_SHARE: Final = 0.2  # of the requests may be tries again: a pool in trouble is not buried under them
RETRY_FLOOR: Final = 3.0  # tries again a second in any case, for a program that asks seldom
RETRY_BURST: Final = 10.0  # at once, of a program that has just begun: that many are what a few hosts that are away cost it
RETRY_SAVED: Final = 100.0  # tries again at most that a quiet time saves up


@dataclass
class _Host:
    """What is known of one backend. `latency` is the peak-sensitive average in seconds; 0 before the first answer."""

    backend: Backend
    takes: Takes = Takes.TRAFFIC
    weight: float = float(WEIGHT_SCALE)
    since: float = -math.inf  # in, for slow start
    in_flight: int = 0
    latency: float = 0.0
    stamp: float = 0.0
    current: float = 0.0  # of smooth weighted round robin
    failures: int = 0
    out_until: float = -math.inf
    outs: int = 0

    def decayed(self, now: float) -> float:
        return self.latency * math.exp(-max(0.0, now - self.stamp) / LATENCY_SECONDS)


class Chooser:
    """Chooses among the backends of one pool, by the pool's algorithm.

    Never one of `tried`, never one that takes nothing new; one that is out only where so few are up that all take traffic
    (`panic_percent`). The first priority that has enough up takes all.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._hosts = {b.name: _Host(b, weight=float(WEIGHT_SCALE * b.weight)) for b in pool.backends}
        self._groups = {
            p: [h for h in self._hosts.values() if h.backend.priority == p] for p in sorted({b.priority for b in pool.backends})
        }
        self._turn = -1

    def update(self, now: float, shares: Mapping[str, Share]) -> None:
        """What the backends named take from now on. One that is let in begins slowly, where the pool says so."""
        for name, share in shares.items():
            host = self._hosts[name]
            if share.takes is Takes.TRAFFIC and host.takes is not Takes.TRAFFIC:
                host.since, host.failures, host.outs, host.out_until = now, 0, 0, -math.inf
            host.takes, host.weight = share.takes, float(share.weight)

    def choose(self, now: float, random: Random, key: str | None = None, tried: Collection[str] = ()) -> Backend | None:
        """The backend for one request; None where none is left. `tried` are names. `key` is what `consistent_hash` hashes."""
        hosts = self._candidates(now, tried)
        if not hosts:
            return None
        algorithm = self.pool.algorithm
        if len(hosts) == 1:
            chosen = hosts[0]
        elif algorithm == "round_robin":
            chosen = self._in_turn(hosts)
        elif algorithm == "weighted":
            chosen = self._smoothly(hosts, now)
        elif algorithm == "least_request":
            chosen = min(hosts, key=lambda h: (self._load(h, now), random()))
        elif algorithm == "consistent_hash":
            text = key if key is not None else repr(random())
            chosen = max(hosts, key=lambda h: self._rendezvous(h, now, text))
        else:
            cost = self._expected if algorithm == "adaptive" else self._load
            chosen = min(_two(hosts, random), key=lambda h: cost(h, now))
        return chosen.backend

    def began(self, backend: Backend, now: float) -> None:
        """A request was sent to `backend`. Each call is followed by one of `ended`."""
        host = self._hosts[backend.name]
        host.in_flight += 1
        if now >= host.out_until > -math.inf:
            host.out_until = now + OUT_SECONDS  # this one tries it; the others wait for what comes of it

    def ended(self, backend: Backend, now: float, seconds: float, ok: bool) -> None:
        """It ended after `seconds`. Not `ok`: no answer, or one that says that the server is at fault."""
        host = self._hosts[backend.name]
        host.in_flight = max(0, host.in_flight - 1)
        value = max(seconds, LEAST_LATENCY_SECONDS) if ok else max(seconds, FAILED_SECONDS)
        kept = math.exp(-max(0.0, now - host.stamp) / LATENCY_SECONDS)
        old = host.latency
        if not ok or not old:
            host.latency = max(value, old)
        elif value > old:
            host.latency = old + (value - old) * RISE
        else:
            host.latency = old * kept + value * (1 - kept)
        host.stamp = now
        if ok:
            host.failures, host.outs, host.out_until = 0, 0, -math.inf
            return
        host.failures += 1
        if host.failures >= FAILURES:
            host.out_until = now + min(OUT_SECONDS * 2.0 ** min(host.outs, 10), OUT_MOST_SECONDS)
            host.outs += 1

    def gave_up(self, backend: Backend, seconds: float) -> None:
        """Whoever asked did not wait for the end, which says that it takes as long at least, and nothing of how it is.

        Instead of `ended`.
        """
        host = self._hosts[backend.name]
        host.in_flight = max(0, host.in_flight - 1)
        host.latency = max(host.latency, seconds)

    def up(self, now: float) -> Mapping[str, bool]:
        """Which backends would be asked now, panic left aside."""
        return {name: self._is_up(host, now) for name, host in self._hosts.items()}

    def leaves(self, now: float, tried: Collection[str]) -> bool:
        """Whether `choose` would find one besides those of the names `tried`."""
        return bool(self._candidates(now, tried))

    def _is_up(self, host: _Host, now: float) -> bool:
        return host.takes is Takes.TRAFFIC and now >= host.out_until

    def _candidates(self, now: float, tried: Collection[str]) -> list[_Host]:
        panic = self.pool.panic_percent
        left: list[_Host] = []
        for group in self._groups.values():
            there = [h for h in group if h.takes is not Takes.NOTHING_NEW]
            up = [h for h in there if self._is_up(h, now)]
            if up and len(up) * 100 >= panic * len(there):
                if fresh := [h for h in up if h.backend.name not in tried]:
                    return fresh
            elif there:
                left += up if panic == 0 else there
        return [h for h in left if h.backend.name not in tried]

    def _weight(self, host: _Host, now: float) -> float:
        start = self.pool.slow_start_seconds
        grown = 1.0 if start <= 0 else min(1.0, max(START_SHARE, (now - host.since) / start))
        return host.weight * grown

    def _in_turn(self, hosts: list[_Host]) -> _Host:
        self._turn += 1
        return hosts[self._turn % len(hosts)]

    def _smoothly(self, hosts: list[_Host], now: float) -> _Host:
        total = 0.0
        for host in hosts:
            weight = self._weight(host, now)
            total += weight
            host.current += weight
        best = max(hosts, key=lambda h: h.current)
        best.current -= total
        return best

    def _load(self, host: _Host, now: float) -> float:
        return (host.in_flight + 1) / self._weight(host, now)

    def _expected(self, host: _Host, now: float) -> float:
        if host.latency == 0.0 and host.in_flight:
            return FAILED_SECONDS * self._load(host, now)  # nothing is known of it yet: one request at a time finds out
        # One that was slow is tried by one request; while that is under way, its peak still counts.
        latency = host.latency if host.in_flight else host.decayed(now)
        return (latency + GRAIN_SECONDS) ** 2 * self._load(host, now)

    def _rendezvous(self, host: _Host, now: float, key: str) -> float:
        drawn = hashlib.blake2b(f"{host.backend.name}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
        return -self._weight(host, now) / math.log((int.from_bytes(drawn, "big") + 0.5) / 2.0**64)


def _two(hosts: list[_Host], random: Random) -> tuple[_Host, _Host]:
    first = int(random() * len(hosts))
    second = int(random() * (len(hosts) - 1))
    return hosts[first], hosts[second + (second >= first)]


class RetryBudget:
    """Tries again within a share of the requests, or a floor where that is more. Pure; one thread at a time."""

    def __init__(self, share: float = RETRY_SHARE, floor_per_second: float = RETRY_FLOOR) -> None:
        self._share, self._floor = share, floor_per_second
        self._tokens, self._earned, self._stamp = RETRY_BURST, 0.0, -math.inf

    def asked(self, now: float) -> None:
        """A request came: a part of a try again is earned."""
        self._refill(now)
        self._tokens = min(RETRY_SAVED, self._tokens + self._share)
        self._earned += self._share

    def take(self, now: float) -> bool:
        """Whether a try again may be made now; it is counted as made."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _refill(self, now: float) -> None:
        """What the floor gives beyond what the requests have earned."""
        given = min(max(0.0, now - self._stamp), 1.0) * self._floor
        self._stamp = max(self._stamp, now)
        more, self._earned = max(0.0, given - self._earned), max(0.0, self._earned - given)
        if self._tokens < RETRY_BURST:
            self._tokens = min(RETRY_BURST, self._tokens + more)
