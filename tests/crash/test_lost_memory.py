"""A source that lost its schema, or another database behind its URL: the copy may be the only place of the rows (I1).

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

import json
import re
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from kills import Row, World, check_as_undisturbed, furnish, rest, world_of
from support import Tiers
from tierkeeper.kernel.faults import Point
from tierkeeper.postgres.link import Link

HOPS = ("main", "archive", "core")
AFTER_THE_COPY = (Point.COPIED, Point.DELETE_BEFORE_COMMIT, Point.DELETED)
BEFORE_THE_COPY = (Point.LEDGER_OPEN, Point.MARKER_OPEN, Point.COPY_BEFORE_COMMIT)


@pytest.fixture
def world(make_tiers: Callable[..., Tiers]) -> World:
    return world_of(make_tiers(core="events", furnish=furnish))


def source_of(world: World, destination: str) -> Link:
    return world.tiers.core if destination == "main" else world.tiers.main


def killed(world: World, destination: str, point: Point) -> None:
    if destination != "main":
        assert world.move("main").returncode == 0
        rest(world)
    assert world.move(destination, die_at=point).returncode == -signal.SIGKILL


def run(link: Link, statement: str) -> None:
    with closing(link.connect("person")) as conn:
        conn.execute(statement.encode())


def said(text: str, statement: str) -> str:
    """The statement that a remedy gives."""
    found = re.search(statement, text, re.DOTALL)
    assert found is not None, text
    return found[0]


def followed(world: World, source: Link, told: str) -> None:
    """What else the lost schema knew: who the source is, and what had come to it from Core."""
    if "UPDATE" in told:
        run(source, said(told, r"UPDATE tierkeeper\.tier SET id = '[^']+' WHERE role = '\w+'"))
    else:
        run(world.tiers.core, said(told, r"DELETE FROM tierkeeper\.marker WHERE batch = '[^']+'"))


def online(world: World) -> set[Row]:
    return {row for rows in world.online().values() for row in rows}


def cases() -> list[Any]:
    """Every point of every hop; what the sample leaves out is for the long run."""
    sample = {("main", Point.COPIED), ("core", Point.DELETED)}
    every = [(hop, point) for hop in HOPS for point in AFTER_THE_COPY]
    return [pytest.param(*one, marks=() if one in sample else pytest.mark.long, id=f"{one[0]}-{one[1].value}") for one in every]


@pytest.mark.parametrize(("destination", "point"), cases())
def test_a_source_that_lost_its_schema_takes_no_copy_back(world: World, destination: str, point: Point) -> None:
    """It refuses, says how many rows are there, and a person's word ends it as an undisturbed run would have (I5)."""
    original = world.online()["core"]
    killed(world, destination, point)
    source = source_of(world, destination)
    run(source, "DROP SCHEMA tierkeeper CASCADE")
    for _ in range(2):  # the second finds the schema that the first has made again
        refused = world.move(destination)
        assert refused.returncode == 1, refused.stdout + refused.stderr
    error = json.loads(refused.stdout)["error"]
    assert error["place"] == f"tiers.{source.tier}"
    if destination != "archive":
        left = 0 if point is Point.DELETED else "all"
        found = re.search(r"Of the (\d+) keys that came, \w+ has (\d+) now", error["cause"])
        assert found is not None, error
        assert found[2] == (found[1] if left == "all" else "0"), error
    word = said(error["remedy"], r"INSERT INTO tierkeeper\.marker .*now\(\)\)")
    run(source, word if point is Point.DELETED else word.replace("'moved'", "'aborted'"))
    again = world.move(destination)
    while again.returncode == 1:
        followed(world, source, again.stdout)
        again = world.move(destination)
    assert again.returncode == 0, again.stdout + again.stderr
    check_as_undisturbed(world, original, destination)


@pytest.mark.parametrize("point", [BEFORE_THE_COPY[0], *(pytest.param(p, marks=pytest.mark.long) for p in BEFORE_THE_COPY[1:])])
def test_nothing_was_copied_yet(world: World, point: Point) -> None:
    """An intent that came to nothing is withdrawn, whoever asks: no row can go by it."""
    original = world.online()["core"]
    killed(world, "main", point)
    run(world.tiers.core, "DROP SCHEMA tierkeeper CASCADE")
    again = world.move("main")
    assert again.returncode == 0, again.stdout + again.stderr
    check_as_undisturbed(world, original, "main")


@pytest.mark.parametrize("point", [*(pytest.param(p, marks=pytest.mark.long) for p in AFTER_THE_COPY[:-1]), Point.DELETED])
def test_another_core_on_the_same_main(world: World, make_tiers: Callable[..., Tiers], point: Point) -> None:
    """Its own `move` neither takes the first one's copies back nor puts its rows beside them."""
    original = world.online()["core"]
    killed(world, "main", point)
    second = make_tiers(core="events")
    run(second.core, "DELETE FROM public.events; INSERT INTO public.events VALUES (9001, '2024-01-03', 'a', 'of the second')")
    tiers = replace(second, main=world.tiers.main)
    other = world_of(tiers)
    for _ in range(2):
        refused = other.move("main")
        assert refused.returncode in (1, 2), refused.stdout + refused.stderr
        assert set(original) == online(world)
    assert world.move("main").returncode == 0
    check_as_undisturbed(world, original, "main")
    refused = other.move("main")
    assert refused.returncode == 1, refused.stdout + refused.stderr
    assert "this is not the database that rows of public.events came from" in refused.stdout
    assert other.online()["core"].total() == 1
    check_as_undisturbed(world, original, "main")
