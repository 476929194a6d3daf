"""Several processes at one table: real ones, killed with SIGKILL, and the application's own count of its rows."""

import itertools
import random
import signal
from contextlib import closing
from pathlib import Path
from time import sleep

import pytest

from jobs_processes import Running, begin, finished, furnish, make_due, moved, rows_in, set_up
from support import Tiers, eventually
from tierkeeper.kernel.faults import Point


def live_workers(tiers: Tiers) -> int:
    with closing(tiers.main.connect("test")) as conn:
        row = conn.execute("SELECT count(*) FROM tierkeeper_jobs.procrastinate_workers").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize(
    "point",
    [
        Point.COPIED,
        *(pytest.param(p, marks=pytest.mark.long) for p in (Point.MARKER_OPEN, Point.DELETE_BEFORE_COMMIT, Point.DELETED)),
    ],
)
def test_processes_share_a_table_and_one_of_them_is_killed(tiers: Tiers, tmp_path: Path, point: Point) -> None:
    """I1, I4, I5: none is lost or doubled, each had a share, and what the killed one had in flight ends right."""
    config = furnish(tiers)
    set_up(tiers, config)
    original = rows_in(tiers.core)
    make_due(tiers.main)
    helper = begin("worker", config, tiers.environment, tmp_path / "helper")
    dying = begin("worker", config, tiers.environment, tmp_path / "dying", die_at=(point, 3))
    assert eventually(lambda: live_workers(tiers) == 4)
    leader = begin("run", config, tiers.environment, tmp_path / "leader")
    job = moved(leader, helper)
    ended = [leader.end(), helper.end()]
    dying.process.join(0)
    assert dying.process.exitcode == -signal.SIGKILL
    assert ended == [0, 0]
    assert all(sum(e["result"]["rows"] for e in one.events("part")) for one in (leader, helper))
    assert job["ok"]
    assert len(set(job["result"]["batch_ids"])) == job["result"]["batches"]
    assert job["result"]["rows"] == original.total()
    assert rows_in(tiers.main) == original
    assert not rows_in(tiers.core)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_processes_killed_again_and_again(tiers: Tiers, tmp_path: Path, seed: int) -> None:
    """I1 at each look, I5 at the end: whoever leads the move, and whoever leads the schedule."""
    config = furnish(tiers, rows=100_000)
    set_up(tiers, config)
    original = rows_in(tiers.core)
    make_due(tiers.main)
    chance, numbers = random.Random(seed), itertools.count()  # noqa: S311

    def another() -> Running:
        at = next(numbers)
        return begin("worker" if at % 2 else "run", config, tiers.environment, tmp_path / f"process-{at}")

    running, dead = [another() for _ in range(3)], list[Running]()
    while not finished(*running, *dead) and len(dead) < 8:
        sleep(chance.uniform(1, 3))
        core, main = rows_in(tiers.core), rows_in(tiers.main)  # in the readers' order: what left the one is in the other
        assert not original - (core | main)
        dead.append(running.pop(chance.randrange(3)))
        dead[-1].kill()
        running.append(another())
    job = moved(*running, *dead)
    for one in running:
        one.end()
    assert len(dead) > 2
    assert job["ok"]
    assert rows_in(tiers.main) == original
    assert not rows_in(tiers.core)
