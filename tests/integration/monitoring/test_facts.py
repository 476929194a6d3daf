"""Facts come from the tiers as they are: slots, the audit, certificates, tokens; and the reads that keep a tier awake."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from faultproxy import FaultProxy
from home_server import HomeServer
from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper import compose
from tierkeeper.compose import Keeper
from tierkeeper.compose.facts import Given
from tierkeeper.config import load
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.results import AlertStatusResult, FaultResult, QuotaResult
from tierkeeper.monitoring.alerts.facts import Facts, Forecast
from tierkeeper.monitoring.awake import read_row
from tierkeeper.security.audit import PostgresAudit

DAY = timedelta(days=1)
TABLES = ({"name": "public.events", "age": "at"}, {"name": "public.kinds", "mode": "mirror"})
FREE = 'profile = "supabase-free"'


def keeper(tiers: Tiers, *, core: str = "", now: datetime | None = None) -> Keeper:
    """`core`: further lines for [tiers.core]."""
    toml = tierkeeper_toml(tiers, TABLES)
    toml.write_text(toml.read_text().replace("[tiers.core]\n", f"[tiers.core]\n{core}\n"))
    environment = {"HOME": str(tiers.home), "XDG_CONFIG_HOME": str(tiers.home / ".config")}
    clock = None if now is None else FixedDay(now)
    return compose.open_keeper(load(toml, environment, tiers.home), environment=environment, clock=clock)


def facts(found: Keeper, given: Given | None = None) -> tuple[Facts, list[str]]:
    return found._alerting.facts(given or Given())


def kinds(found: Keeper) -> list[str]:
    found.alerts()
    return sorted(a.kind for a in found.alert_status().alerts)


@pytest.fixture
def ready(make_tiers: TiersFactory) -> Tiers:
    return make_tiers(core="events", furnish=_set_up)


def _set_up(tiers: Tiers) -> None:
    keeper(tiers).setup(apply=True)


@pytest.fixture
def slot(ready: Tiers) -> Iterator[str]:
    """A slot that nobody reads, and 80 MB of log after it."""
    with closing(ready.core.connect("app")) as conn:
        name = f"dead_{conn.info.dbname}"[:60]
        conn.execute("SELECT pg_create_physical_replication_slot(%s, true)", [name])
        for _ in range(6):
            conn.execute("SELECT pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()")
        yield name
        conn.execute("SELECT pg_drop_replication_slot(%s)", [name])


def test_a_slot_that_nobody_reads_is_found_and_rings_once_it_has_held(ready: Tiers, slot: str) -> None:
    now = datetime.now(UTC)
    found, unseen = facts(keeper(ready))
    (held,) = [s for s in found.tiers[0].slots or () if s.name == slot]
    assert (held.active, (held.pinned_wal_bytes or 0) > 64_000_000, unseen) == (False, True, [])
    subjects = [a.subject for a in _status_after(ready, now).alerts if a.state == "pending"]
    assert f"core/{slot}" in subjects
    assert f"core/{slot}" in [a.subject for a in _status_after(ready, now + timedelta(minutes=20)).alerts if a.state == "firing"]


def _status_after(tiers: Tiers, now: datetime) -> AlertStatusResult:
    found = keeper(tiers, now=now)
    found.alerts()
    return found.alert_status()


def test_what_an_alert_says_of_a_read_only_tier_makes_it_writable_again(ready: Tiers) -> None:
    with closing(ready.core.connect("app")) as conn:
        (name,) = conn.execute("SELECT quote_ident(current_database())").fetchone() or ("",)
        conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    found = keeper(ready)
    assert "read-only" in kinds(found)
    (remedy,) = (a.remedy for a in found.alert_status().alerts if a.kind == "read-only")
    with closing(ready.core.connect("app")) as conn:
        conn.execute("SET default_transaction_read_only = on")  # as any session that begins there finds it
        for statement in remedy.partition("then, there: ")[2].replace("…", name).split("; "):
            conn.execute(statement.encode())
    with closing(ready.core.connect("app")) as conn:
        assert conn.execute("SHOW default_transaction_read_only").fetchone() == ("off",)


def test_a_move_that_failed_rings_until_one_goes_well(ready: Tiers) -> None:
    audit, error = PostgresAudit(ready.main), TierkeeperError("public.events", "a trigger refuses it", "Change it")
    with pytest.raises(TierkeeperError), audit.action("move", "public.events", {"from": "core", "to": "main"}):
        raise error
    with pytest.raises(KeyboardInterrupt), audit.action("move", "public.kinds", {"from": "core", "to": "main"}):
        raise KeyboardInterrupt
    (fault,) = facts(keeper(ready))[0].runs["quota"].faults
    assert (fault.place, "a trigger refuses it" in fault.cause) == ("public.events to main", True)
    assert kinds(keeper(ready)) == ["migration failed"]
    assert kinds(keeper(ready, now=datetime.now(UTC) + 8 * DAY)) == []  # nobody has tried it again
    with audit.action("quota", "core", {}) as note:
        note(errors=1)
    assert {f.place for f in facts(keeper(ready))[0].runs["quota"].faults} == {"public.events to main", "with the quota manager"}
    with audit.action("quota", "core", {}) as note:
        note(errors=0)
    assert facts(keeper(ready))[0].runs["quota"].faults == ()
    with pytest.raises(TierkeeperError), audit.action("move", "public.events", {"from": "core", "to": "main"}):
        raise error
    assert kinds(keeper(ready)) == ["migration failed"]
    with audit.action("move", "public.events", {"from": "core", "to": "main"}):
        pass
    assert kinds(keeper(ready)) == []
    report = QuotaResult(dry_run=False, tiers={}, errors=[FaultResult(place="public.events", cause="locked", remedy="Wait")])
    given = Given(quota=report, forecasts={"core": Forecast(None)}, finished={"archive": datetime.now(UTC)})
    found, _ = facts(keeper(ready), given)
    assert [(f.place, f.remedy) for f in found.runs["quota"].faults] == [("public.events", "Wait")]
    assert found.tiers[0].forecast == Forecast(None)
    assert found.runs["archive"].ok_at is not None


def test_the_quota_manager_is_late_by_its_own_audit(ready: Tiers) -> None:
    keeper(ready).quota()
    now = datetime.now(UTC)
    assert kinds(keeper(ready, now=now)) == []
    assert kinds(keeper(ready, now=now + 1.4 * DAY)) == []
    assert kinds(keeper(ready, now=now + 1.6 * DAY)) == ["migration failed"]


def test_of_a_main_that_is_away_nothing_else_is_said(ready: Tiers) -> None:
    with FaultProxy(int(ready.main.parameters["port"])) as proxy:
        proxy.refuse()
        found, _ = facts(keeper(replace(ready, main=proxy.link(ready.main))))
    main = found.tiers[1]
    assert (main.away is not None, main.used_bytes, main.read_only, main.slots) == (True, None, None, None)
    assert "quota" not in found.runs
    assert found.tiers[0].used_bytes is not None


def test_certificates_and_the_token_of_a_home_server_say_when_they_end(ready: Tiers, tmp_path: Path) -> None:
    with HomeServer(tmp_path / "server") as server:
        toml = tierkeeper_toml(ready, TABLES)
        text = toml.read_text().replace(
            f'store = "{ready.store}"', f'store = "{server.url}"\ntoken = "{server.token("writer", days=5)}"'
        )
        toml.write_text(text)
        environment = {"HOME": str(ready.home), "XDG_CONFIG_HOME": str(ready.home / ".config")}
        found = compose.open_keeper(load(toml, environment, ready.home), environment=environment)
        seen, unseen = facts(found)
        rings = kinds(found)
    ends = {e.what: round((e.at - seen.at) / DAY) for e in (*(seen.expiries or ()), *(seen.served or ()))}
    assert unseen == []
    assert ends["this machine's token for the home server"] == 5
    assert ends["the certificate of the home server"] == 90
    assert ends["the authority of the home server"] > 19 * 365
    assert ends["the CA of core (sslrootcert)"] > 300
    assert rings == ["expiring"]
    assert seen.damage == ()


def test_a_hosted_project_is_read_daily_and_rings_after_five_days_without(ready: Tiers) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    first = keeper(ready, core=FREE, now=now).keep_awake()
    core = first.tiers["core"]
    assert (first.ok, list(first.tiers), core.read, core.table, core.read_at) == (True, ["core"], True, "public.events", now)
    assert not keeper(ready, core=FREE, now=now + 0.5 * DAY).keep_awake().tiers["core"].read
    with FaultProxy(int(ready.core.parameters["port"])) as proxy:
        proxy.refuse()
        away = replace(ready, core=proxy.link(ready.core))
        failed = keeper(away, core=FREE, now=now + 2 * DAY).keep_awake()
        assert (failed.ok, failed.tiers["core"].read, failed.tiers["core"].read_at) == (False, False, now)
        assert "about to pause" not in kinds(keeper(away, core=FREE, now=now + 4.9 * DAY))
        assert "about to pause" in kinds(keeper(away, core=FREE, now=now + 5.1 * DAY))
    assert keeper(ready, core=FREE, now=now + 6 * DAY).keep_awake().tiers["core"].read
    assert "about to pause" not in kinds(keeper(ready, core=FREE, now=now + 6 * DAY))


def test_a_hosted_project_that_is_not_kept_awake_rings_by_its_history(ready: Tiers) -> None:
    """What the watching itself asks is no activity; a row that the application reads is."""
    now, switched_off = datetime.now(UTC), f"{FREE}\nkeep_awake = false"

    def sampled(days: float) -> list[str]:
        found = keeper(ready, core=switched_off, now=now + days * DAY)
        found.record_usage()
        return kinds(found)

    def read() -> None:
        with closing(ready.core.connect("app")) as conn:
            conn.execute("SELECT * FROM public.events")
            conn.execute("SELECT pg_stat_force_next_flush()")

    read()
    assert "about to pause" not in sampled(0)
    assert "about to pause" not in sampled(4)
    assert "about to pause" in sampled(5.5)
    read()
    assert "about to pause" not in sampled(5.6)
    assert "about to pause" in sampled(11)
    assert "about to pause" in kinds(keeper(ready, core=switched_off, now=now + 16 * DAY))


def test_a_tier_that_does_not_pause_or_is_switched_off_is_left_in_peace(ready: Tiers) -> None:
    assert keeper(ready).keep_awake().tiers == {}
    assert keeper(ready, core=FREE).keep_awake().tiers.keys() == {"core"}
    assert keeper(ready, core=f"{FREE}\nkeep_awake = false").keep_awake().tiers == {}


def test_a_row_of_the_users_is_read_where_there_is_one(ready: Tiers) -> None:
    with closing(ready.core.connect("app")) as conn:
        assert str(read_row(ready.core, ())) == "public.events"
        conn.execute("TRUNCATE public.events")
        assert str(read_row(ready.core, ())) == "public.kinds"
        conn.execute("DROP TABLE public.events, public.kinds")
        assert str(read_row(ready.core, ())) == "tierkeeper.tier"
