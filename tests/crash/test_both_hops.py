"""Readers through `tierkeeper query` while rows go down both hops (I2, I5), and what must not go down."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from support import Tiers, sampled, tierkeeper_toml
from tierkeeper import config
from tierkeeper.cli.stop import StopFlag
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Exit, NotNow
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results.meaning import exit_code
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.request import Bounds
from tierkeeper.query.runner import FastDoor

EVENTS = TableName("public", "events")
POLICY = (
    {"name": "public.kinds", "mode": "mirror"},
    {"name": "public.events", "age": "at", "core": "30 days", "main": "60 days"},
)
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
COUNT = "SELECT count(*) AS n, sum(id)::bigint AS s FROM public.events"


def keeper_of(tiers: Tiers, stop: Stop | None = None, *, query_timeout: str = "1 second") -> Keeper:
    path = tierkeeper_toml(tiers, POLICY, query_timeout=query_timeout)
    settings = config.load(path, tiers.environment, tiers.home)
    return open_keeper(settings, environment=tiers.environment, batch_rows=100, segment_rows=300, stop=stop)


def answer(keeper: Keeper) -> tuple[int, int] | None:
    """None where the machine is slower than query.timeout: no answer, never a wrong one."""
    try:
        row = keeper.query(COUNT).to_pylist()[0]
    except NotNow:
        return None
    return row["n"], row["s"]


def test_readers_count_each_row_once_while_both_hops_move(make_tiers: Callable[..., Tiers]) -> None:
    keeper = keeper_of(make_tiers(core="events"))
    keeper.setup(apply=True)
    ended, moved, failed = threading.Event(), {"main": 0, "archive": 0}, list[BaseException]()

    def moving(source: Tier, destination: Tier, pause_seconds: float) -> None:
        """The rows at Main must rest before they go on: rounds with a pause, each with rows that no round had before."""
        day = 0
        try:
            while not ended.wait(pause_seconds):
                day = min(day + 16, 82)
                moved[destination] += keeper.move(EVENTS, source, destination, before=FIRST + timedelta(days=day)).rows
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    hops = [
        threading.Thread(target=moving, args=("core", "main", 1.5)),
        threading.Thread(target=moving, args=("main", "archive", 0.2)),
    ]
    for hop in hops:
        hop.start()
    answers, began = list[tuple[int, int] | None](), time.monotonic()

    def enough() -> bool:
        return len(answers) - answers.count(None) >= 10 and min(moved.values()) > 0

    while (spent := time.monotonic() - began) < 5 or (spent < 40 and not enough()):  # a busy machine gets more time
        answers.append(answer(keeper))
    ended.set()
    for hop in hops:
        hop.join()
    assert failed == []
    assert set(answers) - {None} == {(2000, 2_001_000)}
    assert enough(), (moved, answers)


def test_a_key_that_core_uses_again_does_not_go_on_to_the_archive(make_tiers: Callable[..., Tiers]) -> None:
    """I2: Core's row counts; in the archive nobody could tell the other one from it."""
    tiers = make_tiers(core="events")
    keeper = keeper_of(tiers)
    keeper.setup(apply=True)
    until = FIRST + timedelta(days=30)
    assert keeper.move(EVENTS, "core", "main", before=until).rows == 719
    with closing(tiers.core.connect("app")) as app:
        app.execute("INSERT INTO public.events VALUES (7, '2024-01-02', 'a', 'again')")
    assert keeper.move(EVENTS, "core", "main", before=until).conflicts == ["7"]
    assert answer(keeper) == (2000, 2_001_000)
    time.sleep(1.2)
    outcome = keeper.move(EVENTS, "main", "archive", before=until)
    assert (outcome.rows, outcome.conflicts) == (718, ["7"])
    assert answer(keeper) == (2000, 2_001_000)


def test_a_conflict_is_read_whatever_the_table_is_called(tiers: Tiers) -> None:
    for link in (tiers.core, tiers.main):
        with closing(link.connect("app")) as app:
            app.execute('CREATE TABLE public."100% %s" ("k%" int PRIMARY KEY, at date)')
            app.execute("INSERT INTO public.\"100% %s\" VALUES (1, '2024-01-01')")
    policy = {"name": 'public."100% %s"', "age": "at", "core": "30 days", "main": "60 days"}
    path = tierkeeper_toml(tiers, [policy], query_timeout="1 second")
    keeper = open_keeper(config.load(path, tiers.environment, tiers.home), environment=tiers.environment)
    keeper.setup(apply=True)
    assert keeper.move(TableName("public", "100% %s"), "core", "main").conflicts == ["1"]
    assert keeper.query('SELECT "k%" AS k FROM public."100% %s"').to_pylist() == [{"k": 1}]


@pytest.mark.parametrize("reading", sampled([False, True], True))
def test_sigterm_ends_at_a_safe_point(make_tiers: Callable[..., Tiers], *, reading: bool) -> None:
    """Exit 75 also while the move waits for a reader at Main; what is left is whole and the next run ends it."""
    tiers, stop = make_tiers(core="events"), StopFlag()
    keeper = keeper_of(tiers, stop=stop)
    keeper.setup(apply=True)
    until = FIRST + timedelta(days=30)

    def hook(reached: Point) -> None:
        if reached is Point.COPIED and stop() is None:
            os.kill(os.getpid(), signal.SIGTERM)

    with closing(tiers.main.connect("app")) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        if reading:
            reader.execute("SELECT count(*) FROM public.events")
        faults.arm(hook)
        try:
            with stop.listening():
                outcome = keeper.move(EVENTS, "core", "main", before=until)
        finally:
            faults.disarm()
    assert outcome.stopped_because == "stopped"
    assert outcome.rows == 0 if reading else 0 < outcome.rows < 720
    assert exit_code(outcome) is Exit.NOT_NOW
    assert answer(keeper) == (2000, 2_001_000)
    assert keeper_of(tiers).move(EVENTS, "core", "main", before=until).stopped_because == "complete"
    assert answer(keeper) == (2000, 2_001_000)


def test_rows_rest_at_main_for_the_readers_that_saw_them_in_core(
    make_tiers: Callable[..., Tiers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: between a reader's first snapshot and its second, rows go to Main and would go on to the archive at once."""
    keeper = keeper_of(make_tiers(core="events"), query_timeout="10 seconds")
    keeper.setup(apply=True)
    until, take, deeds = FIRST + timedelta(days=8), FastDoor._moved, list[str]()

    def after_the_first_snapshot(door: FastDoor, cur: psycopg.Cursor) -> frozenset[object]:
        moved = take(door, cur)
        if not deeds:
            deeds.append(keeper.move(EVENTS, "core", "main", before=until).stopped_because)
            deeds.append(keeper.move(EVENTS, "main", "archive", before=until).stopped_because)
        return moved

    keeper.move(EVENTS, "core", "main", before=FIRST)  # what can be made before is made
    monkeypatch.setattr(FastDoor, "_moved", after_the_first_snapshot)
    patient = open_keeper(keeper._settings, environment=keeper._environment)
    monkeypatch.setattr(patient, "_bounds", Bounds(30))
    assert answer(patient) == (2000, 2_001_000)
    assert deeds[0] == "complete"
    assert deeds[1].startswith("resting")
