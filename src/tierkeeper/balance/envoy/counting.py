"""Counts that only grow, from those of Envoys that come and go; and the share of samples that follows from them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tierkeeper.balance.envoy.admin import Host, written
from tierkeeper.balance.envoy.documents import pool_key
from tierkeeper.balance.envoy.limits import SAMPLE_CHANGE, SAMPLE_PERCENT_FIRST
from tierkeeper.balance.envoy.samples import percents
from tierkeeper.balance.model import Counters, Pool, Reading, Sample

_COUNTED: Final = ("cx_total", "cx_connect_fail", "rq_total", "rq_error", "rq_timeout")
_EJECTED: Final = frozenset({"failed_outlier_check"})


@dataclass
class Tally:
    """Adds up what each look at Envoy brought. Where a count fell, Envoy or the endpoint began anew."""

    _last: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    _sums: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    _fresh: dict[str, int] = field(default_factory=dict)

    def restarted(self) -> None:
        """Another Envoy counts from now on."""
        self._last.clear()

    def look(
        self,
        pools: Sequence[Pool],
        addresses: Mapping[str, str],
        hosts: Sequence[Host],
        samples: Mapping[tuple[str, str], tuple[Sample, ...]],
    ) -> dict[str, dict[str, Reading]]:
        """The readings of every backend of `pools`, also of those that Envoy does not tell of."""
        by_place: dict[tuple[str, str], list[Host]] = {}
        for host in hosts:
            by_place.setdefault((host.cluster.partition("-")[0], host.address), []).append(host)
        self._fresh = {}
        self._last = {
            (h.cluster, h.address): self._last[h.cluster, h.address] for h in hosts if (h.cluster, h.address) in self._last
        }
        readings: dict[str, dict[str, Reading]] = {}
        for pool in pools:
            readings[pool.name] = {}
            for backend in pool.backends:
                place = (pool_key(pool.name), written(addresses[backend.host], backend.port))
                at = by_place.get(place, [])
                counters = self._counters(pool, (pool.name, backend.name), at)
                readings[pool.name][backend.name] = Reading(counters, samples.get(place, ()))
        return readings

    def fresh(self) -> dict[str, int]:
        """Requests by pool that the last look brought."""
        return dict(self._fresh)

    def _counters(self, pool: Pool, key: tuple[str, str], at: Sequence[Host]) -> Counters:
        sums = self._sums.setdefault(key, dict.fromkeys(_COUNTED, 0))
        for host in at:
            place = (host.cluster, host.address)
            last = self._last.get(place, {})
            raw = {name: host.counts.get(name, 0) for name in _COUNTED}
            fell = any(raw[name] < last.get(name, 0) for name in _COUNTED)
            for name in _COUNTED:
                grown = raw[name] - (0 if fell else last.get(name, 0))
                sums[name] += grown
                if name == "rq_total":
                    self._fresh[pool.name] = self._fresh.get(pool.name, 0) + grown
            self._last[place] = raw
        http = pool.wire == "http"
        return Counters(
            requests=sums["rq_total" if http else "cx_total"],
            errors=sums["rq_error" if http else "cx_connect_fail"],
            refused=sums["cx_connect_fail"],
            in_flight=sum(h.counts.get("rq_active" if http else "cx_active", 0) for h in at),
            connections=sum(h.counts.get("cx_active", 0) for h in at),
            ejected=any(h.flags & _EJECTED for h in at),
        )


def adapted(now: Mapping[str, float], fresh: Mapping[str, int], seconds: float) -> dict[str, float] | None:
    """The shares of samples (percent, by pool) that follow from the requests of the last seconds; None for as they are."""
    if seconds <= 0:
        return None
    wanted = percents({name: count / seconds for name, count in fresh.items()})
    off = any(
        not 1 / SAMPLE_CHANGE <= (now.get(name, SAMPLE_PERCENT_FIRST) / percent) <= SAMPLE_CHANGE
        for name, percent in wanted.items()
    )
    return {**now, **wanted} if off else None
