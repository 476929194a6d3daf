"""A check finds all faults in one look, each with its remedy; a status never fails."""

import time
from collections.abc import Mapping

import pytest

from support import eventually
from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.setup.checks import Report, check
from tierkeeper.setup.status import status
from tierkeeper.tiers.profile import SUPABASE_FREE
from tierkeeper.tiers.tier import Tier

from .conftest import EVENTS, KINDS, POLICIES, House

GIB = 2**30


def tiers_of(house: House, **other: Link) -> dict[str, Tier]:
    return {name: Tier(name, link, GIB) for name, link in {**house.links, **other}.items()}


def probe() -> str:
    return "takes writes"


def no_rows(_: Connection) -> Mapping[TableName, int]:
    return {EVENTS: 5}


def causes(report: Report) -> list[str]:
    assert all(e.place and e.remedy for e in report.errors)
    return [f"{e.place}: {e.cause}" for e in report.errors]


def test_all_is_well_before_and_after_a_setup(house: House) -> None:
    before = check(tiers_of(house), POLICIES, probe)
    assert causes(before) == []
    assert sum("no schema tierkeeper yet" in n for n in before.notes) == 3
    house.set_up()
    after = check(tiers_of(house), POLICIES, probe)
    assert causes(after) == []
    assert after.notes == []
    found = {(c.place, c.finding) for c in after.checks}
    assert ("table public.events", "found in Core with key (id) and age at") in found
    assert ("table public.events", "the same in Main") in found
    assert ("tiers.archive store", "takes writes") in found


def test_every_fault_is_found_at_once(house: House) -> None:
    house.core.execute("""
        CREATE TABLE public.child (event bigint REFERENCES public.events);
        CREATE TABLE public.keyless (at date);
        CREATE TABLE public.odd (id int PRIMARY KEY, at int);
    """)
    house.main.execute("CREATE TABLE public.events (id text PRIMARY KEY, at timestamptz, kind text, body text)")

    def full() -> str:
        raise UsageError("store", "the disk is full", "Make room")

    names = ("events", "keyless", "odd", "missing")
    report = check(tiers_of(house), [TablePolicy(TableName("public", n), "move", age="at") for n in names], full)
    found = causes(report)
    assert len(found) == 6
    for part in (
        "tables.public.events: other rows refer to it or to what goes with it, and no [[tables]] entry names them: "
        "child_event_fkey of public.child (ON DELETE NO ACTION)",
        "tiers.main, table public.events: the column 'id' is of type text, and bigint where the rows come from",
        "tiers.core, table public.keyless: it has neither",
        "table public.odd: the age column 'at' is of type integer",
        "tiers.core, table public.missing: it does not exist",
        "store: the disk is full",
    ):
        assert any(f.startswith(part) for f in found), part


def test_notes_name_what_is_slow_and_who_listens(house: House) -> None:
    house.core.execute("""
        DROP INDEX public.events_at_idx;
        CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
        CREATE TRIGGER watch AFTER DELETE ON public.events FOR EACH ROW EXECUTE FUNCTION public.f();
        CREATE PUBLICATION listeners FOR TABLE public.events;
    """)
    notes = check(tiers_of(house), POLICIES, None).notes
    assert any("no index in Core begins with at" in n for n in notes)
    assert any("trigger watch in Core fires" in n for n in notes)
    assert any("publication listeners sends" in n for n in notes)


def test_a_read_only_main_is_a_fault_and_a_read_only_core_is_not(house: House) -> None:
    for conn in (house.core, house.main):
        conn.execute(f'ALTER DATABASE "{conn.info.dbname}" SET default_transaction_read_only = on'.encode())
    report = check(tiers_of(house), POLICIES, probe)
    assert [(e.place, type(e)) for e in report.errors] == [("tiers.main", NotNow)]
    assert any("tiers.core is read-only" in n for n in report.notes)
    lines = status(tiers_of(house), POLICIES, store_bytes=lambda: 7, archive_rows=no_rows).tiers
    assert [lines[t].read_only for t in ("core", "main", "archive")] == [True, True, False]
    assert [lines[t].healthy for t in ("core", "main", "archive")] == [True, False, True]
    assert "rows can leave it all the same" in str(lines["core"].cause)


def test_tiers_that_are_away_cost_one_time_out_and_hide_no_other_fault(house: House) -> None:
    silent = "postgresql://u@127.0.0.1:1/x"
    started = time.monotonic()
    report = check(tiers_of(house, main=Link("main", silent), archive=Link("archive", "https://x.supabase.co")), POLICIES, probe)
    assert time.monotonic() - started < 5
    assert {e.place.split(" ")[0]: type(e) for e in report.errors} == {"tiers.main": NotNow, "tiers.archive": UsageError}
    assert any(c.place == "table public.events" for c in report.checks)


def test_swapped_and_doubled_addresses(house: House) -> None:
    house.set_up()
    swapped = check(tiers_of(house, core=house.tiers.main, main=house.tiers.core), (), None)
    assert [e.place for e in swapped.errors] == ["tiers.core", "tiers.main"]
    doubled = check(tiers_of(house, main=house.tiers.core), (), None)
    assert causes(doubled) == ["tiers.main: this is the database of core, too"]


def test_status_of_tiers_and_tables(house: House) -> None:
    house.set_up()
    house.core.execute("INSERT INTO public.events SELECT i, now(), 'k' FROM generate_series(1, 100) i")
    house.core.execute("ANALYZE public.events")
    house.main.execute("""
        INSERT INTO tierkeeper.ledger (batch, source, schema_name, table_name, age, cutoff, predicate, state)
        VALUES (gen_random_uuid(), 'core', 'public', 'events', 'at', now(), 'true', 'open');
        INSERT INTO tierkeeper.conflict (schema_name, table_name, key) VALUES ('public', 'events', '[7]');
    """)
    found = status(tiers_of(house), POLICIES, store_bytes=lambda: 7, archive_rows=no_rows)
    events = found.tables["public.events"]
    assert (events.core_rows_estimate, events.archive_rows, events.in_flight, events.conflicts) == (100, 5, 1, ["[7]"])
    assert found.tables[str(KINDS)].archive_rows is None
    assert found.tiers["archive"].used_bytes == 7
    core = found.tiers["core"]
    assert core.healthy
    assert core.used_bytes is not None
    assert core.share == pytest.approx(core.used_bytes / GIB, abs=1e-4)


def test_status_counts_what_came_since_the_last_analyze(house: House) -> None:
    house.core.execute("INSERT INTO public.events SELECT i, now(), 'k' FROM generate_series(1, 100) i")

    def rows() -> int | None:
        house.core.execute("SELECT pg_stat_force_next_flush()")
        return (
            status(tiers_of(house), POLICIES, store_bytes=lambda: 0, archive_rows=no_rows).tables[str(EVENTS)].core_rows_estimate
        )

    assert eventually(lambda: rows() == 100), "never analyzed"
    house.core.execute("ANALYZE public.events")
    house.core.execute("DELETE FROM public.events WHERE id <= 60")
    assert eventually(lambda: rows() == 40), "deleted since"
    missing = status(tiers_of(house), POLICIES, store_bytes=lambda: 0, archive_rows=no_rows).tables[str(EVENTS)]
    assert missing.main_rows_estimate is None, "there is no such table in Main"


def test_status_of_a_tier_that_nears_its_quota_says_what_to_do(house: House) -> None:
    used = status(tiers_of(house), (), store_bytes=lambda: 98, archive_rows=no_rows).tiers["core"].used_bytes
    assert used is not None
    tiers = {n: Tier(n, link, 100 if n == "archive" else int(used / 0.98)) for n, link in house.links.items()}
    lines = status(tiers, (), store_bytes=lambda: 98, archive_rows=no_rows, start_at=0.85).tiers
    assert lines["core"].healthy
    assert lines["core"].cause == "98% of its quota is used"
    assert "tierkeeper quota" in str(lines["core"].remedy)
    assert "nothing is ever deleted" in str(lines["archive"].remedy)
    calm = status(tiers, (), store_bytes=lambda: 98, archive_rows=no_rows, start_at=0.999).tiers
    assert calm["core"].cause is None


def test_status_tells_swapped_addresses(house: House) -> None:
    house.set_up()
    swapped = tiers_of(house, core=house.tiers.main, main=house.tiers.core)
    lines = status(swapped, (), store_bytes=lambda: 0, archive_rows=no_rows).tiers
    assert [lines[t].healthy for t in ("core", "main", "archive")] == [False, False, True]
    assert "seem to be swapped" in str(lines["core"].cause)


def test_status_with_tiers_away_says_why(house: House) -> None:
    def away() -> int:
        raise NotNow("store", "the store is away", "Mount it")

    found = status(
        tiers_of(house, main=Link("main", "postgresql://u@127.0.0.1:1/x")), POLICIES, store_bytes=away, archive_rows=no_rows
    )
    assert found.tiers["core"].healthy
    assert not found.tiers["main"].healthy
    assert found.tiers["main"].cause is not None
    assert found.tiers["main"].remedy
    assert found.tiers["archive"].cause == "the store is away"
    assert found.tables["public.events"].main_rows_estimate is None


def test_a_providers_way_of_counting(house: House) -> None:
    own = status(tiers_of(house), (), store_bytes=lambda: 0, archive_rows=no_rows).tiers["core"].used_bytes
    hosted = {"core": Tier("core", house.tiers.core, GIB, SUPABASE_FREE)}
    whole = status(hosted, (), store_bytes=lambda: 0, archive_rows=no_rows).tiers["core"].used_bytes
    assert own is not None
    assert whole is not None
    assert whole > 2 * own


def test_errors_carry_no_password(house: House) -> None:
    secret = Link("main", "postgresql://u:hunter2@127.0.0.1:1/x")
    report = check(tiers_of(house, main=secret), POLICIES, probe)
    assert "hunter2" not in repr(report)
    assert "hunter2" not in " ".join(str(e) for e in report.errors)
    assert isinstance(report.errors[0], TierkeeperError)
