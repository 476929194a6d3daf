"""`usage` as a user has it: the command, the keeper, a Main that is away, a hosted tier, and a machine that is killed."""

import json
import os
import stat
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import processes
import tierkeeper
from hosted import Hosted
from support import EVENTS, FLIGHTS_POLICY, Command, Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.cli.app import run
from tierkeeper.kernel.faults import Point
from tierkeeper.postgres.link import Link
from tierkeeper.quotas.look import largest_tables

AWAY = "postgresql://nobody@127.0.0.1:1/main"  # nothing listens there


@pytest.fixture
def sample(make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    """Every hundredth flight in Core, and a configuration named by TIERKEEPER_CONFIG."""
    tiers = make_tiers(core="sample")
    use(tiers, monkeypatch)
    return tiers


def use(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(tierkeeper_toml(tiers, FLIGHTS_POLICY)))
    monkeypatch.chdir(tiers.home)


def away(tiers: Tiers) -> None:
    """From now on Main does not answer."""
    tierkeeper_toml(replace(tiers, main=Link("main", AWAY)), FLIGHTS_POLICY)


def back(tiers: Tiers) -> None:
    tierkeeper_toml(tiers, FLIGHTS_POLICY)


def instants(link: Link) -> list[Any]:
    with closing(link.connect("oracle")) as conn:
        there = conn.execute("SELECT to_regclass('tierkeeper.usage') IS NOT NULL").fetchone() == (True,)
        asked = "SELECT at FROM tierkeeper.usage WHERE tier = 'core' AND table_name = '' ORDER BY at"
        return [at for (at,) in conn.execute(asked).fetchall()] if there else []


def test_the_command_shows_records_and_filters(sample: Tiers, ask: Command, capfd: pytest.CaptureFixture[str]) -> None:
    first = ask("usage")
    assert first["recorded"] is None
    core = first["tiers"]["core"]
    assert core["tables"]["public.flights"]["of_policy"] is True
    assert core["tables"]["public.weather"]["of_policy"] is False
    assert core["tables_bytes"] + core["system_bytes"] + core["own_bytes"] == core["database_bytes"] == core["bytes"]
    assert core["samples"] == []
    assert ask("usage", "--record")["recorded"]["where"] == "main", "its tables are made when they are first needed"
    second = ask("usage", "--record", "--since", "1 day")
    assert [s["bytes"] for s in second["tiers"]["core"]["samples"]][-1] == second["tiers"]["core"]["bytes"]
    assert len(second["tiers"]["core"]["tables"]["public.flights"]["samples"]) == 2
    assert len(second["tiers"]["core"]["days"]) == 1
    one = ask("usage", "--table", "flights")
    assert list(one["tiers"]["core"]["tables"]) == ["public.flights"]
    assert "no tier has a table" in ask("usage", "--table", "nothing", code=2)["error"]["cause"]
    for wrong in (("--since", "soon"), ("--since", "0h"), ("--table", "a.b.c")):
        assert ask("usage", *wrong, code=2)["error"]["place"] == wrong[0]
    assert run(["usage"]) == 0
    shown = capfd.readouterr().out
    assert "public.flights" in shown
    assert "▁" in shown


def test_the_queue_of_jobs_is_ours_and_no_table_of_the_users(sample: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    with closing(sample.main.connect("test")) as conn:
        assert conn.execute("SELECT to_regclass('tierkeeper_jobs.procrastinate_jobs') IS NOT NULL").fetchone() == (True,)
        found = ask("usage")["tiers"]["main"]
        assert not [name for name in found["tables"] if name.startswith("tierkeeper")]
        assert found["tables_bytes"] + found["system_bytes"] + found["own_bytes"] == found["database_bytes"]
        assert not [table for table, _ in largest_tables(conn) if table.schema.startswith("tierkeeper")]


def test_setup_makes_what_an_older_installation_lacks_and_no_more(sample: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    with closing(sample.main.connect("test")) as conn:
        conn.execute("DROP TABLE tierkeeper.usage, tierkeeper.egress")
    made = [s["action"] for s in ask("setup", "--apply")["steps"]]
    assert made == ["create tierkeeper.usage", "create tierkeeper.usage_grain", "create tierkeeper.egress"]
    assert ask("setup")["steps"] == []


def test_while_main_is_away_samples_wait_and_come_in_order(sample: Tiers, ask: Command) -> None:
    ask("usage", "--record")
    (first,) = instants(sample.main)
    away(sample)
    for _ in range(3):
        waiting = ask("usage", "--record")
        assert waiting["recorded"]["where"] == "spool"
        assert [e["place"].split()[0] for e in waiting["recorded"]["errors"]] == ["tiers.main"]
        assert waiting["tiers"]["main"]["error"]["place"].startswith("tiers.main")
        assert waiting["tiers"]["core"]["bytes"] > 0
    assert len(waiting["tiers"]["core"]["samples"]) == 3, "the curve goes on from the spool"
    spool = next(sample.state.rglob("samples.jsonl"))
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    assert "nobody" not in spool.read_text()
    tiers = ask("status")["tiers"]
    assert tiers["core"]["healthy"]
    assert tiers["core"]["egress_bytes_this_month"] > 0
    back(sample)
    recorded = ask("usage", "--record")["recorded"]
    assert recorded["where"] == "main"
    assert recorded["sent"] > 0
    told = [json.loads(line) for line in spool.read_text().splitlines()] if spool.exists() else []
    assert told == []
    found = instants(sample.main)
    assert len(found) == 5
    assert found[0] == first
    assert ask("usage", "--record")["recorded"]["sent"] == 0


def test_killed_between_sending_and_removing_it_loses_and_doubles_nothing(sample: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    away(sample)
    at = [ask("usage", "--record")["recorded"]["at"] for _ in range(2)]
    back(sample)
    for _ in range(2):
        ended = processes.command(["usage", "--record", "--json"], dict(os.environ), die_at=Point.SPOOL_SENT)
        assert ended.returncode == -9, ended.stderr
    assert len(instants(sample.main)) == 2, "Main had committed them"
    at.append(ask("usage", "--record")["recorded"]["at"])
    found = instants(sample.main)
    assert [f"{one.isoformat()}".replace("+00:00", "Z") for one in found] == at
    assert list(sample.state.rglob("s*.jsonl")) == []
    with closing(sample.main.connect("oracle")) as conn:
        counted = conn.execute(
            "SELECT count(*), count(DISTINCT (tier, schema_name, table_name, at)) FROM tierkeeper.usage"
        ).fetchone()
    assert counted is not None
    assert counted[0] == counted[1] > 15


def test_a_machine_that_can_write_nothing_tells_main_alone(sample: Tiers, ask: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (sample.home / "full").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_STATE_HOME", str(sample.home / "full"))
    for _ in range(2):
        recorded = ask("usage", "--record")["recorded"]
        assert (recorded["where"], recorded["errors"]) == ("main", [])
    assert len(instants(sample.main)) == 2
    assert ask("status")["tiers"]["core"]["egress_bytes_this_month"] > 0, "Main was told at once"
    away(sample)
    lost = ask("usage", "--record", code=1)["recorded"]
    assert lost["where"] == "nowhere"
    assert [e["place"] for e in lost["errors"]][-1] == "usage history"


def test_egress_that_somebody_locks_is_not_known_and_spoils_nothing_else(sample: Tiers, ask: Command) -> None:
    for _ in range(2):
        ask("usage", "--record")
    before = ask("status")
    with closing(sample.main.connect("locks")) as other:
        other.execute("BEGIN; LOCK TABLE tierkeeper.egress IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        found = ask("status")
        assert time.monotonic() - began < 2
        assert {t["egress_bytes_this_month"] for t in ask("usage")["tiers"].values()} == {None}
    for name, tier in found["tiers"].items():
        assert (tier["healthy"], tier["egress_bytes_this_month"], tier["cost"]["egress_bytes"]) == (True, None, None)
        assert "somebody locks tierkeeper.egress" in tier["cost"]["note"]
        assert tier["forecast"]["reason"] == before["tiers"][name]["forecast"]["reason"]
    assert found["tables"] == before["tables"]


def test_a_history_that_somebody_locks_is_named_and_not_the_egress(sample: Tiers, ask: Command) -> None:
    ask("usage", "--record")
    sent = ask("status")["tiers"]["core"]["egress_bytes_this_month"]
    with closing(sample.main.connect("locks")) as other:
        other.execute("BEGIN; LOCK TABLE tierkeeper.usage IN ACCESS EXCLUSIVE MODE")
        core = ask("status")["tiers"]["core"]
        usage = ask("usage")
    assert "somebody locks tierkeeper.usage" in core["forecast"]["reason"]
    assert ("somebody locks tierkeeper.usage" in usage["history"]["cause"], usage["tiers"]["core"]["samples"]) == (True, [])
    assert ask("usage")["history"] is None
    assert (core["cost"]["note"], core["cost"]["egress_bytes"]) == (None, pytest.approx(sent, abs=50_000)), "known"


def test_egress_is_what_the_servers_sent(sample: Tiers, ask: Command) -> None:
    """Two large answers by both drivers: what is counted is a little more than the rows, and Core's rows are not Main's."""

    def received() -> dict[str, int]:
        with tierkeeper.open() as keeper:
            today = keeper.usage().at.date()
            return {tier: keeper.history.egress(tier, today) for tier in ("core", "main")}  # type: ignore[arg-type]

    ask("setup", "--apply")
    before = received()
    size = 3_000_000
    with tierkeeper.open() as keeper, closing(keeper.links["core"].connect("test")) as conn:
        conn.execute("SELECT repeat('x', %s)", [size])
    between = received()
    assert size <= between["core"] - before["core"] <= size * 1.2
    assert between["main"] - before["main"] < size / 10
    with tierkeeper.open() as keeper:
        rows = keeper.query("SELECT * FROM flights")
    after = received()
    assert rows.num_rows > 3000
    assert rows.nbytes < after["core"] - between["core"] < rows.nbytes * 4, "each value has its length beside it"


def test_a_hosted_tier_by_variables_alone(
    supabase_free: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Command
) -> None:
    """No superuser, a pooler, no pg_monitor and no TOML: all is told that the role may see, and nothing is left behind."""
    main, catalog = (supabase_free.pooled_database(name) for name in ("main", "archive"))
    with closing(supabase_free.session.connect("test")) as conn:
        conn.execute(EVENTS)
    (tmp_path / "store").mkdir()
    tiers = Tiers(supabase_free.pooled, main, catalog, tmp_path / "store", tmp_path)
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    for name, link in (("CORE", tiers.core), ("MAIN", main), ("ARCHIVE", catalog)):
        monkeypatch.setenv(f"{name}_SUPABASE_URL", f"{link.url}?sslrootcert={link.sslrootcert}")
    monkeypatch.setenv("ARCHIVE_PATH", str(tiers.store))
    monkeypatch.delenv("TIERKEEPER_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    supabase_free.admin.execute("SELECT pg_create_physical_replication_slot('left_behind', true)")
    ask("usage", "--record")
    found = ask("usage", "--record")
    core = found["tiers"]["core"]
    assert core["tables"]["public.events"]["rows"] == 2000
    assert (core["wal_bytes"], core["slow_statements"]) == (None, None)
    assert core["slots"][0]["name"] == "left_behind"
    assert core["slots"][0]["pinned_wal_bytes"] > 0
    assert found["recorded"]["where"] == "main"
    assert len(core["samples"]) == 2
    assert [leak for leak in supabase_free.leaks() if "left" not in leak] == []
    supabase_free.read_only(True)
    supabase_free.renew_sessions()
    assert ask("usage")["tiers"]["core"]["bytes"] > 0
