"""Waits until Envoy has taken what it was fed, or has refused it: it answers a file by its statistics alone."""

from collections.abc import Mapping
from typing import Final

from tierkeeper.balance.envoy import limits, process
from tierkeeper.balance.envoy.admin import Admin, written
from tierkeeper.balance.envoy.clusters import cluster_name
from tierkeeper.balance.envoy.documents import Layout
from tierkeeper.balance.envoy.endpoints import Shares, judged
from tierkeeper.balance.envoy.feeding import Feed
from tierkeeper.balance.model import Pool, Takes
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import NotNow, UsageError

_LOOK_SECONDS: Final = 0.005
_VERSIONS: Final = {"lds": "listener_manager.lds.version_text", "cds": "cluster_manager.cds.version_text"}
_WARMING: Final = ("listener_manager.total_listeners_warming", "cluster_manager.warming_clusters")
_PATTERN: Final = r"(update_rejected|ds\.version_text|total_listeners_warming|warming_clusters)$"
_REJECTED: Final = "config update rejected: "
_UNCHECKED: Final = frozenset({"failed_active_health_check", "pending_active_hc"})


class Settling:
    """Looks at one Envoy until it is as told."""

    def __init__(self, layout: Layout, admin: Admin, feed: Feed, clock: Clock) -> None:
        self._layout, self._admin, self._feed, self._clock = layout, admin, feed, clock

    def rejections(self) -> dict[str, int]:
        """How often Envoy refused each kind of file. Raises NotNow."""
        return {name: value for name, value in self._admin.stats("update_rejected$").items() if isinstance(value, int) and value}

    def offer(self) -> bool:
        """Feeds again what Envoy does not hold, and whether there was such: a port that it could not take may be free by now.

        Raises NotNow.
        """
        stats = self._admin.stats(_PATTERN)
        owed = [kind for kind, version in _VERSIONS.items() if stats.get(version) != self._feed.version(kind)]
        for kind in owed:
            self._feed.again(kind)
        return bool(owed)

    def until_taken(self, kind: str, before: Mapping[str, int]) -> None:
        """Returns when the file `kind` ("lds", "cds") holds in Envoy, and nothing warms up any more.

        Raises UsageError where Envoy refused it, or anything else since `before`; NotNow where it says nothing.
        """
        end = self._clock.monotonic() + limits.READY_SECONDS
        while self._clock.monotonic() < end:
            stats = self._admin.stats(_PATTERN)
            if any(int(v) > before.get(n, 0) for n, v in stats.items() if n.endswith("update_rejected")):
                raise UsageError("balance", f"Envoy refuses it: {self.why()}", "Change what it names")
            if stats.get(_VERSIONS[kind]) == self._feed.version(kind) and not any(stats.get(name) for name in _WARMING):
                return
            self._clock.sleep(_LOOK_SECONDS)
        raise NotNow("balance", f"Envoy has not taken the change in {limits.READY_SECONDS:g} seconds", "See its log")

    def until_judged(self, pools: tuple[Pool, ...], shares: Shares, addresses: Mapping[str, str]) -> None:
        """Returns when every backend that waits for a verdict and takes traffic has got its first one."""
        waited = {
            (cluster_name(pool, self._layout), written(addresses[b.host], b.port))
            for pool in pools
            if judged(pool)
            for b in pool.backends
            if shares[pool.name][b.name].takes is Takes.TRAFFIC
        }
        end = self._clock.monotonic() + limits.READY_SECONDS
        while waited and self._clock.monotonic() < end:
            waited -= {(h.cluster, h.address) for h in self._admin.hosts() if not h.flags & _UNCHECKED}
            if waited:
                self._clock.sleep(_LOOK_SECONDS)

    def why(self) -> str:
        """What Envoy says of its last refusal: it stands in its log, and not everywhere in its interface."""
        told = [line.rpartition(_REJECTED)[2] for line in process.log_lines(self._layout) if _REJECTED in line]
        return told[-1].strip() if told else "it does not say why"
