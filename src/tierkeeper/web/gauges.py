"""What Prometheus is told of the balancer. Pure but for the library: a status in, a text out."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

from tierkeeper.kernel.results import BalanceStatusResult

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_1_0_0
_BACKEND: Final = ("service", "backend")
_PORT: Final = ("service", "backend", "port")


def text(status: BalanceStatusResult) -> bytes:
    """In Prometheus's format. Each scrape has a registry of its own: backends come and go."""
    registry = CollectorRegistry()

    def gauge(name: str, words: str, labels: tuple[str, ...] = _BACKEND) -> Gauge:
        return Gauge(f"tierkeeper_balance_{name}", words, labels, registry=registry)

    def counter(name: str, words: str, labels: tuple[str, ...] = _BACKEND) -> Counter:
        return Counter(f"tierkeeper_balance_{name}", words, labels, registry=registry)

    up = gauge("up", "1 if the backend is in: its checks go well and nobody has drained it")
    drained = gauge("drained", "1 if a person has drained it")
    primary = gauge("primary", "1 if it takes the writes of a Postgres service")
    latency = gauge("latency_seconds", "Moving average of the latency of its requests")
    check = gauge("check_seconds", "How long its last good check took")
    lag = gauge("lag_bytes", "Log that a replica has not replayed yet")
    in_flight = gauge("in_flight", "Requests under way")
    weight = gauge("weight", "Its weight at a port", _PORT)
    share = gauge("share", "Its share of what is new at a port, from 0 to 1", _PORT)
    requests = counter("requests", "Requests, or connections where there are none, since the data plane began")
    errors = counter("errors", "Of them, those that failed")
    refused = counter("refused", "Connections that could not be made")
    changes = counter("state_changes", "Changes of its state since the brain began")
    for service in status.services:
        for b in service.backends:
            labels = (service.name, b.name)
            up.labels(*labels).set(b.state == "in")
            drained.labels(*labels).set(b.state == "drained")
            if service.protocol == "postgres":
                primary.labels(*labels).set(b.name == service.primary)
            for measure, value in ((latency, b.latency_seconds), (check, b.check_seconds), (lag, b.lag_bytes)):
                if value is not None:
                    measure.labels(*labels).set(value)
            in_flight.labels(*labels).set(b.in_flight)
            for counted, number in ((requests, b.requests), (errors, b.errors), (refused, b.refused), (changes, b.changes)):
                counted.labels(*labels).inc(number)
            for port, one in b.ports.items():
                weight.labels(*labels, port).set(one.weight)
                share.labels(*labels, port).set(one.share)
    tier = gauge("tier_up", "1 if a tier of the configuration answers", ("tier",))
    for one_tier in status.tiers:
        tier.labels(one_tier.name).set(one_tier.state == "in")
    for name, fact in status.plane.items():
        if isinstance(fact, int):
            words = f"The data plane's {name.replace('_', ' ')}"
            gauge(f"plane_{name}", words, ()).set(fact)
    gauge("faulty", "1 while something is wrong with the balancer itself", ()).set(bool(status.notes))
    return generate_latest(registry)
