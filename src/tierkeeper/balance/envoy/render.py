"""Pools and routing to what Envoy reads: its bootstrap, and one file for each of its subscriptions. Pure."""

from collections.abc import Collection, Mapping
from typing import Final

from tierkeeper.balance.envoy import limits
from tierkeeper.balance.envoy.clusters import cluster
from tierkeeper.balance.envoy.documents import ADMIN, SAMPLES, Document, Layout, pool_key, seconds, source, typed
from tierkeeper.balance.envoy.endpoints import Shares, endpoints, takers, verdict_listener, verdict_routes
from tierkeeper.balance.envoy.listeners import listener, rates, routes, secret
from tierkeeper.balance.model import Certificate, Pool

_FILES_PER_CONNECTION: Final = 3  # one to the client, one to the backend, and some to spare


def bootstrap(layout: Layout, open_files: int) -> Document:
    """What Envoy starts with. It depends on nothing that a reload changes, so that a restart is rarely needed."""
    connections = min(limits.CONNECTIONS_MAX, open_files // _FILES_PER_CONNECTION)
    monitor = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "node": {"id": "tierkeeper", "cluster": "tierkeeper"},
        "admin": {"address": {"pipe": {"path": ADMIN, "mode": 0o600}}},
        "dynamic_resources": {"lds_config": source(layout, "lds"), "cds_config": source(layout, "cds")},
        "layered_runtime": {
            "layers": [{"name": "rates", "rtds_layer": {"name": "rates", "rtds_config": source(layout, "rtds")}}]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(monitor, max_active_downstream_connections=connections),
                }
            ]
        },
        "static_resources": {
            "listeners": [verdict_listener(layout)],
            "clusters": [_brain()],
        },
    }


def _brain() -> Document:
    """Who reads the samples. One that stands still is told from one that reads by a question that he answers.

    Without it Envoy would keep for him whatever comes: it never stops writing to a connection that is open.
    """
    heartbeat = {"text": limits.BRAIN_HEARTBEAT.hex()}
    every = seconds(limits.BRAIN_SECONDS)
    return {
        "name": "brain",
        "type": "STATIC",
        "connect_timeout": "1s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "close_connections_on_host_health_failure": True,
        "health_checks": [
            {
                "timeout": every,
                "interval": every,
                "no_traffic_interval": every,
                "unhealthy_interval": every,
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "tcp_health_check": {"send": heartbeat, "receive": [heartbeat]},
            }
        ],
        "load_assignment": {
            "cluster_name": "brain",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": SAMPLES}}}}]}],
        },
    }


def documents(
    layout: Layout,
    pools: tuple[Pool, ...],
    shares: Shares,
    addresses: Mapping[str, str],
    *,
    system_ca: str,
    percents: Mapping[str, float],
    copies: Mapping[str, Certificate],
    broke: Collection[str] = (),
) -> dict[str, list[Document]]:
    """All files. `addresses` has the IP address of every host, `percents` the share of samples and `copies` the certificate that
    Envoy reads, by pool name; `broke` are the pools that have repeated too much."""
    return {
        **traffic(pools, shares, addresses, broke),
        **{
            f"sds-{pool_key(pool.name)}": [secret(pool, copies[pool.name])]
            for pool in pools
            if pool.certificate is not None and pool.name in copies
        },
        "rtds": [sampling(pools, percents)],
        "cds": [typed("envoy.config.cluster.v3.Cluster", **cluster(pool, layout, system_ca)) for pool in pools],
        "lds": [listener(pool, addresses[pool.host], layout) for pool in pools],
    }


def traffic(
    pools: tuple[Pool, ...],
    shares: Shares,
    addresses: Mapping[str, str],
    broke: Collection[str] = (),
) -> dict[str, list[Document]]:
    """The files that follow a change of shares or of addresses.

    The verdict comes first: a session that must end is cut by it, and until then nothing new may follow.
    """
    made: dict[str, list[Document]] = {"verdict": [verdict_routes(pools, shares)]}
    for pool in pools:
        made[f"eds-{pool_key(pool.name)}"] = [endpoints(pool, shares[pool.name], addresses)]
        if pool.wire == "http":
            made[f"rds-{pool_key(pool.name)}"] = [routes(pool, 0 if pool.name in broke else takers(pool, shares[pool.name]))]
    return made


def sampling(pools: tuple[Pool, ...], percents: Mapping[str, float]) -> Document:
    return rates({pool_key(p.name): percents.get(p.name, limits.SAMPLE_PERCENT_FIRST) for p in pools if p.wire == "http"})


def watches(pools: tuple[Pool, ...]) -> int:
    """How many inotify instances Envoy needs: one for each file, and one for the folder of each certificate."""
    return 4 + sum(1 + (pool.wire == "http") + 2 * (pool.certificate is not None) for pool in pools)
