"""`archive = "…"` in a policy: segments go when their time is over, never before, not under a lock, and nothing else goes."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import processes
from support import tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.clock import FixedDay, SystemClock
from tierkeeper.kernel.faults import Point
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.postgres.link import Link
from vault import EVENTS, House, day

POINTS: Sequence[Point] = (
    Point.SEGMENT_REMOVED,
    Point.REMOVAL_PUT,
    Point.OUTLIVED_DELETED,
)
POLICY: list[dict[str, Any]] = [
    {"name": "public.kinds", "mode": "mirror"},
    {"name": "public.events", "age": "at", "archive": "20 years"},
]


def keeper(house: House, at: datetime, **more: str) -> Keeper:
    """A keeper of the house under a policy that forgets after twenty years, on the day `at`."""
    tierkeeper_toml(house.tiers, [POLICY[0], {**POLICY[1], **more}], query_timeout="1 second")
    settings = load(house.config, {}, house.tiers.home)
    return open_keeper(settings, environment=house.tiers.environment, clock=FixedDay(at))


def settle(house: House) -> None:
    """Batches are forgotten a longest reader after they were done."""
    with closing(house.tiers.catalog.connect("test")) as conn:
        conn.execute("UPDATE tierkeeper.ledger SET state = 'forgotten' WHERE state = 'done'")


def age(house: House, segment: str) -> datetime:
    """The age of a segment's youngest row, as the rows say it: those that are not in Main any more."""
    (row,) = [r for r in house.segments() if r["id"] == segment]
    return row["max_age"]  # type: ignore[no-any-return]


def years(moment: datetime, number: int) -> datetime:
    return moment.replace(year=moment.year + number)


def ids(house: House) -> set[int]:
    return {row["id"] for row in house.keeper.query("SELECT id FROM public.events").to_pylist()}


@pytest.fixture
def two(filled: House) -> tuple[House, str, str, set[int]]:
    """The house, its two segments, and the ids of the rows that are not in the first."""
    settle(filled)
    one, other = (row["id"] for row in filled.segments())
    youngest = age(filled, one)
    with closing(filled.tiers.main.connect("test")) as conn:
        in_main = {r[0] for r in conn.execute("SELECT id FROM public.events").fetchall()}
    kept = {row["id"] for row in filled.keeper.query(f"SELECT id FROM public.events WHERE at > '{youngest}'").to_pylist()}
    assert in_main < kept < filled.everything
    return filled, one, other, kept


def test_a_segment_goes_when_its_youngest_row_is_too_old_and_not_a_moment_before(two: tuple[House, str, str, set[int]]) -> None:
    house, one, _, kept = two
    over = years(age(house, one), 20)
    for moment in (over - timedelta(days=30), over):
        assert keeper(house, moment).archive_run().removed == []
        assert ids(house) == house.everything
    (plan,) = keeper(house, over + timedelta(seconds=1), main="10 years").plan_archive(EVENTS)
    assert "1 segments with" in plan.notes[-1]
    assert "are older than 20 years and would be removed" in plan.notes[-1]
    assert ids(house) == house.everything, "a plan changes nothing"
    assert keeper(house, over + timedelta(seconds=1)).archive_run().removed == [str(one)]
    assert ids(house) == kept
    verified = house.keeper.archive_verify()
    assert (verified.ok, verified.strays, verified.segments) == (True, [], 1)
    assert str(one) not in {s.segment for s in house.keeper.archive_list()}


class Ahead(SystemClock):
    """The servers are thirty years ahead; this machine is right."""

    def now(self, server: Callable[[], datetime] | None = None) -> datetime:
        return super().now(server) + timedelta(days=0 if server is None else 365 * 30)


def test_a_clock_that_is_ahead_lets_nothing_go_for_good(two: tuple[House, str, str, set[int]]) -> None:
    house, *_ = two
    tierkeeper_toml(house.tiers, POLICY, query_timeout="1 second")
    settings = load(house.config, {}, house.tiers.home)
    wrong = open_keeper(settings, environment=house.tiers.environment, clock=Ahead())
    done = wrong.archive_run()
    assert done.removed == []
    assert any("2 segments" in note and "clock of the catalog's server alone" in note for note in done.notes)
    assert ids(house) == house.everything


def test_a_clock_that_cannot_be_asked_lets_nothing_go_for_good(two: tuple[House, str, str, set[int]]) -> None:
    """A machine that has Main, catalog and the run on it, and a wrong clock, trusts no certificate of Core's any more."""
    house, *_ = two
    alone = keeper(house, datetime(2900, 1, 1, tzinfo=UTC))
    alone.links["core"] = Link("core", "postgresql://gone@127.0.0.1:1/gone")
    assert any("2 segments" in note and "core cannot be asked" in note for note in alone.plan_archive()[0].notes)
    done = alone.archive_run()
    assert done.removed == []
    assert any("2 segments" in note and "core cannot be asked" in note for note in done.notes)
    assert ids(house) == house.everything


def test_without_the_policy_nothing_ever_goes(two: tuple[House, str, str, set[int]]) -> None:
    house, *_ = two
    tierkeeper_toml(
        house.tiers, [POLICY[0], {"name": "public.events", "age": "at", "main": "900 years"}], query_timeout="1 second"
    )
    settings = load(house.config, {}, house.tiers.home)
    run = open_keeper(
        settings, environment=house.tiers.environment, clock=FixedDay(datetime(2900, 1, 1, tzinfo=UTC))
    ).archive_run()
    assert (run.removed, ids(house)) == ([], house.everything)


def test_a_run_up_to_a_named_time_removes_nothing(two: tuple[House, str, str, set[int]]) -> None:
    house, *_ = two
    assert keeper(house, datetime(2900, 1, 1, tzinfo=UTC)).archive_run(before=day(9)).removed == []


def test_what_is_locked_or_still_in_flight_stays(filled: House) -> None:
    one, other = (row["id"] for row in filled.segments())
    late = years(max(age(filled, s) for s in (one, other)), 21)
    with closing(filled.tiers.catalog.connect("test")) as conn:
        conn.execute("UPDATE tierkeeper.ledger SET state = 'done'")  # a slow machine may have forgotten the first by now
    assert keeper(filled, late).archive_run().removed == [], "their batches are not forgotten yet"
    settle(filled)
    store, (sha256,) = DirectoryStore(filled.tiers.store), [r["sha256"] for r in filled.segments() if r["id"] == one]
    store.lock(f"segment/{sha256}", late + timedelta(days=1))
    run = keeper(filled, late).archive_run()
    assert run.removed == [str(other)]
    assert f"segment {one} is over its time, and locked until" in run.notes[0]
    assert keeper(filled, late + timedelta(days=2)).archive_run().removed == [str(one)]


def test_the_files_outlive_a_reader_and_then_go_with_the_key_first(two: tuple[House, str, str, set[int]]) -> None:
    house, one, _, _ = two
    (row,) = [r for r in house.segments() if r["id"] == one]
    objects = [house.tiers.store / key for key in (row["key_object"], f"segment/{row['sha256']}")]
    late = years(age(house, one), 20) + timedelta(days=1)
    keeper(house, late).archive_run()
    assert all(path.exists() for path in objects), "a reader may be reading them"
    with closing(house.tiers.catalog.connect("test")) as conn:
        conn.execute("UPDATE tierkeeper.outlived SET since = since - interval '2 seconds'")
    assert keeper(house, late).archive_run().removed == []
    assert not any(path.exists() for path in objects)
    assert house.keeper.archive_verify().ok


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("lost", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_kill_at_any_step_and_a_lost_catalog_end_where_an_undisturbed_run_does(
    two: tuple[House, str, str, set[int]], point: Point, lost: bool
) -> None:
    """The clock of these processes is the real one: the rows are made old instead."""
    house, one, _, kept = two
    tierkeeper_toml(house.tiers, [POLICY[0], dict(POLICY[1], archive=_between(house))], query_timeout="1 second")
    run = ["archive", "run", "--json"]
    if point is Point.OUTLIVED_DELETED:
        assert processes.command(run, house.tiers.environment).returncode == 0
        with closing(house.tiers.catalog.connect("test")) as conn:
            conn.execute("UPDATE tierkeeper.outlived SET since = since - interval '2 seconds'")
    assert processes.command(run, house.tiers.environment, die_at=point).returncode == -9
    assert ids(house) == kept
    assert house.keeper.archive_verify().ok
    comes_back = lost and point is Point.SEGMENT_REMOVED
    if lost:
        house.lose_the_catalog()
        assert house.keeper.archive_rebuild().ok
        assert ids(house) == (house.everything if comes_back else kept), "a removal that was put is never taken back"
        settle(house)
    ended = processes.command(run, house.tiers.environment)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["removed"] == ([str(one)] if comes_back else [])
    with closing(house.tiers.catalog.connect("test")) as conn:
        conn.execute("UPDATE tierkeeper.outlived SET since = since - interval '2 seconds'")
    assert processes.command(run, house.tiers.environment).returncode == 0
    assert ids(house) == kept
    verified = house.keeper.archive_verify()
    assert verified.ok
    assert {Path(s.partition(":")[0]).parts[0] for s in verified.strays} <= {"commit"}
    assert len(list((house.tiers.store / "segment").iterdir())) == 1
    assert len(list((house.tiers.store / "key").iterdir())) == 1


def test_a_lost_catalog_remembers_what_was_removed(two: tuple[House, str, str, set[int]]) -> None:
    house, one, _, kept = two
    assert keeper(house, years(age(house, one), 20) + timedelta(days=1)).archive_run().removed == [str(one)]
    house.lose_the_catalog()
    rebuilt = house.keeper.archive_rebuild()
    assert (rebuilt.ok, rebuilt.segments, ids(house)) == (True, 1, kept)
    assert house.keeper.archive_verify().ok
    with closing(house.tiers.catalog.connect("test")) as conn:
        conn.execute("UPDATE tierkeeper.segment SET state = 'sealed', removal_object = NULL")
    assert "the catalog counts it still" in "; ".join(house.keeper.archive_verify().damaged)


def _between(house: House) -> str:
    """An age that the first segment's youngest row is past, and the second's is not."""
    one, other = house.segments()
    middle = one["max_age"] + (other["max_age"] - one["max_age"]) / 2
    return f"{int((datetime.now(UTC) - middle).total_seconds())} seconds"
