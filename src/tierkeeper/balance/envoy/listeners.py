"""A pool's port as an Envoy listener: what it takes from clients, and what it never does. Pure."""

from collections.abc import Mapping
from typing import Final

from tierkeeper.balance.envoy import limits
from tierkeeper.balance.envoy.clusters import cluster_name
from tierkeeper.balance.envoy.documents import (
    Document,
    Layout,
    listener_name,
    named,
    pool_key,
    seconds,
    socket_address,
    source,
    typed,
)
from tierkeeper.balance.model import Certificate, Pool

_FILTERS: Final = "envoy.extensions.filters"
_IDEMPOTENT: Final = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"
_REPEATED_ALWAYS: Final = "connect-failure,refused-stream"  # nothing was sent
_REPEATED_IDEMPOTENT: Final = f"reset,gateway-error,{_REPEATED_ALWAYS}"
_TCP, _SOCKET = 6, 1
_KEEPALIVE: Final = (  # level, option, value: Linux's numbers, which a port hands on to its connections
    (_SOCKET, 9, 1),
    (_TCP, 4, limits.KEEPALIVE_SECONDS),
    (_TCP, 5, limits.KEEPALIVE_PROBE_SECONDS),
    (_TCP, 6, limits.KEEPALIVE_PROBES),
    (_TCP, 18, limits.UNACKNOWLEDGED_MILLISECONDS),
)


def listener(pool: Pool, address: str, layout: Layout) -> Document:
    """`address` is the IP address of the pool's host."""
    chain: Document = {"filters": [_http(pool, layout) if pool.wire == "http" else _tcp(pool, layout)]}
    if pool.certificate is not None:
        chain["transport_socket"] = {
            "name": "tls",
            "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", **_tls(pool, layout)),
        }
    where = socket_address(address, pool.port)
    if address == "::":
        where["socket_address"]["ipv4_compat"] = True
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": listener_name(pool, address),
        "stat_prefix": f"{pool.wire}_{pool_key(pool.name)}",
        "address": where,
        "per_connection_buffer_limit_bytes": limits.BUFFER_BYTES,
        "socket_options": [{"level": level, "name": name, "int_value": value} for level, name, value in _KEEPALIVE],
        "filter_chains": [chain],
    }


def _tls(pool: Pool, layout: Layout) -> Document:
    return {
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            **({"alpn_protocols": ["h2", "http/1.1"]} if pool.wire == "http" else {}),
            "tls_certificate_sds_secret_configs": [
                {"name": pool_key(pool.name), "sds_config": source(layout, f"sds-{pool_key(pool.name)}")}
            ],
        }
    }


def secret(pool: Pool, copy: Certificate) -> Document:
    """Where Envoy finds the certificate: another pair has another name, so that it is read."""
    return typed(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        name=pool_key(pool.name),
        tls_certificate={"certificate_chain": {"filename": copy.chain}, "private_key": {"filename": copy.key}},
    )


def _tcp(pool: Pool, layout: Layout) -> Document:
    return named(
        "tcp",
        f"{_FILTERS}.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=pool_key(pool.name),
        cluster=cluster_name(pool, layout),
        max_connect_attempts=pool.max_retries + 1,
        idle_timeout="0s",  # a pool's session may rest for days; keepalive tells those that are dead
        **({"hash_policy": [{"source_ip": {}}]} if pool.algorithm == "consistent_hash" else {}),
    )


def _http(pool: Pool, layout: Layout) -> Document:
    key = pool_key(pool.name)
    return named(
        "http",
        f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=key,
        codec_type="AUTO",
        rds={"route_config_name": key, "config_source": source(layout, f"rds-{key}")},
        http_filters=[
            named("router", f"{_FILTERS}.http.router.v3.Router", suppress_envoy_headers=True, upstream_log=[_samples(pool)])
        ],
        upgrade_configs=[{"upgrade_type": "websocket"}],
        use_remote_address=True,
        # Who comes from an internal address may give Envoy orders in headers (x-envoy-*: how often to repeat, and what). So
        # nobody does: an empty list would mean this machine and private networks.
        internal_address_config={"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        normalize_path=True,
        server_header_transformation="PASS_THROUGH",
        max_request_headers_kb=limits.HEADERS_KB,
        request_headers_timeout=seconds(limits.HEADERS_SECONDS),
        stream_idle_timeout=seconds(limits.STREAM_IDLE_SECONDS),
        drain_timeout="1s",
        common_http_protocol_options={
            "idle_timeout": seconds(limits.IDLE_SECONDS),
            "max_headers_count": limits.HEADERS_COUNT,
            # Servers read X_Forwarded_For as X-Forwarded-For: such a header is taken out, as nginx does.
            "headers_with_underscores_action": "DROP_HEADER",
        },
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "localhost"},
        http2_protocol_options={
            "max_concurrent_streams": limits.CONCURRENT_STREAMS,
            "initial_stream_window_size": limits.BUFFER_BYTES,
            "initial_connection_window_size": 4 * limits.BUFFER_BYTES,
            "allow_connect": True,  # for WebSocket over HTTP/2; a CONNECT of any other kind has no route
        },
    )


def _samples(pool: Pool) -> Document:
    """A share of the tries, each as it ended at its backend. The share is read from a file (`rates`)."""
    fields = {
        "p": pool_key(pool.name),
        "h": "%UPSTREAM_HOST%",
        "c": "%RESPONSE_CODE%",
        "f": "%RESPONSE_FLAGS%",
        "d": "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%",
        "t": "%DURATION%",
    }
    draw = {
        "runtime_key": sample_key(pool),
        "percent_sampled": {"numerator": int(limits.SAMPLE_PERCENT_FIRST), "denominator": "HUNDRED"},
        "use_independent_randomness": True,
    }
    return {
        "filter": {"runtime_filter": draw},
        **named(
            "samples",
            "envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig",
            cluster="brain",
            tag="samples",
            stat_prefix="samples",
            buffer_flush_interval=seconds(limits.SAMPLE_FLUSH_SECONDS),
            buffer_size_bytes=limits.SAMPLE_BUFFER_BYTES,  # while nobody reads no more is kept
            retry_options={
                "backoff_options": {
                    "base_interval": seconds(limits.SAMPLE_FLUSH_SECONDS),
                    "max_interval": seconds(limits.BRAIN_SECONDS),
                }
            },
            record=fields,
        ),
    }


def sample_key(pool: Pool) -> str:
    return f"samples.{pool_key(pool.name)}"


def rates(percents: Mapping[str, float]) -> Document:
    """The runtime layer with the share of samples of each pool (by key), in percent.

    Whole percents only: Envoy takes finer fractions here, and then goes by its default.
    """
    drawn = {key: max(1, int(percent)) for key, percent in percents.items()}
    return typed("envoy.service.runtime.v3.Runtime", name="rates", layer={"samples": drawn})


def routes(pool: Pool, takers: int) -> Document:
    """All paths lead to the pool. What may be repeated goes by the method.

    There are no more tries than backends that take traffic: a host that failed one would else get the next.
    """
    retries = min(pool.max_retries, max(0, takers - 1))
    methods = {"name": ":method", "string_match": {"safe_regex": {"regex": _IDEMPOTENT}}}
    key = pool_key(pool.name)

    def route(match: Document, repeated: str) -> Document:
        action: Document = {"cluster": key, "timeout": seconds(pool.request_timeout_seconds)}
        if retries:
            action["retry_policy"] = _retry(repeated, retries)
        if pool.algorithm == "consistent_hash":
            action["hash_policy"] = [_hash_on(pool)]
        return {"match": match, "route": action}

    return typed(
        "envoy.config.route.v3.RouteConfiguration",
        name=key,
        virtual_hosts=[
            {
                "name": key,
                "domains": ["*"],
                "routes": [
                    route({"prefix": "/", "headers": [methods]}, _REPEATED_IDEMPOTENT),
                    route({"prefix": "/"}, _REPEATED_ALWAYS),
                ],
            }
        ],
    )


def _retry(repeated: str, retries: int) -> Document:
    predicate = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": repeated,
        "num_retries": retries,
        "retry_host_predicate": [named("envoy.retry_host_predicates.previous_hosts", predicate)],
        "host_selection_retry_max_attempts": limits.HOST_TRIES,
        "retry_back_off": {
            "base_interval": seconds(limits.RETRY_BACKOFF_SECONDS),
            "max_interval": seconds(limits.RETRY_BACKOFF_MAX_SECONDS),
        },
    }


def _hash_on(pool: Pool) -> Document:
    kind, _, name = pool.hash_on.partition(":")
    return {"header": {"header_name": name}} if kind == "header" else {"connection_properties": {"source_ip": True}}
