"""Proposals and questions about cutoffs on real tiers: what they say, and that they change nothing."""

import tomllib
from contextlib import closing
from dataclasses import replace

import pytest

from support import Command, Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.cli import app
from tierkeeper.postgres.link import Link
from tierkeeper.postgres.session import Session

MAIN_DIALS = 3  # for the tiers' look, for its memories of tables, and for the history
READINGS = """
CREATE TABLE public.readings (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text);
INSERT INTO public.readings
SELECT n, now() - n * interval '30 minutes', repeat('x', 100) FROM generate_series(1, 9600) AS n;
CREATE INDEX ON public.readings (at, id);
ANALYZE public.readings;
"""
"""Two hundred days, 48 rows a day."""
POLICY = {"name": "public.readings", "age": "at", "core": "90 days", "main": "150 days"}
PRICES = """
[tiers.core.price]
storage = 1000
[tiers.main.price]
storage = 100
[tiers.archive.price]
storage = 10
"""


def furnish(tiers: Tiers) -> None:
    with closing(tiers.core.connect("test")) as conn:
        conn.execute(READINGS)


@pytest.fixture
def readings(make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    tiers = make_tiers(furnish=furnish)
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(tierkeeper_toml(tiers, [POLICY], extra=PRICES)))
    monkeypatch.chdir(tiers.home)
    return tiers


def held(tiers: Tiers) -> tuple[int, ...]:
    counts = []
    for link in (tiers.core, tiers.main):
        with closing(link.connect("test")) as conn:
            (count,) = conn.execute("SELECT count(*) FROM public.readings").fetchone() or (0,)
            counts.append(count)
    return tuple(counts)


def ask_for(ask: Command, days: int, times: int) -> None:
    for _ in range(times):
        ask("query", f"SELECT count(*) FROM readings WHERE at > now() - interval '{days} days'")


def test_a_proposal_from_ages_that_were_asked_for(readings: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    ask("quota")
    tierkeeper_toml(readings, [POLICY], query_timeout="1 minute", extra=PRICES)  # nothing is to move any more
    ask_for(ask, 6, 3)
    ask_for(ask, 20, 1)
    ask("query", "SELECT count(*) FROM readings")
    before = held(readings)
    found = ask("quota", "--optimise", "--promise", "75%")
    assert (found["feasible"], found["optimal"], found["reads_in_core_before"]) == (True, True, 1.0)
    (change,) = found["changes"]
    assert (change["table"], change["core_days"], change["proposed_core_days"]) == ("public.readings", 90, 7)
    assert (change["reads"], change["proposed_reads_in_core"]) == (4, 0.75)
    assert found["cost_per_month_after"] < found["cost_per_month_before"]
    assert found["after"]["core"]["used_bytes"] < found["before"]["core"]["used_bytes"]
    assert tomllib.loads(found["toml"])["tables"][0] == {"name": "public.readings", "core": "7 days", "main": "21 days"}
    assert any("scans without a bound" in note and note.endswith(": 1") for note in found["notes"])
    strict = ask("quota", "--optimise")  # 95 % of them, as configured
    assert (strict["promise"], strict["changes"][0]["proposed_core_days"]) == (0.95, 21)
    assert held(readings) == before

    then = ask("quota", "--what-if", "core=45d", "--what-if", "public.readings:main=100 days")
    assert (then["changes"][0]["proposed_core_days"], then["changes"][0]["proposed_main_days"]) == (45, 100)
    fell = then["before"]["core"]["used_bytes"] - then["after"]["core"]["used_bytes"]
    assert fell == pytest.approx(45 * 48 * _row_bytes(readings), rel=0.1)
    assert then["within_quotas"] is True
    assert held(readings) == before


def _row_bytes(tiers: Tiers) -> float:
    """Of what is left in Core: 90 days."""
    with closing(tiers.core.connect("test")) as conn:
        (size,) = conn.execute("SELECT pg_total_relation_size('public.readings')").fetchone() or (0,)
    return float(size) / (90 * 48)


def test_status_and_quota_say_what_it_costs(readings: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    core = ask("status")["tiers"]["core"]
    assert core["forecast"]["confidence"] == "none"
    assert core["cost"]["currency"] == "USD"
    assert core["cost"]["month"] == pytest.approx(1000 * core["used_bytes"] / 1e9, rel=0.01)
    ran = ask("quota", "--dry-run")["tiers"]["core"]
    assert ran["cost"]["month"] == pytest.approx(core["cost"]["month"], rel=0.1)


def test_status_says_what_to_do_now_where_a_wall_is_close(readings: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    used = ask("status")["tiers"]["core"]["used_bytes"]
    quota = int(used / 0.8)
    tierkeeper_toml(readings, [POLICY], quotas={"core": str(quota)}, extra=PRICES)
    with closing(readings.main.connect("test")) as conn:
        conn.execute(
            "INSERT INTO tierkeeper.usage (tier, schema_name, table_name, at, bytes)"
            " SELECT 'core', '', '', now() - d * interval '1 day', %s - d * %s FROM generate_series(1, 10) AS d",
            (used, quota // 20),
        )
    core = ask("status")["tiers"]["core"]
    assert 3 < core["forecast"]["days_to_full"] < 5
    assert core["cause"].startswith("80% of its quota is used; it will be full in")
    assert core["remedy"].startswith("Run 'tierkeeper quota' now")


def test_what_a_person_sees(readings: Tiers, capfd: pytest.CaptureFixture[str]) -> None:
    assert app.run(["setup", "--apply"]) == 0
    capfd.readouterr()
    assert app.run(["quota", "--optimise"]) == 0
    shown = capfd.readouterr().out
    assert "Nothing was changed" in shown
    assert 'core = "' in shown
    assert app.run(["quota", "--what-if", "core=2d"]) == 0
    shown = capfd.readouterr().out
    assert "2 d" in shown
    tierkeeper_toml(readings, [POLICY], quotas={"core": "1MB"}, extra=PRICES)
    assert app.run(["quota", "--optimise"]) == 0
    shown = capfd.readouterr().out
    assert "✗ core:" in shown
    assert "Raise its quota to" in shown


def test_bad_questions_get_one_clear_error(readings: Tiers, ask: Command) -> None:
    for argv, place in ((("--what-if", "core=400d"), "--what-if"), (("--promise", "95%"), "--promise")):
        error = ask("quota", *argv, code=2)["error"]
        assert error["place"] == place
        assert error["remedy"]
    tierkeeper_toml(readings)  # of tables without a policy it would say that they never fill a tier
    assert ask("quota", "--optimise", code=2)["error"]["cause"] == "no table moves by its age"


def test_status_counts_the_scans_of_this_month_where_they_are_paid_for(readings: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    ask_for(ask, 5, 2)  # Core's alone
    ask_for(ask, 100, 1)  # Main's, too
    ask("query", "SELECT count(*) FROM readings")  # every tier's
    prices = "".join(f"\n[tiers.{tier}.price]\nrequests = 1000000\n" for tier in ("core", "main", "archive"))
    tierkeeper_toml(readings, [POLICY], extra=prices)
    found = ask("status")["tiers"]
    assert [round(found[tier]["cost"]["so_far"], 4) for tier in ("core", "main", "archive")] == [4, 2, 1]
    assert all(found[tier]["cost"]["requests"] >= found[tier]["cost"]["so_far"] for tier in found)


def test_with_main_away_status_says_that_the_history_is_missing(readings: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    away = replace(readings, main=Link("main", "postgresql://u@127.0.0.1:1/x", readings.main.sslrootcert))
    tierkeeper_toml(away, [POLICY], extra=PRICES)
    core = ask("status")["tiers"]["core"]
    assert core["forecast"]["reason"].startswith("Main has the history: ")
    assert core["cost"]["note"] == "reckoned without the history, which Main has"


def test_status_dials_main_no_oftener_than_it_must(readings: Tiers, ask: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dial is a handshake with a server that may be far away."""
    ask("setup", "--apply")
    dialled = list[str]()
    dial = Session.connect.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Session], conninfo: str, **more: object) -> Session:
        dialled.append(conninfo)
        return dial(cls, conninfo, **more)  # type: ignore[no-any-return]

    monkeypatch.setattr(Session, "connect", classmethod(counted))
    ask("status")
    assert len([c for c in dialled if readings.main.url.rpartition("/")[2] in c]) <= MAIN_DIALS
