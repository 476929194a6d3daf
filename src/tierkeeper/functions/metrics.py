"""Health as metrics: lines in CloudWatch's embedded metric format, which AWS Lambda's log makes metrics of. Pure.

One line for each backend and one for each service; without services the tiers and the store are one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tierkeeper.kernel.results import HealthItem

NAMESPACE: Final = "tierkeeper"
TIERS: Final = "tiers"
DIMENSION_CHARS: Final = 1024  # CloudWatch drops a metric whose dimension is longer, empty, no ASCII, or begins with a colon
_UNITS: Final[Mapping[str, str]] = {
    "Healthy": "Count",
    "Latency": "Milliseconds",
    "Backends": "Count",
    "HealthyBackends": "Count",
}


def lines(checks: Sequence[HealthItem], at: datetime) -> Iterator[str]:
    """Of what was found at the instant `at`. `Healthy` is 1 or 0; `Latency` is of those that answered."""
    services: dict[str, list[HealthItem]] = {}
    for item in checks:
        service = item.service or TIERS
        if item.backend is None and item.service is not None:
            continue  # it speaks of the service as a whole: its backends have spoken for themselves
        backend = item.backend or item.name
        services.setdefault(service, []).append(item)
        figures = {"Healthy": float(item.healthy)}
        if item.healthy and item.latency_seconds is not None:
            figures["Latency"] = round(item.latency_seconds * 1000, 3)
        yield _line({"Service": service, "Backend": backend}, figures, at)
    for service, items in services.items():
        yield _line({"Service": service}, {"Backends": len(items), "HealthyBackends": sum(i.healthy for i in items)}, at)


def _line(dimensions: Mapping[str, str], figures: Mapping[str, float], at: datetime) -> str:
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": _UNITS[name]} for name in figures],
    }
    document: dict[str, Any] = {
        "_aws": {"Timestamp": int(at.timestamp() * 1000), "CloudWatchMetrics": [directive]},
        **{name: _dimension(value) for name, value in dimensions.items()},
        **figures,
    }
    return json.dumps(document, separators=(",", ":"))


def _dimension(value: str) -> str:
    plain = "".join(c if " " <= c <= "~" else "?" for c in value).lstrip(":").strip()
    return plain[:DIMENSION_CHARS] or "?"
