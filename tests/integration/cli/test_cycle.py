"""The commands on real servers, from check to a restored file: what each prints as JSON, and how it ends."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tierkeeper
from support import FLIGHTS_POLICY, Command, Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.functions import handlers

ROOT = Path(__file__).parents[3]
REST_SECONDS = 1.5  # tierkeeper_toml sets query.timeout to one second


@pytest.fixture
def sample(make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    """Every hundredth flight in Core, and a configuration named by TIERKEEPER_CONFIG."""
    tiers = make_tiers(core="sample")
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(tierkeeper_toml(tiers, FLIGHTS_POLICY)))
    monkeypatch.chdir(tiers.home)
    return tiers


def rows(tiers: Tiers, tier: str, condition: str = "true") -> int:
    link = {"core": tiers.core, "main": tiers.main}[tier]
    with closing(link.connect("test")) as conn:
        (count,) = conn.execute(f"SELECT count(*) FROM public.flights WHERE {condition}").fetchone() or (None,)  # type: ignore[call-overload]
    assert isinstance(count, int)
    return count


def test_the_whole_cycle(sample: Tiers, ask: Command) -> None:
    everything = rows(sample, "core")
    first_quarter, january = rows(sample, "core", "time_hour < '2013-04-01Z'"), rows(sample, "core", "time_hour < '2013-02-01Z'")
    assert ask("check")["ok"] is True

    plan = ask("setup")
    assert plan["applied"] is False
    assert plan["steps"]
    assert ask("setup", "--apply")["applied"] is True
    assert ask("setup")["steps"] == []

    planned = ask("move", "flights", "--from", "core", "--to", "main", "--before", "2013-04-01", "--dry-run")
    assert (planned["rows"], planned["dry_run"], rows(sample, "core")) == (first_quarter, True, everything)
    moved = ask("move", "flights", "--from", "core", "--to", "main", "--before", "2013-04-01")
    assert (moved["rows"], moved["stopped_because"], moved["from"], moved["to"]) == (first_quarter, "complete", "core", "main")
    assert (rows(sample, "core"), rows(sample, "main")) == (everything - first_quarter, first_quarter)

    time.sleep(REST_SECONDS)
    archived = ask("archive", "run", "flights", "--before", "2013-02-01")
    assert [r["rows"] for r in archived["runs"]] == [january]
    (segment,) = ask("archive", "list")
    assert (segment["segment"], segment["rows"], segment["table"]) == (archived["segments"][0], january, "public.flights")
    assert {"bytes", "min_age", "max_age", "state"} <= set(segment)
    assert ask("archive", "show", segment["segment"])["columns"]["time_hour"] == "timestamp with time zone"
    good = {"segments": 1, "checked": 1, "damaged": [], "missing": [], "strays": [], "unread": 0, "ok": True}
    good |= {"left": [], "stopped_because": None}
    assert ask("archive", "verify", "--sample", "1/30") == good
    assert ask("status")["archive"]["unread"] == 0

    status = ask("status")
    assert status["tables"]["public.flights"]["archive_rows"] == january
    assert {"used_bytes", "quota_bytes", "healthy"} <= set(status["tiers"]["core"])
    assert ask("query", "SELECT count(*) AS n FROM flights") == [{"n": everything}]
    keeper = tierkeeper.open()
    assert keeper.query("SELECT count(*) FROM flights WHERE month = 1").column(0).to_pylist() == [rows_of(1, sample, ask)]

    restored = ask("archive", "restore", "flights", "--to", str(sample.home / "january.parquet"))
    assert restored["rows"] == january
    assert pq.read_metadata(sample.home / "january.parquet").num_rows == january
    assert (
        ask("archive", "restore", "flights", "--since", "2013-01-10", "--until", "2013-01-10", "--to", "x", code=2)["error"][
            "place"
        ]
        == "--until"
    )

    damage(sample.store)
    verified = ask("archive", "verify", code=1)
    assert (verified["ok"], len(verified["damaged"])) == (False, 1)


def rows_of(month: int, tiers: Tiers, ask: Command) -> int:
    del tiers
    (row,) = ask("query", f"SELECT count(*) AS n FROM flights WHERE month = {month}")
    return int(row["n"])


def damage(store: Path) -> None:
    """Flips one bit in the middle of the largest object of the store."""
    file = max((f for f in store.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_bad_input_changes_nothing(sample: Tiers, ask: Command) -> None:
    everything = rows(sample, "core")
    for argv in (
        ["move", "no_such_table", "--from", "core", "--to", "main", "--before", "2014-01-01"],
        ["move", "flights", "--from", "core", "--to", "main", "--before", "2014-01-01", "--where", "no_such_column = 1"],
        ["query", "delete from flights"],
        ["query", "selekt 1"],
    ):
        error = ask(*argv, code=2)["error"]
        assert set(error) == {"place", "cause", "remedy"}
    assert rows(sample, "core") == everything


def test_servers_that_are_away_are_lines_of_the_status(sample: Tiers, ask: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(os.environ["TIERKEEPER_CONFIG"]).read_text().replace(sample.core.url, "postgresql://u:s3cr3t-pw@127.0.0.1:1/x")
    (sample.home / "away.toml").write_text(text)
    monkeypatch.setenv("TIERKEEPER_CONFIG", "away.toml")
    status = ask("status")
    assert [name for name, tier in status["tiers"].items() if not tier["healthy"]] == ["core"]
    assert "s3cr3t-pw" not in json.dumps(ask("check", code=75))


def test_the_printed_lines_report_health_and_configuration(sample: Tiers) -> None:
    environment = sample.environment | {"TIERKEEPER_CONFIG": os.environ["TIERKEEPER_CONFIG"], "PYTHONPATH": str(ROOT)}
    lines = (
        "from multi_tier_setup import MultiTierSetup; MultiTierSetup().validate_configuration()",
        "from intelligent_load_balancer import IntelligentLoadBalancer; IntelligentLoadBalancer().test_health_checks()",
    )
    told = []
    for line in lines:
        ran = subprocess.run(
            [sys.executable, "-c", line], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        told.append(ran.stdout)
    assert "public.flights" in told[0]
    assert [name for name in ("core", "main", "archive (catalog)", "archive (store)") if name not in told[1]] == []
    assert told[1].count(" ms") == 4


def test_the_functions_run_on_an_empty_event(sample: Tiers) -> None:
    del sample
    assert handlers.multi_tier_setup({"dry_run": True}, None)["applied"] is False
    assert handlers.multi_tier_setup({}, None)["applied"] is True
    assert handlers.multi_tier_quota_manager({"dry_run": True}, None)["dry_run"] is True
    assert handlers.home_server_archiver({"dry_run": True}, None)["plans"][0]["rows"] == 0
    assert handlers.intelligent_load_balancer({}, None)["ok"] is True
