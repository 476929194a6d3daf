"""SIGKILL at the durable steps of a move whose rows lie in partitions at both ends, while partitions come and go (I1 to I5)."""

import json
import signal
from collections.abc import Callable
from contextlib import closing

import pytest

from kills import POLICY, World, check_as_undisturbed, check_nothing_lost, furnish, rest, world_of
from support import Tiers, tierkeeper_toml
from tierkeeper.kernel.faults import Point

_FORMER = """
ALTER TABLE public.events RENAME TO former;
CREATE TABLE public.events (LIKE public.former, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE public.events_jan PARTITION OF public.events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE public.events_feb PARTITION OF public.events FOR VALUES FROM ('2024-02-01') TO ('2024-03-01') PARTITION BY HASH (id);
CREATE TABLE public.events_feb_0 PARTITION OF public.events_feb FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.events_feb_1 PARTITION OF public.events_feb FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE public.events_rest PARTITION OF public.events DEFAULT;
INSERT INTO public.events SELECT * FROM public.former;
DROP TABLE public.former
"""
_AT_MAIN = """
CREATE TABLE public.events (id bigint, at timestamptz, kind text NOT NULL, body text, PRIMARY KEY (id, at))
PARTITION BY HASH (id);
CREATE TABLE public.events_0 PARTITION OF public.events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.events_1 PARTITION OF public.events FOR VALUES WITH (MODULUS 2, REMAINDER 1)
"""
_LONG = pytest.mark.long
_TO_MAIN = [
    *(Point.COPIED, Point.DELETE_BEFORE_COMMIT, Point.DELETED),
    *(pytest.param(p, marks=_LONG) for p in (Point.MARKER_OPEN, Point.COPY_BEFORE_COMMIT, Point.WAITED, Point.DONE)),
]
_TO_ARCHIVE = [
    Point.COPIED,
    *(pytest.param(p, marks=_LONG) for p in (Point.MARKER_OPEN, Point.SEGMENT_PUT, Point.DELETE_BEFORE_COMMIT, Point.DELETED)),
]
_DROPPING = [Point.DROP_BEFORE_COMMIT, *(pytest.param(p, marks=_LONG) for p in (Point.DROP_RECORDED, Point.DROPPED))]


def furnish_parts(tiers: Tiers) -> None:
    """As `furnish`, of partitioned tables."""
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        core.execute(_FORMER.encode())
        main.execute(_AT_MAIN.encode())
    furnish(tiers)


@pytest.fixture
def world(make_tiers: Callable[..., Tiers]) -> World:
    return world_of(make_tiers(core="events", furnish=furnish_parts))


@pytest.mark.parametrize("point", _TO_MAIN)
def test_killed_on_the_way_from_partitions_to_partitions(world: World, point: Point) -> None:
    original = world.online()["core"]
    assert world.move("main", die_at=point).returncode == -signal.SIGKILL
    check_nothing_lost(world, original)
    again = world.move("main")
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["stopped_because"] == "complete"
    check_as_undisturbed(world, original, "main")


@pytest.mark.parametrize("point", _TO_ARCHIVE)
def test_killed_on_the_way_from_partitions_to_the_archive(world: World, point: Point) -> None:
    original = world.online()["core"]
    assert world.move("main").returncode == 0
    rest(world)
    assert world.move("archive", die_at=point).returncode == -signal.SIGKILL
    check_nothing_lost(world, original)
    again = world.move("archive")
    assert again.returncode == 0, again.stdout + again.stderr
    check_as_undisturbed(world, original, "archive")


@pytest.mark.parametrize("point", [Point.COPIED, Point.DELETED])
def test_a_partition_is_detached_between_the_kill_and_the_next_run(world: World, point: Point) -> None:
    """What was copied and not deleted stays with the partition, and its copy goes; what was deleted is at Main."""
    original = world.online()["core"]
    assert world.move("main", die_at=point).returncode == -signal.SIGKILL
    with closing(world.tiers.core.connect("test")) as core:
        core.execute("ALTER TABLE public.events DETACH PARTITION public.events_jan")
        again = world.move("main")
        assert again.returncode == 0, again.stdout + again.stderr
        core.execute(
            "ALTER TABLE public.events ATTACH PARTITION public.events_jan FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')"
        )
    online = world.online()
    assert sum(online.values(), type(original)()) == original, "a row is nowhere, or twice"
    assert world.move("main").returncode == 0
    check_as_undisturbed(world, original, "main")


@pytest.mark.parametrize("point", _DROPPING)
def test_killed_while_an_empty_partition_is_dropped(world: World, point: Point) -> None:
    """A row that comes late, between the kill and the next run, finds its partition or the DEFAULT one, and stays."""
    tierkeeper_toml(world.tiers, [{**p, "drop_partitions": p.get("mode") != "mirror"} for p in POLICY], query_timeout="1 second")
    original = world.online()["core"]
    assert world.command("quota", die_at=point).returncode == -signal.SIGKILL
    check_nothing_lost(world, original)
    with closing(world.tiers.core.connect("test")) as core:
        core.execute("INSERT INTO public.events VALUES (9999, '2024-01-15', 'a', 'late')")
        late = world.online()["core"] - original
        assert late.total() == 1
        again = world.command("quota")
        assert again.returncode == 0, again.stdout + again.stderr
        check_nothing_lost(world, original + late)
        assert world.online()["core"].total() == 0
        left = core.execute("SELECT array_agg(relid::text) FROM pg_partition_tree('public.events') WHERE level > 0").fetchone()
        assert left == (["events_rest"],)


def test_rows_come_back_into_their_partitions(world: World) -> None:
    original = world.online()["core"]
    assert world.move("main").returncode == 0
    rest(world)
    assert world.move("core", die_at=Point.COPIED).returncode == -signal.SIGKILL
    check_nothing_lost(world, original)
    again = world.move("core")
    assert again.returncode == 0, again.stdout + again.stderr
    check_as_undisturbed(world, original, "core")
