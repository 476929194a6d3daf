"""A pool's backends as an Envoy cluster: how one is chosen, when one is left out, how it is spoken to. Pure."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from tierkeeper.balance.envoy import limits
from tierkeeper.balance.envoy.documents import Document, Layout, digest, pool_key, seconds, source, typed
from tierkeeper.balance.envoy.endpoints import TLS_KEY, judged, starts_slowly, tls_key
from tierkeeper.balance.model import Pool

_POLICIES: Final = "envoy.extensions.load_balancing_policies"
_TLS_LEAST: Final = "TLSv1_2"


def cluster_name(pool: Pool, layout: Layout) -> str:
    """The pool's key; where sessions are cut, with what its cluster is.

    A cluster that is replaced forgets the sessions that began through it, and could not cut them any more. Under another
    name its port is another one to Envoy, too, and what the old one holds ends with the drain.
    """
    key = pool_key(pool.name)
    return f"{key}-{digest(_cluster(pool, layout, ''))}" if pool.cuts_sessions else key


def cluster(pool: Pool, layout: Layout, system_ca: str) -> Document:
    return {"name": cluster_name(pool, layout), **_cluster(pool, layout, system_ca)}


def _cluster(pool: Pool, layout: Layout, system_ca: str) -> Document:
    key = pool_key(pool.name)
    made: Document = {
        "type": "EDS",
        "eds_cluster_config": {"service_name": key, "eds_config": source(layout, f"eds-{key}")},
        "connect_timeout": seconds(limits.CONNECT_SECONDS),
        "per_connection_buffer_limit_bytes": limits.BUFFER_BYTES,
        "load_balancing_policy": {"policies": [{"typed_extension_config": _policy(pool)}]},
        # Without the window of 0 changes of health and weight are held together for a second. Panic is decided by us.
        "common_lb_config": {"update_merge_window": "0s", "healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [_thresholds()]},
        "upstream_connection_options": {
            "tcp_keepalive": {
                "keepalive_time": limits.KEEPALIVE_SECONDS,
                "keepalive_interval": limits.KEEPALIVE_PROBE_SECONDS,
                "keepalive_probes": limits.KEEPALIVE_PROBES,
            }
        },
    }
    if judged(pool):
        made["health_checks"] = [_verdict_check()]
    if pool.cuts_sessions:
        made["close_connections_on_host_health_failure"] = True
    else:
        made["outlier_detection"] = _ejection(pool)
    if pool.wire == "http":
        protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        made["typed_extension_protocol_options"] = {protocol: typed(protocol, **_protocol(pool))}
    if any(b.tls for b in pool.backends):
        made["transport_socket_matches"] = _tls(pool, system_ca)
    return made


def _policy(pool: Pool) -> Document:
    """The names of Envoy for the algorithms. `adaptive` and `weighted` are weights over its round robin."""
    fields: Document = {}
    match pool.algorithm:
        case "consistent_hash":
            # A ring moves the keys of a backend that is out, and no others.
            fields = {"minimum_ring_size": limits.RING_MIN, "maximum_ring_size": limits.RING_MAX}
            kind = "ring_hash.v3.RingHash"
        case "least_request":
            fields = {"selection_method": "FULL_SCAN"}
            kind = "least_request.v3.LeastRequest"
        case "random_two":
            fields = {"selection_method": "N_CHOICES", "choice_count": 2}
            kind = "least_request.v3.LeastRequest"
        case _:
            kind = "round_robin.v3.RoundRobin"
    if starts_slowly(pool):
        fields["slow_start_config"] = {"slow_start_window": seconds(pool.slow_start_seconds)}
    return {"name": kind.split(".")[0], "typed_config": typed(f"{_POLICIES}.{kind}", **fields)}


def _thresholds() -> Document:
    return {
        "max_connections": limits.CONNECTIONS_PER_POOL,
        "max_requests": limits.CONNECTIONS_PER_POOL,
        "max_pending_requests": limits.PENDING_PER_POOL,
        "retry_budget": {
            "budget_percent": {"value": limits.RETRY_BUDGET_PERCENT},
            "min_retry_concurrency": limits.RETRIES_AT_ONCE_MIN,
        },
    }


def _ejection(pool: Pool) -> Document:
    """Left out for a moment after failures in a row; never the last one, nor more than leaves what panic asks for."""
    count = len(pool.backends)
    return {
        "interval": seconds(limits.EJECTION_LOOK_SECONDS),
        "base_ejection_time": seconds(limits.EJECTION_SECONDS),
        "max_ejection_time": seconds(limits.EJECTION_MAX_SECONDS),
        "max_ejection_percent": min(100 - pool.panic_percent, 100 * (count - 1) // count),
        # Not split by origin: a connection that is made would clear the failures of a server that takes all and resets all.
        "consecutive_gateway_failure": limits.FAILURES,
        "enforcing_consecutive_gateway_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 0,
    }


def _verdict_check() -> Document:
    interval = seconds(limits.VERDICT_SECONDS)
    return {
        "timeout": "1s",
        "interval": interval,
        "no_traffic_interval": interval,
        "no_traffic_healthy_interval": interval,
        "unhealthy_interval": interval,
        "unhealthy_threshold": limits.VERDICT_FAILURES,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/", "host": "none"},
    }


def _protocol(pool: Pool) -> Document:
    chosen: Document = {"http_protocol_options": {}}
    if pool.http2:
        keepalive = {"interval": "30s", "timeout": "5s"}
        chosen = {"http2_protocol_options": {"allow_connect": True, "connection_keepalive": keepalive}}
    return {
        "common_http_protocol_options": {"idle_timeout": seconds(limits.UPSTREAM_IDLE_SECONDS)},
        "explicit_http_config": chosen,
    }


def _tls(pool: Pool, system_ca: str) -> list[Document]:
    """One way to speak TLS for each host name, each verified by that name; backends without TLS come last, in plain."""
    hosts = sorted({b.host for b in pool.backends if b.tls})
    plain = {"name": "plain", "match": {}, "transport_socket": _socket("raw_buffer", "raw_buffer.v3.RawBuffer", {})}
    return [*(_tls_to(host, pool, pool.backend_ca or system_ca) for host in hosts), plain]


def _tls_to(host: str, pool: Pool, authority: str) -> Document:
    name = is_address(host)
    context: Document = {
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": _TLS_LEAST},
            "validation_context": {
                "trusted_ca": {"filename": authority},
                "match_typed_subject_alt_names": [{"san_type": "IP_ADDRESS" if name else "DNS", "matcher": {"exact": host}}],
            },
            **({"alpn_protocols": ["h2" if pool.http2 else "http/1.1"]} if pool.wire == "http" else {}),
        },
        **({} if name else {"sni": host}),
    }
    return {
        "name": tls_key(host),
        "match": {TLS_KEY: tls_key(host)},
        "transport_socket": _socket("tls", "tls.v3.UpstreamTlsContext", context),
    }


def _socket(name: str, kind: str, fields: Mapping[str, object]) -> Document:
    return {"name": name, "typed_config": typed(f"envoy.extensions.transport_sockets.{kind}", **fields)}


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
