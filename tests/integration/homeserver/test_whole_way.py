"""The whole way with the archive at a home server: a client that has its URL and its token, and nothing of its disk."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

import processes
from faultproxy import FaultProxy
from home_server import HomeServer
from support import Tiers, TiersFactory, sampled, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import Faults, NotNow, UsageError
from tierkeeper.kernel.tables import TableName

EVENTS = TableName("public", "events")
COUNTED = "SELECT count(*) AS n, count(DISTINCT id) AS d FROM public.events"
BEFORE = datetime(2024, 1, 11, tzinfo=UTC)
POLICY = [{"name": "public.kinds", "mode": "mirror"}, {"name": "public.events", "age": "at"}]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HomeServer]:
    with HomeServer(tmp_path / "home") as server:
        yield server


@pytest.fixture
def tiers(make_tiers: TiersFactory) -> Tiers:
    tiers = make_tiers(core="events", main="events")
    with closing(tiers.core.connect("app")) as core:
        core.execute("TRUNCATE public.events")
    return tiers


def enrolled(tiers: Tiers, server: HomeServer, port: int | None = None) -> tuple[Keeper, dict[str, str]]:
    """A keeper, and the environment of the command line, that know the server by its enrolment string alone."""
    path = tierkeeper_toml(tiers, POLICY, query_timeout="1 second")
    path.write_text(path.read_text().replace(f'"{tiers.store}"', '"env:HOME_SERVER_URL"'))
    url = server.url.replace(f":{server.port}", f":{port or server.port}")
    environment = {**tiers.environment, "HOME_SERVER_URL": url, "HOME_SERVER_TOKEN": server.token("writer")}
    return open_keeper(load(path, environment, tiers.home), environment=environment), environment


def test_the_whole_way(tiers: Tiers, server: HomeServer) -> None:
    keeper, environment = enrolled(tiers, server)
    keeper.setup(apply=True)
    assert any("keeps 0 objects and takes more" in item.finding for item in keeper.check().checks)
    assert keeper.move(EVENTS, "main", "archive", before=BEFORE).rows == 239
    assert keeper.archive_verify().ok
    assert keeper.query("SELECT count(*) AS n FROM public.events").to_pylist() == [{"n": 2000}]
    assert keeper.query("SELECT count(*) AS n FROM public.events WHERE at < '2024-01-03'").to_pylist() == [{"n": 47}]
    out = Path(tiers.home) / "out.parquet"
    assert keeper.archive_restore(EVENTS, to=str(out)).rows == 239
    assert keeper.archive_drill().ok
    archive = keeper.status().tiers["archive"]
    assert archive.used_bytes is not None
    assert archive.used_bytes > sum(s.bytes for s in keeper.archive_list())
    assert archive.healthy
    assert not tiers.store.exists() or not list(tiers.store.iterdir()), "nothing was kept on this machine"
    for path in server.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"events" not in data, path  # I6
            assert b"AGE-SECRET-KEY" not in data, path
    ended = processes.command(["archive", "verify", "--sample", "1/2", "--json"], environment)
    assert (ended.returncode, json.loads(ended.stdout)["checked"]) == (0, 1)


def test_a_writer_rotates_the_key_and_an_admin_deletes_what_it_leaves(tiers: Tiers, server: HomeServer) -> None:
    keeper, environment = enrolled(tiers, server)
    keeper.setup(apply=True)
    keeper.move(EVENTS, "main", "archive", before=BEFORE)
    result = keeper.keys_rotate()
    assert (result.ok, result.segments, result.left) == (False, 1, 1)
    assert "a writer's token may not delete" in result.notes[-1]
    assert keeper.archive_verify().ok
    environment["HOME_SERVER_TOKEN"] = server.token("admin")
    admin = open_keeper(load(tiers.home / "tierkeeper.toml", environment, tiers.home), environment=environment)
    result = admin.keys_rotate()
    assert (result.ok, result.new_key, result.left) == (True, False, 0)
    assert len(list((server.root / "key").iterdir())) == 1
    erased = keeper.archive_erase(EVENTS, where="id = 1")
    assert (erased.ok, erased.keys_destroyed, erased.keys_left) == (False, 0, 1), "the old file opens still"
    erased = admin.archive_erase(EVENTS, where="id = 1")
    assert (erased.ok, erased.keys_destroyed, erased.keys_left, erased.segments) == (True, 1, 0, {})


def test_the_status_says_what_the_server_found_wrong(tiers: Tiers, server: HomeServer) -> None:
    keeper, environment = enrolled(tiers, server)
    keeper.setup(apply=True)
    keeper.move(EVENTS, "main", "archive", before=BEFORE)
    (path,) = (server.root / "segment").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with server.client("verifier") as client:
        client.post(f"/v1/objects/segment/{path.name}/check")
    archive = keeper.status().tiers["archive"]
    assert not archive.healthy
    assert f"1 of its 4 objects wrong, such as segment/{path.name}" in (archive.cause or "")
    asked = subprocess.run(
        [sys.executable, "-c", "from intelligent_load_balancer import IntelligentLoadBalancer as B; B().test_health_checks()"],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tiers.home,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert asked.returncode == 1
    assert "objects wrong" in asked.stdout + asked.stderr


def test_a_server_that_is_killed_under_a_run_costs_a_rerun_and_no_row(tiers: Tiers, server: HomeServer) -> None:
    keeper, environment = enrolled(tiers, server)
    keeper.setup(apply=True)
    killer = threading.Timer(0.3, server.kill)
    killer.start()
    arguments = ["move", "public.events", "--from", "main", "--to", "archive", "--before", f"{BEFORE:%Y-%m-%d}", "--json"]
    first = processes.command(arguments, environment)
    killer.join()
    server.start()
    assert first.returncode in (0, 75), first.stdout
    assert processes.command(arguments, environment).returncode == 0
    assert keeper.query("SELECT count(*) AS n, count(DISTINCT id) AS d FROM public.events").to_pylist() == [
        {"n": 2000, "d": 2000}
    ]
    assert keeper.archive_verify().ok


@pytest.mark.parametrize("after_bytes", sampled([500, 5_000, 20_000, 60_000], 500, 20_000))
def test_a_link_that_breaks_under_a_run_costs_no_row(tiers: Tiers, server: HomeServer, after_bytes: int) -> None:
    with FaultProxy(server.port) as proxy:
        keeper, _ = enrolled(tiers, server, proxy.port)
        keeper.setup(apply=True)
        for _ in range(3):
            proxy.cut_after(after_bytes, "to_server")
            try:
                keeper.move(EVENTS, "main", "archive", before=BEFORE)
            except NotNow:
                continue
        assert keeper.query(COUNTED).to_pylist() == [{"n": 2000, "d": 2000}]
        assert keeper.archive_verify().ok


def test_a_token_that_may_not_write_stops_a_run_before_it_begins(tiers: Tiers, server: HomeServer) -> None:
    _, environment = enrolled(tiers, server)
    environment["HOME_SERVER_TOKEN"] = server.token("reader")
    keeper = open_keeper(load(tiers.home / "tierkeeper.toml", environment, tiers.home), environment=environment)
    keeper.setup(apply=True)
    with pytest.raises(Faults, match="its role does not allow that"):
        keeper.check()
    with pytest.raises(UsageError, match="a reader's token may not write"):
        keeper.move(EVENTS, "main", "archive", before=BEFORE)
    with closing(tiers.main.connect("app")) as main:
        assert main.execute("SELECT count(*) FROM public.events").fetchone() == (2000,)
