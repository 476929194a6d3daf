"""What a run does beside its first copies: no row leaves Core before it is through."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event

import pytest

from hop import BEFORE, FILL, Hop, Killed, T, killed, open_filled
from kills import END_RECORDS, alone, records_held_up
from support import Tiers, eventually, sampled
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.limits import LOCK_SECONDS


@pytest.fixture
def filled(tiers: Tiers) -> Iterator[Hop]:
    with open_filled(tiers) as opened:
        yield opened


def test_no_row_leaves_core_while_its_horizon_is_on_its_way(filled: Hop) -> None:
    """I5: it may still be refused, and then nothing is to have left."""
    assert filled.move().rows == 100
    filled.core.execute(FILL.replace("(1, 100)", "(101, 200)"))
    filled.core.execute("BEGIN; SELECT FROM tierkeeper.horizon FOR UPDATE")
    copied = "SELECT count(*) > 0 FROM tierkeeper.ledger WHERE state = 'copied'"
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(filled.move)
        try:
            assert eventually(lambda: filled.main.execute(copied).fetchone() == (True,))
            time.sleep(0.3)  # as long as a delete takes many times over
            assert filled.counts()[0] == 100
        finally:
            filled.core.execute("COMMIT")
        assert moving.result().rows == 100
    assert filled.counts() == (0, 200)


def test_a_horizon_that_core_refuses_keeps_every_row_there(filled: Hop) -> None:
    """I1, I5: what was copied meanwhile is taken back, and the next run begins anew."""
    filled.core.execute("""
        CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON tierkeeper.horizon FOR EACH ROW EXECUTE FUNCTION public.no()
    """)
    with pytest.raises(TierkeeperError, match="no"):
        filled.move()
    assert filled.counts() == (100, 0)
    filled.core.execute("DROP TRIGGER no ON tierkeeper.horizon")
    assert filled.move().rows == 100
    assert filled.counts() == (0, 100)


def test_a_key_that_core_got_back_is_noted_by_the_look_beside(filled: Hop) -> None:
    """I2: what came since the last horizon is looked for while earlier batches are settled."""
    assert filled.move().rows == 100
    filled.core.execute(FILL.replace("(1, 100)", "(7, 7)"))
    assert list(filled.move().conflicts) == ["7"]
    assert filled.counts() == (1, 100)


def at(point: Point, do: Callable[[], object]) -> None:
    """`do` once, when a move comes to `point`."""

    def reached(now: Point) -> None:
        if now is point:
            faults.disarm()
            do()

    faults.arm(reached)


@pytest.mark.parametrize("point", sampled((Point.MARKER_OPEN, Point.COPIED, Point.WAITED), Point.COPIED))
def test_what_a_run_without_a_horizon_copied_leaves_core_behind_its_word(filled: Hop, point: Point) -> None:
    """I2: a run is killed while its record waits beside its first copies; the next one deletes what these are copies of."""
    reader = alone(filled.tiers)
    counted = "SELECT count(*) AS n FROM t"
    assert reader.query(counted).to_pylist() == [{"n": 100}]
    horizons = "SELECT count(*) FROM tierkeeper.horizon WHERE key_columns <> '{}'"
    with records_held_up(filled.core):

        def die() -> None:
            assert eventually(lambda: filled.core.execute(END_RECORDS).fetchone() == (1,))
            raise Killed

        at(point, die)
        with pytest.raises(Killed):
            filled.move()
    assert (filled.counts()[0], filled.core.execute(horizons).fetchone()) == (100, (0,))
    killed(filled, Point.DELETED)
    assert (filled.counts(), filled.core.execute(horizons).fetchone()) == ((0, 100), (int(point is Point.MARKER_OPEN),))
    with pytest.raises(UsageError, match="rows of it have moved to main"):
        reader.query(counted)
    assert filled.move().stopped_because == "complete"
    assert filled.counts() == (0, 100)


def test_a_run_outlives_the_connection_that_looked_for_its_horizon(filled: Hop) -> None:
    """It is idle from then until the last look, and servers, poolers and routers end what is idle for long."""
    ended = list[object]()
    at(Point.DONE, lambda: ended.append(filled.core.execute(END_RECORDS).fetchone()))
    assert filled.move().rows == 100
    assert ended == [(1,)]


def test_who_ends_a_run_at_once_does_not_wait_for_the_look_beside(filled: Hop) -> None:
    """A look through all keys of a table takes what it takes; here somebody keeps Main's memory of it for LOCK_SECONDS."""
    killed(filled, Point.COPIED)
    filled.main.execute("BEGIN; LOCK TABLE tierkeeper.compared IN ACCESS EXCLUSIVE MODE")
    ended_at = list[float]()

    def die() -> None:
        ended_at.append(time.monotonic())
        raise KeyboardInterrupt

    at(Point.WAITED, die)
    with pytest.raises(KeyboardInterrupt):
        filled.move()
    assert time.monotonic() - ended_at[0] < LOCK_SECONDS / 2
    filled.main.execute("COMMIT")
    assert filled.move().stopped_because == "complete"
    assert filled.counts() == (0, 100)


def test_a_run_that_is_to_end_does_not_wait_for_the_look_beside(filled: Hop) -> None:
    """It waits for a reader at Main when it is asked to end."""
    with filled.main.transaction(), closing(filled.tiers.main.connect("locks")) as locking:
        filled.main.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        filled.main.execute("SELECT")
        killed(filled, Point.COPIED)
        locking.execute("BEGIN; LOCK TABLE tierkeeper.compared IN ACCESS EXCLUSIVE MODE")
        asked = Event()
        stops = open_keeper(
            load(filled.tiers.home / "tierkeeper.toml", filled.tiers.environment, filled.tiers.home),
            environment=filled.tiers.environment,
            stop=lambda: "asked to end" if asked.is_set() else None,
        )
        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(stops.move, T, "core", "main", before=BEFORE)
            waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'tierkeeper.compared'::regclass AND NOT granted"
            assert eventually(lambda: locking.execute(waiting).fetchone() == (1,))
            asked.set()
            began = time.monotonic()
            assert moving.result().stopped_because == "asked to end"
            assert time.monotonic() - began < LOCK_SECONDS / 2
    assert filled.move().stopped_because == "complete"
    assert filled.counts() == (0, 100)
