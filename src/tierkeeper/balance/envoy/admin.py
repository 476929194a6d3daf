"""Envoy's own interface, on a socket that only this user may open: what it counts, what it took, and that it should drain."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tierkeeper.balance.envoy import limits
from tierkeeper.balance.envoy.documents import Layout
from tierkeeper.balance.sockets import near
from tierkeeper.kernel.errors import NotNow

_OK: Final = 200


class _Local(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with near(self._path) as name:
            self.sock.connect(name)


@dataclass(frozen=True)
class Host:
    """What Envoy counts of one endpoint, and how it stands."""

    address: str  # as `%UPSTREAM_HOST%` writes it
    cluster: str
    counts: Mapping[str, int]
    flags: frozenset[str]


class Admin:
    """Asks one Envoy. Every question raises NotNow where it does not answer."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def ask(self, path: str, method: str = "GET", timeout: float = limits.ADMIN_SECONDS) -> tuple[int, str]:
        connection = _Local(Path(self._layout.admin), timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise NotNow(
                "balance", f"Envoy does not answer ({type(error).__name__})", "It is started again within a second; see its log"
            ) from None
        finally:
            connection.close()

    def ready(self) -> bool:
        return self.ask("/ready")[0] == _OK

    def server(self) -> Mapping[str, Any]:
        """Its version, epoch and state."""
        return dict(json.loads(self.ask("/server_info")[1]))

    def stats(self, pattern: str) -> Mapping[str, int | str]:
        """Counters, gauges and texts whose name matches the regular expression."""
        lines = self.ask(f"/stats?filter={quote(pattern)}")[1].splitlines()
        pairs = (line.partition(": ") for line in lines)
        return {name: int(value) if value.lstrip("-").isdigit() else value.strip('"') for name, _, value in pairs if value}

    def hosts(self) -> list[Host]:
        """Every endpoint of every cluster."""
        told = json.loads(self.ask("/clusters?format=json")[1])
        return [
            _host(cluster["name"], status)
            for cluster in told.get("cluster_statuses", ())
            for status in cluster.get("host_statuses", ())
            if "socket_address" in status.get("address", {})
        ]


def _host(cluster: str, status: Mapping[str, Any]) -> Host:
    where = status["address"]["socket_address"]
    counts = {entry["name"]: int(entry.get("value", 0)) for entry in status.get("stats", ())}
    health = status.get("health_status", {})
    return Host(
        address=written(where["address"], where["port_value"]),
        cluster=cluster,
        counts=counts,
        flags=frozenset(name for name, value in health.items() if value is True),
    )


def written(address: str, port: int) -> str:
    """An endpoint as Envoy writes it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
