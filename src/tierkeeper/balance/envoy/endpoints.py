"""Who takes traffic, as Envoy reads it: the endpoints of each pool, and the verdict on each that cuts its sessions. Pure."""

from collections.abc import Mapping
from typing import Final

from tierkeeper.balance.envoy.documents import (
    VERDICT,
    Document,
    Layout,
    backend_key,
    digest,
    named,
    pool_key,
    socket_address,
    source,
    typed,
)
from tierkeeper.balance.envoy.limits import HEADERS_SECONDS
from tierkeeper.balance.model import WEIGHT_SCALE, Backend, Pool, Routing, Share, Takes
from tierkeeper.balance.pools import obeyed

Shares = Mapping[str, Mapping[str, Share]]
"""Complete: every pool, and in it every backend."""

TLS_KEY: Final = "tls"
_HEALTH: Final = {Takes.TRAFFIC: "HEALTHY", Takes.NOTHING_NEW: "DRAINING", Takes.NOTHING: "UNHEALTHY"}


def complete(pools: tuple[Pool, ...], routing: Routing, before: Shares) -> dict[str, dict[str, Share]]:
    """The share of every backend: as `routing` says, else as it was, else the configured weight."""

    def share(pool: Pool, backend: Backend) -> Share:
        for known in (routing, before):
            if (found := known.get(pool.name, {}).get(backend.name)) is not None:
                return found
        return Share(weight=backend.weight * WEIGHT_SCALE)

    return {pool.name: {b.name: share(pool, b) for b in pool.backends} for pool in pools}


def takers(pool: Pool, shares: Mapping[str, Share]) -> int:
    return sum(takes is Takes.TRAFFIC for takes in obeyed(pool, shares).values())


def endpoints(pool: Pool, shares: Mapping[str, Share], addresses: Mapping[str, str]) -> Document:
    """The pool's ClusterLoadAssignment. `addresses` has the IP address of each host."""
    takes = obeyed(pool, shares)
    ranks = sorted({b.priority for b in pool.backends})

    def one(backend: Backend) -> Document:
        endpoint: Document = {"address": socket_address(addresses[backend.host], backend.port), "hostname": backend.host}
        if judged(pool):
            endpoint["health_check_config"] = {
                "hostname": backend_key(pool.name, backend.name),
                "address": {"pipe": {"path": VERDICT}},
            }
        told: Document = {
            "endpoint": endpoint,
            "load_balancing_weight": max(1, shares[backend.name].weight),
            "health_status": _HEALTH[takes[backend.name]],
        }
        if backend.tls:
            told["metadata"] = {"filter_metadata": {"envoy.transport_socket_match": {TLS_KEY: tls_key(backend.host)}}}
        return told

    return typed(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        cluster_name=pool_key(pool.name),
        endpoints=[
            {"priority": ranks.index(rank), "lb_endpoints": [one(b) for b in pool.backends if b.priority == rank]}
            for rank in ranks
        ],
    )


def tls_key(host: str) -> str:
    return digest(host)


def starts_slowly(pool: Pool) -> bool:
    """Whether Envoy lets a backend that is in again grow to its share: not on a ring, and `adaptive` grows by itself."""
    return pool.slow_start_seconds > 0 and pool.algorithm not in ("consistent_hash", "adaptive")


def judged(pool: Pool) -> bool:
    """Whether Envoy asks for a verdict on its backends: to cut sessions, or to see when one is in again.

    A slow start begins where a check passes; what changes in the endpoints alone begins none.
    """
    return pool.cuts_sessions or starts_slowly(pool)


def verdict_routes(pools: tuple[Pool, ...], shares: Shares) -> Document:
    """The routes of the plane's own listener: 200 for a backend that keeps its sessions, or takes traffic, else 503.

    A backend that is gone from here has no route, which is a 404: its sessions end before it leaves the pool.
    """

    def well(pool: Pool, name: str) -> bool:
        share = shares[pool.name]
        return share[name].takes is not Takes.NOTHING if pool.cuts_sessions else obeyed(pool, share)[name] is Takes.TRAFFIC

    hosts = [(backend_key(p.name, b.name), well(p, b.name)) for p in pools if judged(p) for b in p.backends]
    return typed(
        "envoy.config.route.v3.RouteConfiguration",
        name="verdict",
        virtual_hosts=[
            {
                "name": host,
                "domains": [host],
                "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200 if keeps else 503}}],
            }
            for host, keeps in hosts
        ],
    )


def verdict_listener(layout: Layout) -> Document:
    manager = named(
        "verdict",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="verdict",
        rds={"route_config_name": "verdict", "config_source": source(layout, "verdict")},
        request_headers_timeout=f"{HEADERS_SECONDS}s",
        http_filters=[named("router", "envoy.extensions.filters.http.router.v3.Router")],
    )
    return {
        "name": "verdict",
        "address": {"pipe": {"path": VERDICT, "mode": 0o600}},
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [manager]}],
    }
