"""Lines in the embedded metric format, as its specification has them."""

import json
from datetime import UTC, datetime
from typing import Any

from tierkeeper.functions.metrics import lines
from tierkeeper.kernel.results import HealthItem

AT = datetime(2026, 11, 1, 4, 0, 0, 250_000, tzinfo=UTC)
UNITS = {"Count", "Milliseconds"}


def of(*items: HealthItem) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(items, AT)]


def backend(service: str, name: str, seconds: float | None = None, *, healthy: bool = True) -> HealthItem:
    return HealthItem(name=f"{service} {name}", service=service, backend=name, healthy=healthy, latency_seconds=seconds)


def test_each_backend_and_each_service_has_a_line() -> None:
    ruling = HealthItem(name="db", service="db", healthy=False, cause="nobody takes writes")
    found = of(backend("api", "a:1", 0.0123), backend("api", "b:1", healthy=False), backend("db", "c:5", 0.002), ruling)
    assert [{k: v for k, v in d.items() if k != "_aws"} for d in found] == [
        {"Service": "api", "Backend": "a:1", "Healthy": 1, "Latency": 12.3},
        {"Service": "api", "Backend": "b:1", "Healthy": 0},
        {"Service": "db", "Backend": "c:5", "Healthy": 1, "Latency": 2.0},
        {"Service": "api", "Backends": 2, "HealthyBackends": 1},
        {"Service": "db", "Backends": 1, "HealthyBackends": 1},
    ]


def test_without_services_the_tiers_are_one() -> None:
    found = of(HealthItem(name="core", healthy=True, latency_seconds=0.1), HealthItem(name="archive (store)", healthy=False))
    assert [(d["Service"], d.get("Backend")) for d in found] == [("tiers", "core"), ("tiers", "archive (store)"), ("tiers", None)]


def test_a_line_is_what_the_specification_asks_for() -> None:
    for text, document in zip(lines([backend("api", "a:1", 0.5)], AT), of(backend("api", "a:1", 0.5)), strict=True):
        assert "\n" not in text
        meta = document["_aws"]
        assert meta["Timestamp"] == 1_793_505_600_250
        (directive,) = meta["CloudWatchMetrics"]
        assert directive.keys() == {"Namespace", "Dimensions", "Metrics"}
        (dimensions,) = directive["Dimensions"]
        assert 1 <= len(dimensions) <= 30
        for name in dimensions:
            assert isinstance(document[name], str) and document[name]
        for metric in directive["Metrics"]:
            assert metric.keys() == {"Name", "Unit"} and metric["Unit"] in UNITS
            assert isinstance(document[metric["Name"]], int | float)
        assert document.keys() == {"_aws", *dimensions, *(m["Name"] for m in directive["Metrics"])}


def test_a_dimension_is_what_cloudwatch_takes() -> None:
    odd = [backend("api", name) for name in ("ü:1", ":5432", "x" * 2000, "\x00", "::")]
    values = [d["Backend"] for d in of(*odd) if "Backend" in d]
    assert values == ["?:1", "5432", "x" * 1024, "?", "?"]
