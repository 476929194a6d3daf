"""SIGKILL while a table's space is given back, beside writers, then the same command again (I1, I4, I5).

The oracle is what the application's own transactions wrote; it never reads the schema `tierkeeper`.
"""

import json
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import processes
from processes import Ended
from support import Tiers, tierkeeper_toml
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Link
from tierkeeper.quotas import look
from tierkeeper.quotas.reclaim import Reclaimed, Reclaimer
from tierkeeper.tiers.tier import Tier

ROWS = 50_000
RUNS = 5  # of the command, until it comes to the point at which it is killed
TABLE = TableName("public", "logs")
POLICY = ({"name": "public.logs", "age": "at", "core": "100 years"},)
MAKE = f"""
CREATE TABLE public.logs (id bigint PRIMARY KEY, at timestamptz NOT NULL, tag uuid, body text);
CREATE INDEX logs_tag ON public.logs (tag);
INSERT INTO public.logs
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 minute', md5(i::text)::uuid, repeat(md5(i::text), 4)
FROM generate_series(1, {ROWS}) AS i;
"""


@dataclass
class Writer:
    """The application: changes, adds and deletes rows one by one, most of them where the table ends, and knows what it wrote."""

    link: Link
    rows: dict[int, str]
    seed: int
    stop: threading.Event = field(default_factory=threading.Event)
    changes: int = 0

    def __call__(self) -> None:
        dice, own = random.Random(self.seed), [i for i in self.rows if i % 3 == self.seed % 3]  # noqa: S311
        with closing(self.link.connect("app")) as conn:
            while not self.stop.is_set():
                what, at = dice.random(), int(len(own) * max(dice.random(), dice.random()))
                row, body = own[at], f"{self.seed} {self.changes} " + "x" * dice.randrange(200)
                if what < 0.6:
                    conn.execute("UPDATE public.logs SET body = %s WHERE id = %s", [body, row])
                    self.rows[row] = body
                elif what < 0.8:
                    conn.execute("DELETE FROM public.logs WHERE id = %s", [row])
                    del self.rows[row]
                    own.pop(at)
                else:
                    row = 3 * (ROWS + self.changes) + self.seed % 3
                    conn.execute("INSERT INTO public.logs VALUES (%s, now(), NULL, %s)", [row, body])
                    self.rows[row] = body
                    own.append(row)
                self.changes += 1


@dataclass
class World:
    """A half-empty table in Core, the rows that the application has in it, and the command."""

    tiers: Tiers
    config: Path
    rows: dict[int, str]

    def quota(self, die_at: Point | None = None) -> Ended:
        return processes.command(["quota", "--config", str(self.config), "--json"], self.tiers.environment, die_at=die_at)

    def found(self) -> dict[int, str]:
        with closing(self.tiers.core.connect("oracle")) as conn:
            rows = conn.execute("SELECT id, body FROM public.logs").fetchall()
        found = {int(str(r[0])): str(r[1]) for r in rows}
        assert len(found) == len(rows), "a row is there twice"
        return found

    def bytes(self) -> int:
        with closing(self.tiers.core.connect("oracle")) as conn:
            (size,) = conn.execute("SELECT pg_total_relation_size('public.logs')").fetchone() or (0,)
        return int(str(size))


@pytest.fixture
def world(tiers: Tiers) -> Iterator[World]:
    with closing(tiers.core.connect("app")) as conn:
        conn.execute(MAKE.encode())
        conn.execute("DELETE FROM public.logs WHERE hashint8(id) % 2 = 0")
        rows = {int(str(r[0])): str(r[1]) for r in conn.execute("SELECT id, body FROM public.logs").fetchall()}
    yield World(tiers, tierkeeper_toml(tiers, POLICY), rows)


@pytest.mark.parametrize("point", [Point.COMPACT_BEFORE_COMMIT, Point.COMPACTED, Point.REINDEXED])
def test_killed_while_space_is_given_back(world: World, point: Point) -> None:
    full = world.bytes()
    writers = [Writer(world.tiers.core, {i: b for i, b in world.rows.items() if i % 3 == n}, n) for n in range(3)]
    threads = [threading.Thread(target=writer) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        for _ in range(RUNS):
            killed = world.quota(point)
            if killed.returncode != 0:
                break  # else a writer's lock, row or snapshot was in its way, which it leaves to the next run
    finally:
        for writer in writers:
            writer.stop.set()
        for thread in threads:
            thread.join()
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    expected = {i: b for writer in writers for i, b in writer.rows.items()}
    assert min(writer.changes for writer in writers) > 10
    assert world.found() == expected
    again = world.quota()
    assert again.returncode == 0, again.stdout + again.stderr
    assert world.found() == expected
    assert world.bytes() < 0.75 * full
    with closing(world.tiers.core.connect("oracle")) as conn:
        assert conn.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() == (0,)
        conn.execute("SET enable_seqscan = off")
        assert conn.execute("SELECT count(*) FROM public.logs WHERE id > 0").fetchone() == (len(expected),)


def test_nothing_is_lost_under_writers(world: World) -> None:
    """Undisturbed, with writers all the way through; nobody of them waits for long or gets an error."""
    writers = [Writer(world.tiers.core, {i: b for i, b in world.rows.items() if i % 3 == n}, n) for n in range(3)]
    threads = [threading.Thread(target=writer) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        ended = world.quota()
    finally:
        for writer in writers:
            writer.stop.set()
        for thread in threads:
            thread.join()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert world.found() == {i: b for writer in writers for i, b in writer.rows.items()}


def reclaim_main(world: World) -> Reclaimed:
    with closing(world.tiers.main.connect("vacuum")) as conn:
        tier = Tier("main", world.tiers.main, 10**9)
        reclaimer = Reclaimer(
            conn, tier, TABLE, may_rewrite=False, longest_reader_seconds=1, clock=SystemClock(), stop=lambda: None
        )
        done = reclaimer.run()
    assert done is not None
    return done


def test_a_copy_in_flight_keeps_its_versions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: a batch's copies are known by the transaction that wrote them. Moved, they could not be taken back any more."""

    def move(before: str, die_at: Point | None = None) -> Ended:
        arguments = ["move", "public.logs", "--from", "core", "--to", "main", "--before", before, "--config", str(world.config)]
        return processes.command([*arguments, "--json"], world.tiers.environment, die_at=die_at)

    assert move("2024-01-20").returncode == 0
    with closing(world.tiers.main.connect("app")) as conn:
        conn.execute("SELECT pg_sleep(1.1)")
        assert move("2024-01-20").returncode == 0, "what came first is settled"
        conn.execute("DELETE FROM public.logs WHERE id % 20 <> 0")
    assert move("2024-01-25", Point.COPIED).returncode == -signal.SIGKILL
    assert "on the move" in " ".join(reclaim_main(world).notes)
    with monkeypatch.context() as patch:
        patch.setattr(look, "in_flight", lambda *_: False)
        assert "a row of it cannot be moved (UPDATE of public.logs refused" in " ".join(reclaim_main(world).notes)
    again = move("2024-01-25")
    assert json.loads(again.stdout)["stopped_because"] == "complete"
    with closing(world.tiers.main.connect("app")) as conn:
        below = {int(str(r[0])) for r in conn.execute("SELECT id FROM public.logs").fetchall()}
    assert not below & set(world.found())
    assert below | set(world.found()) == {i for i in world.rows if i % 20 == 0 or i > 19 * 1440 - 1}
