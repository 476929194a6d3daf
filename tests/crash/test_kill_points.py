"""SIGKILL at every durable step of a move, then the same command again (I1 to I5).

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

import itertools
import json
import signal
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from kills import END_RECORDS, World, check_as_undisturbed, check_nothing_lost, furnish, records_held_up, rest, world_of
from strikes import IN_RECOVERY, POINTS
from support import Tiers, eventually, sampled
from tierkeeper.kernel.errors import Exit
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier

SAMPLE = {
    "main": (
        Point.MARKER_OPEN, Point.COPIED, Point.DELETE_BEFORE_COMMIT, Point.DELETED, Point.DONE,
    ),
    "archive": (
        Point.SEGMENT_PUT, Point.COPIED, Point.DELETED, Point.DONE,
    ),
    "core": (Point.COPIED, Point.DELETED),
}  # fmt: skip
"""One for each state that a kill can leave in the tiers: between two of these nothing is committed."""


def points(destination: Tier) -> list[Any]:
    """Every point of the hop; what the sample leaves out is for the long run."""
    sampled = SAMPLE.get(destination, POINTS[destination])
    return [pytest.param(p, marks=() if p in sampled else pytest.mark.long, id=p.value) for p in POINTS[destination]]


@pytest.fixture
def world(make_tiers: Callable[..., Tiers]) -> World:
    return world_of(make_tiers(core="events", furnish=furnish))


def check_killed(world: World, destination: str, point: Point) -> None:
    """A move that dies at `point` loses nothing, and the next one ends as if it had been the first."""
    original = world.online()["core"]
    if destination != "main":
        assert world.move("main").returncode == 0
        rest(world)
    killed = world.move(destination, die_at=point)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    check_nothing_lost(world, original)
    again = world.move(destination)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["stopped_because"] == "complete"
    check_as_undisturbed(world, original, destination)


@pytest.mark.parametrize("point", points("main"))
def test_killed_on_the_way_to_main(world: World, point: Point) -> None:
    check_killed(world, "main", point)


@pytest.mark.parametrize("point", points("archive"))
def test_killed_on_the_way_to_the_archive(world: World, point: Point) -> None:
    check_killed(world, "archive", point)
    assert json.loads(world.command("archive", "verify").stdout)["ok"] is True


@pytest.mark.parametrize("point", points("core"))
def test_killed_on_the_way_back_to_core(world: World, point: Point) -> None:
    check_killed(world, "core", point)


@pytest.mark.parametrize(
    ("destination", "point"),
    sampled(
        itertools.product(("main", "archive", "core"), IN_RECOVERY),
        *(("main", point) for point in IN_RECOVERY),
        ("archive", Point.UNDO_BEFORE_COMMIT),
    ),
)
def test_killed_during_recovery(world: World, destination: str, point: Point) -> None:
    original = world.online()["core"]
    if destination != "main":
        assert world.move("main").returncode == 0
        rest(world)
    assert world.move(destination, die_at=Point.MARKER_OPEN).returncode == -signal.SIGKILL
    assert world.move(destination, die_at=point).returncode == -signal.SIGKILL
    check_nothing_lost(world, original)
    assert world.move(destination).returncode == 0
    check_as_undisturbed(world, original, destination)


COPYING = POINTS["main"][POINTS["main"].index(Point.LEDGER_OPEN) : POINTS["main"].index(Point.DELETE_BEFORE_COMMIT)]


@pytest.mark.long
@pytest.mark.parametrize(("point", "next_point"), list(itertools.product(COPYING, (Point.DELETED, Point.HORIZON_RECORDED))))
def test_killed_while_nothing_is_recorded_yet(world: World, point: Point, next_point: Point) -> None:
    """I2: the horizon is written beside the copies. The next run deletes what these are of, and dies; a reader skips no row."""
    original = world.online()["core"]
    with closing(world.tiers.core.connect("app")) as app:
        app.execute("TRUNCATE tierkeeper.horizon")
        assert world.count_alone() == original.total()
        with records_held_up(app):
            assert world.move("main", die_at=point).returncode == -signal.SIGKILL
            check_nothing_lost(world, original)
            assert eventually(lambda: app.execute(END_RECORDS).fetchone() == (1,))
        check_nothing_lost(world, original)
        assert world.move("main", die_at=next_point).returncode == -signal.SIGKILL
        check_nothing_lost(world, original)
    assert world.move("main").returncode == 0
    check_as_undisturbed(world, original, "main")
    assert world.count_alone() is None


STEPS = [Point.REFOUND, Point.UNDO_BEFORE_COMMIT, Point.UNDONE]


@pytest.mark.parametrize(
    ("destination", "points"),
    [
        ("main", STEPS[1:2]),
        *(pytest.param(destination, STEPS, marks=pytest.mark.long) for destination in ("main", "core")),
    ],
)
def test_killed_while_a_copy_is_known_by_its_content_alone(world: World, destination: str, points: list[Point]) -> None:
    """Its table is written anew before the next run; runs die as they take it back, and another ends it."""
    original = world.online()["core"]
    if destination == "core":
        assert world.move("main").returncode == 0
        rest(world)
    assert world.move(destination, die_at=Point.COPIED).returncode == -signal.SIGKILL
    with closing((world.tiers.main if destination == "main" else world.tiers.core).connect("app")) as app:
        app.execute("ALTER TABLE public.events ALTER body TYPE text USING body || ''")
    for point in points:
        assert world.move(destination, die_at=point).returncode == -signal.SIGKILL
        online = world.online()
        assert not original - (online["core"] | online["main"])
    assert world.move(destination).returncode == Exit.DONE
    check_as_undisturbed(world, original, destination)
