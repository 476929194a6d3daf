"""What is only not possible now ends a run of the quota manager with exit code 75, and is named."""

import time
from contextlib import closing
from dataclasses import replace

import pytest

from support import REST_SECONDS, Command, Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.limits import LOCK_SECONDS
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.stop import TIME_LIMIT
from tierkeeper.mover.lease import Lease
from tierkeeper.postgres import link
from tierkeeper.postgres.link import Link

POLICY = {"name": "public.events", "age": "at", "core": "30 days"}
ARCHIVED = {**POLICY, "main": "31 days"}


def configure(tiers: Tiers, monkeypatch: pytest.MonkeyPatch, *policies: dict[str, str], **quotas: str) -> None:
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(tierkeeper_toml(tiers, policies, quotas=quotas)))


def test_a_locked_table_is_named_and_keeps_no_other(
    make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch, ask: Command
) -> None:
    """A plan gives way soon; a run waits for the lock as long as a move does. What is wrong besides is worse."""
    tiers = make_tiers(core="events")
    absent = {**POLICY, "name": "public.absent"}
    configure(tiers, monkeypatch, POLICY)
    with closing(tiers.core.connect("application")) as application:
        application.execute("BEGIN; LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        (fault,) = ask("quota", "--dry-run", code=75)["errors"]
        assert time.monotonic() - began < LOCK_SECONDS / 2
        assert (fault["place"], fault["not_now"], "lock" in fault["cause"]) == ("public.events (core)", True, True)
        monkeypatch.setattr(link, "LOCK_SECONDS", 3)
        began = time.monotonic()
        (fault,) = ask("quota", code=75)["errors"]
        assert 3 < time.monotonic() - began < 6, "it waits once"
        assert (fault["place"], fault["not_now"]) == ("public.events (core)", True)
        monkeypatch.setattr(link, "LOCK_SECONDS", 0.5)
        configure(tiers, monkeypatch, POLICY, absent)
        faults = ask("quota", code=1)["errors"]
        assert {("absent" in fault["place"], fault["not_now"]) for fault in faults} == {(True, False), (False, True)}
    configure(tiers, monkeypatch, POLICY)
    assert [move["rows"] for move in ask("quota")["moves"]] == [2000]


def test_nothing_leaves_early_beside_another_run(make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch, ask: Command) -> None:
    """That one brings the tier down: meanwhile it is too full, and other tables' rows would leave in vain."""
    tiers = make_tiers(core="events")
    with closing(tiers.core.connect("application")) as application, closing(tiers.main.connect("other")) as other:
        application.execute("CREATE TABLE young (id int PRIMARY KEY, at timestamptz NOT NULL, body text)")
        application.execute(
            "INSERT INTO young SELECT i, now() - i * interval '1 minute', repeat('x', 200) FROM generate_series(1, 20000) AS i"
        )
        application.execute("VACUUM ANALYZE young")
        configure(tiers, monkeypatch, POLICY, {**POLICY, "name": "public.young"}, core="14MB")
        ask("setup", "--apply")
        lease = Lease(other, "public.events core <-> main")
        lease.take()
        beside = ask("quota", code=75)
        assert ["another run holds it" in fault["cause"] for fault in beside["errors"]] == [True]
        assert (beside["moves"], [c for c in beside["choices"] if c["early"]]) == ([], [])
        assert any("beside another run" in note for note in beside["notes"])
        lease.give_back()
        assert [c["table"] for c in ask("quota")["choices"] if c["early"]] != []


def test_an_archive_that_will_have_no_room_is_told_before_anything_moves(
    make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch, ask: Command
) -> None:
    tiers = make_tiers(core="events")
    configure(tiers, monkeypatch, POLICY)
    ask("quota")
    for quota, told in (("4kB", 1), ("100MB", 0)):
        configure(tiers, monkeypatch, ARCHIVED, archive=quota)
        planned = ask("quota", "--dry-run")
        assert sum("archive uses" in note and "would come" in note for note in planned["notes"]) == told
    time.sleep(REST_SECONDS)
    configure(tiers, monkeypatch, ARCHIVED, archive="4kB")
    (fault,) = ask("quota", code=1)["errors"]
    assert "so that no row was moved there" in fault["cause"]


def test_an_archive_that_is_away_keeps_core_from_nothing(
    make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch, ask: Command
) -> None:
    tiers = make_tiers(core="events")
    configure(tiers, monkeypatch, ARCHIVED)
    ask("setup", "--apply")
    configure(replace(tiers, catalog=Link("archive", "postgresql://u@127.0.0.1:1/x")), monkeypatch, ARCHIVED)
    planned = ask("quota", "--dry-run", code=75)
    assert [plan["rows"] for plan in planned["plans"]] == [2000]
    done = ask("quota", code=75)
    assert [(move["to"], move["rows"]) for move in done["moves"]] == [("main", 2000)]
    for document in (planned, done):
        assert [(e["place"], e["not_now"]) for e in document["errors"]] == [("tiers.archive (127.0.0.1:1/x)", True)]
    ask("alert", "run")
    (cause,) = (a["cause"] for a in ask("alert", "status")["alerts"] if a["kind"] == "migration failed")
    assert cause.startswith("1 had to wait: tiers.archive (127.0.0.1:1/x): the server does not answer")


def test_a_run_that_must_end_names_the_tables_that_it_did_not_come_to(make_tiers: TiersFactory) -> None:
    """After the first table the time is over: no other one is looked at, however many there are."""
    tiers = make_tiers(core="events")
    with closing(tiers.core.connect("application")) as application:
        application.execute("CREATE TABLE later (id int PRIMARY KEY, at timestamptz NOT NULL)")
        application.execute("INSERT INTO later VALUES (1, '2024-01-01')")
    path = tierkeeper_toml(tiers, [ARCHIVED, {**ARCHIVED, "name": "public.later"}])
    moved: list[str] = []

    def note(what: str, done: int, total: int | None) -> None:
        moved.append(what)

    def keeper(stop: Stop) -> Keeper:
        return open_keeper(load(path, {}, tiers.home), environment=tiers.environment, stop=stop, progress=note)

    keeper(lambda: None).setup(apply=True)
    ended = keeper(lambda: TIME_LIMIT if moved else None).quota()
    assert [(m.table, m.rows, m.stopped_because) for m in ended.moves] == [("public.events", 2000, TIME_LIMIT)]
    assert [(one.table, one.from_, one.to, one.rows) for one in ended.left] == [("public.later", "core", "main", None)]
    assert ended.stopped_because == TIME_LIMIT
    time.sleep(REST_SECONDS)
    moved.clear()
    archived = keeper(lambda: TIME_LIMIT if moved else None).archive_run()
    assert [(run.table, run.rows) for run in archived.runs] == [("public.events", 2000)]
    assert [(one.table, one.rows) for one in archived.left] == [("public.later", None)]
    assert keeper(lambda: None).quota().left == []
