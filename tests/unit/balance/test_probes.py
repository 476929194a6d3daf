"""Probes judge a service by one answer."""

import socket
import time
from pathlib import Path

import pytest

from backends import HttpBackend
from tierkeeper.balance import probes
from tierkeeper.demo.server import free_port
from tierkeeper.kernel.errors import NotNow


@pytest.fixture
def closed_port() -> int:
    return free_port()


@pytest.mark.parametrize(("status", "well"), [(200, True), (302, True), (404, True), (500, False), (503, False)])
def test_http_below_500_is_well(status: int, well: bool) -> None:
    with HttpBackend(status=status) as server:
        (item,) = probes.run([probes.http("api", server.url)]).checks
    assert item.healthy is well
    assert (item.latency_seconds is not None) is well
    assert (str(status) in (item.cause or "")) is not well


def test_one_that_is_away_hides_no_other(closed_port: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = [
            probes.http("web", f"http://127.0.0.1:{closed_port}"),
            probes.tcp("gone", "127.0.0.1", closed_port),
            probes.tcp("there", "127.0.0.1", server.getsockname()[1]),
            probes.directory("store", tmp_path / "to be made"),
        ]
        result = probes.run(asked)
    assert [(c.name, c.healthy) for c in result.checks] == [("web", False), ("gone", False), ("there", True), ("store", True)]
    assert not result.ok
    assert all(c.cause and c.remedy for c in result.checks if not c.healthy)


def test_probes_run_beside_each_other() -> None:
    asked = [probes.Probe(str(n), lambda: time.sleep(0.2)) for n in range(8)]
    began = time.monotonic()
    assert probes.run(asked).ok
    assert time.monotonic() - began < 1.0


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotNow, match="no directory"):
        probes.directory("store", tmp_path / "file").ask()
