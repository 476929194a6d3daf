"""I2 under fire: readers ask all the while that rows really move from Core to Main to the archive and that movers are killed.

What a reader must see is what the application put in; nothing here reads the schema `tierkeeper`.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import processes
import tierkeeper
from processes import Ended
from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.compose import Keeper
from tierkeeper.kernel.errors import NotNow, TierkeeperError
from tierkeeper.kernel.faults import Point

POLICY = (
    {"name": "public.kinds", "mode": "mirror"},
    {"name": "public.events", "age": "at", "core": "30 days", "main": "60 days"},
)
ROWS, SUM = 2000, 2000 * 2001 // 2
QUESTIONS = {
    "select count(*) as n, sum(id) as s from events": (ROWS, SUM),
    "select count(*) as n, sum(a.id) as s from events a join events b on a.id = b.id join kinds k on k.kind = b.kind": (
        ROWS,
        SUM,
    ),
    "with e as (select * from events where at < '2024-03-01') "
    "select count(*) as n, (select sum(id) from events) as s from (select id from e union select id from events) q": (ROWS, SUM),
}
KILLED_TO_MAIN = (Point.COPIED, Point.DELETED, Point.DONE)
KILLED_TO_ARCHIVE = (Point.COPIED, Point.DELETED)


class Readers:
    """Two threads that ask without a pause. `wrong` keeps every answer that is not the application's, `said` every error."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]
        self.right = 0
        self.wrong: list[tuple[str, object]] = []
        self.said: Counter[str] = Counter()

    @contextmanager
    def asking(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def _ask(self) -> None:
        while not self._over.is_set():
            for question, expected in QUESTIONS.items():
                try:
                    (row,) = self._keeper.query(question).to_pylist()
                except NotNow as error:  # an honest answer on a busy machine
                    self.said[str(error)] += 1
                except TierkeeperError as error:
                    self.wrong.append((question, error))
                else:
                    if (row["n"], row["s"]) == expected:
                        self.right += 1
                    else:
                        self.wrong.append((question, row))


def move(tiers: Tiers, config: Path, hop: str, before: str, die_at: Point | None = None) -> Ended:
    source, destination = hop.split()
    argv = ["move", "public.events", "--from", source, "--to", destination, "--before", before, "--config", str(config), "--json"]
    return processes.command(argv, tiers.environment, die_at=die_at)


def test_every_answer_is_exact_while_movers_run_and_die(make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = make_tiers(core="events")
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    config = tierkeeper_toml(tiers, POLICY, query_timeout="1 second")
    keeper = tierkeeper.open(config)
    keeper.setup(apply=True)
    keeper.query("select count(*) from events")
    readers = Readers(keeper)
    with readers.asking():
        for day, point in enumerate(KILLED_TO_MAIN):
            before = f"2024-02-{10 + 5 * day}"
            assert move(tiers, config, "core main", before, die_at=point).returncode == -signal.SIGKILL
            assert move(tiers, config, "core main", before).returncode == 0
        time.sleep(1.2)  # what came to Main rests there for the longest reader's time
        for day, point in enumerate(KILLED_TO_ARCHIVE):
            before = f"2024-01-{10 + 9 * day}"
            assert move(tiers, config, "main archive", before, die_at=point).returncode == -signal.SIGKILL
            assert move(tiers, config, "main archive", before).returncode == 0
    assert readers.wrong == []
    assert readers.right > 5, readers.said  # the others were told to ask again: a second is short on a busy machine
    assert sum(s.rows for s in keeper.archive_list()) == 18 * 24 - 1, "events before the 19th, an hour apart, from one o'clock on"
