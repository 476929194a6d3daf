"""A server that is killed and started again under a move that two processes share: the application's own count of its rows."""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Literal

import pytest

from jobs_processes import Running, begin, finished, furnish, make_due, moved, rows_in, set_up
from support import Tiers, eventually
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.postgres.link import Link

MEANWHILE = """
SELECT (SELECT count(DISTINCT worker_id) FROM tierkeeper_jobs.procrastinate_jobs
        WHERE queue_name = 'parts 1' AND status = 'doing'),
       (SELECT count(*) FROM tierkeeper.ledger WHERE state IN ('open', 'copied'))
"""


@pytest.fixture
def own(server_folder: Path, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """It forgets what the system's cache has on a power cut alone, which this is none of."""
    with EmbeddedPostgres.start(server_folder / f"restarted-{tmp_path.name}", durable=False) as server:
        yield server


def is_shared(main: Link) -> bool:
    """Whether two processes are at parts of the move, and batches are in flight."""
    with closing(main.connect("test")) as conn:
        at_work, in_flight = conn.execute(MEANWHILE).fetchone() or (0, 0)
    return at_work >= 2 and in_flight > 0  # type: ignore[operator]  # two counts


def in_flight(link: Link) -> int:
    with closing(link.connect("test")) as conn:
        (count,) = conn.execute("SELECT count(*) FROM tierkeeper.marker WHERE state = 'open'").fetchone() or (None,)
    assert isinstance(count, int)
    return count


def restart_amid(server: EmbeddedPostgres, tiers: Tiers, folder: Path, rows: int, again: Callable[[], bool]) -> int:
    """Shares a move of so many rows and kills `server` in the middle of it, and `again`; how often it could."""
    config = furnish(tiers, rows)
    set_up(tiers, config)
    original = rows_in(tiers.core)
    make_due(tiers.main)
    running = [begin(role, config, tiers.environment, folder / role) for role in ("worker", "run")]
    restarts = 0
    while eventually(lambda: is_shared(tiers.main) or bool(finished(*running))) and not finished(*running):
        server.kill()
        server.restart()
        restarts += 1
        core, main = rows_in(tiers.core), rows_in(tiers.main)  # in the readers' order: what left the one is in the other
        assert not original - (core | main)
        if not again():
            break
    moved(*running)
    assert [one.end() for one in running] == [0, 0]
    assert rows_in(tiers.main) == original
    assert not rows_in(tiers.core)
    assert in_flight(tiers.core) == 0
    assert all(_took_a_part(one) for one in running)
    return restarts


def _took_a_part(one: Running) -> bool:
    return bool(one.events("part"))


@pytest.mark.long
@pytest.mark.parametrize("tier", ["main", "core"])
def test_a_server_that_restarts_amid_a_shared_move(
    own: EmbeddedPostgres, tiers: Tiers, tmp_path: Path, tier: Literal["core", "main"]
) -> None:
    """I1, I4, I5: none is lost or doubled, and what was in flight ends right."""
    mine = replace(tiers, **{tier: own.link(tier)})  # type: ignore[arg-type]  # both are links
    assert restart_amid(own, mine, tmp_path, 20_000, lambda: False) == 1


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tier", ["core", "main"])
def test_a_server_that_restarts_again_and_again(
    own: EmbeddedPostgres, tiers: Tiers, tmp_path: Path, tier: Literal["core", "main"], seed: int
) -> None:
    chance, left = random.Random(seed), iter(range(5))  # noqa: S311

    def again() -> bool:
        sleep(chance.uniform(0, 1.5))
        return next(left, None) is not None

    mine = replace(tiers, **{tier: own.link(tier)})  # type: ignore[arg-type]  # both are links
    assert restart_amid(own, mine, tmp_path, 100_000, again) > 1
