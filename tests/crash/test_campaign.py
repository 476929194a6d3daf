"""SIGKILL of the mover and of either server, cuts of its links, at every fault point and at moments nobody chose (I1 to I5).

Meanwhile an application writes and a reader asks. Then the mover runs until it says that it is complete: every row that the
application committed, with its last content, is in exactly one place, and no answer ever said otherwise. A world is drawn from
its seed: `-k "many and 17"` runs the 18th again.
"""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from campaign import LONGEST_READER_SECONDS, TABLES, Check, Reader, Servers, Tally, World, Writer
from strikes import POINTS, Fault, Strike, plan
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier

WORLDS, RUNS = 40, 25
"""A thousand runs: a world's rows, markers and segments grow with each of its runs."""
HOPS: tuple[Tier, ...] = ("main", "core", "archive")
"""In turn, each over every table: some of what came to Main goes back, and is there again when the next run takes it down."""


@pytest.fixture(scope="module")
def servers(server_folder: Path) -> Iterator[Servers]:
    with Servers.started(server_folder) as started:
        yield started


def say(config: pytest.Config, *lines: str) -> None:
    """Past pytest's capture, from each of its processes: a campaign of half an hour shows how far it is."""
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():  # type: ignore[union-attr]
        sys.stderr.write("\n" + "\n".join(lines))
        sys.stderr.flush()


@pytest.fixture(scope="module")
def tally(pytestconfig: pytest.Config) -> Iterator[Tally]:
    """Counts over all worlds, told at the end."""
    counted, began = Tally(), time.monotonic()
    yield counted
    say(pytestconfig, *counted.lines(), f"  in {time.monotonic() - began:.0f} s", "")


class Campaign:
    """The runs of one world, each a fault into a move over one of its tables and then the reruns that settle it."""

    def __init__(self, world: World, seed: int, tally: Tally) -> None:
        self._world, self._seed, self._tally = world, seed, tally
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._arrived = dict.fromkeys(TABLES, 0.0)

    def run(self, number: int) -> list[str]:
        """What was wrong in the world's run of this `number`."""
        table = TABLES[number % len(TABLES)]
        turn, hop = divmod(number // len(TABLES), len(HOPS))
        destination = HOPS[hop]
        faults = plan(destination)
        fault = faults[(self._seed * RUNS // len(HOPS) + turn * len(TABLES) + number % len(TABLES)) % len(faults)]
        writers = self._chance.choice((0, 1, 2))
        if destination == "main":
            self._world.fill(table, self._chance, 60)
        else:
            time.sleep(max(0.0, self._arrived[table] + LONGEST_READER_SECONDS + 0.1 - time.monotonic()))
        wrong = self._struck(table, destination, fault, writers)
        self._arrived[table] = time.monotonic()
        self._tally.runs += 1
        return [
            f"seed {self._seed}, run {number} ({table} to {destination}, {fault} {fault.point}, {writers} writers): {w}"
            for w in wrong
        ]

    def _struck(self, table: str, destination: Tier, fault: Fault, writers: int) -> list[str]:
        strike = Strike(self._world, table, destination, self._chance, self._tally)
        check = Check(self._world, table, destination, strike.wrong)
        with Reader(self._world, table, self._tally) as reader:
            with ExitStack() as writing:
                for _ in range(writers):
                    chance = random.Random(self._chance.random())  # noqa: S311
                    writing.enter_context(Writer(self._world, table, chance, self._tally))
                strike.strike(fault)
            check.settle(self._tally)
        strike.heal()
        check.places()
        return strike.wrong + reader.wrong


def campaign(servers: Servers, seed: int, runs: int, tally: Tally, seconds: float = 3600) -> None:
    until = time.monotonic() + seconds
    with ExitStack() as stack:
        runner = Campaign(World(servers, f"world_{seed}", stack), seed, tally)
        for number in range(runs):
            if time.monotonic() > until:
                break
            wrong = runner.run(number)
            tally.violations += wrong
            assert wrong == []


def test_every_point_has_its_place_in_the_campaign() -> None:
    planned = {f.point for destination in POINTS for f in plan(destination)} - {None}
    of_a_setup = {Point.TABLE_ALTERED, Point.TABLE_SET_UP, Point.AUTHORITY_PINNED}
    of_displaced_copies = {Point.REFOUND}
    of_space = {p for p in Point if p.value.startswith(("compact", "reindex", "drop"))}
    of_the_archive = {Point.RESTORE_STAGED, Point.RESTORE_BEFORE_COMMIT, Point.REBUILD_SETTLED, Point.REBUILD_BEFORE_COMMIT}
    of_the_archive |= {Point.REMOVAL_PUT, Point.SEGMENT_REMOVED, Point.OUTLIVED_DELETED, Point.THAW_SAID}
    of_the_archive |= {p for p in Point if p.value.startswith("replace")}
    of_keys = {p for p in Point if p.value.startswith(("key-", "spool"))}
    of_the_home_server = {p for p in Point if p.value.startswith(("upload", "object-delet"))}
    of_alerts = {Point.ALERT_CLAIMED, Point.ALERT_SENT}
    elsewhere = of_a_setup | of_displaced_copies | of_space | of_the_archive | of_keys | of_the_home_server | of_alerts
    assert planned == set(Point) - elsewhere


def test_a_sample_of_the_campaign(servers: Servers, tally: Tally) -> None:
    campaign(servers, seed=1000, runs=12, tally=tally, seconds=7)
    assert tally.runs >= 1
    assert tally.answers["right"] >= tally.runs


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(WORLDS))
def test_many_faults(servers: Servers, tally: Tally, seed: int, pytestconfig: pytest.Config) -> None:
    began, known = time.monotonic(), len(tally.violations)
    try:
        campaign(servers, seed, RUNS, tally)
    finally:
        wrong = tally.violations[known:]
        say(pytestconfig, f"world {seed + 1} of {WORLDS}: {time.monotonic() - began:.0f} s; so far {tally.lines()[0]}", *wrong)
