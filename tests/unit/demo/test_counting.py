"""When rows are counted again, and when a count is not shown as one of now."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from support import eventually
from tierkeeper.demo.counting import Counting
from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.results import BoardAction, BoardProof, BoardResult, BoardTable, TierStatus

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = BoardProof(rows=10, lost=0, doubled=0, counted_at=LONG_AGO, seconds=1, current=True)


def action(verb: str = "move", state: Literal["done", "failed", "open"] = "done", minute: int = 0) -> BoardAction:
    at = LONG_AGO + timedelta(minutes=minute)
    return BoardAction(at=at, actor="a", verb=verb, subject="t", state=state, seconds=1)


def board(note: int, *actions: BoardAction, in_flight: int | None = 0) -> BoardResult:
    tier = TierStatus(used_bytes=1, quota_bytes=2, share=0.5, healthy=True, read_only=False)
    table = BoardTable(mode="move", in_flight=in_flight)
    return BoardResult(
        at=LONG_AGO, fresh_seconds=5, tiers={"core": tier}, tables={"t": table}, audit=list(actions), last_note=note
    )


class World:
    """What is seen, what would be counted, and how often that was done."""

    def __init__(self) -> None:
        self.seen, self.found, self.counted = board(1), (0, 0), 0
        self.during: BoardResult | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.error: Exception | None = None

    def count(self) -> tuple[int, int]:
        self.hold.wait(5)
        self.counted += 1
        if self.during is not None:
            self.seen = self.during
        if self.error is not None:
            raise self.error
        return self.found


@pytest.fixture
def world() -> World:
    return World()


def proof(counting: Counting) -> BoardProof:
    found = counting.board().proof
    assert found is not None
    return found


def settled(counting: Counting) -> None:
    """No count is under way."""
    if counting._running is not None:
        counting._running.join()


def test_nothing_is_counted_while_nothing_moves(world: World) -> None:
    counting = Counting(lambda: world.seen, world.count, FIRST)
    assert proof(counting) == FIRST
    settled(counting)
    assert world.counted == 0


def test_a_move_makes_the_count_old_at_once_and_a_new_one_takes_its_place(world: World) -> None:
    counting = Counting(lambda: world.seen, world.count, FIRST)
    world.hold.clear()
    world.seen, world.found = board(3, action()), (2, 1)
    assert not proof(counting).current, "the count was made before"
    assert (proof(counting).lost, proof(counting).counted_at) == (0, LONG_AGO)
    world.hold.set()
    assert eventually(lambda: proof(counting).current)
    assert (proof(counting).lost, proof(counting).doubled, world.counted) == (2, 1, 1)
    assert proof(counting).counted_at > LONG_AGO


def test_rows_on_their_way_are_not_counted(world: World) -> None:
    counting = Counting(lambda: world.seen, world.count, FIRST)
    for seen in (
        board(3, in_flight=1),
        board(3, action(state="open")),
        board(3, in_flight=None),
        BoardResult(at=LONG_AGO, fresh_seconds=5),
    ):
        world.seen = seen
        found = proof(counting)
        assert not found.current
        assert found.error is not None
    settled(counting)
    assert world.counted == 0


def test_what_was_cut_off_is_settled_by_the_same_done_later(world: World) -> None:
    counting = Counting(lambda: world.seen, world.count, FIRST)
    world.seen = board(5, action(minute=1), action(state="open", minute=0))
    assert eventually(lambda: proof(counting).current)


def test_a_count_amid_a_move_is_thrown_away(world: World) -> None:
    counting = Counting(lambda: world.seen, world.count, FIRST)
    world.seen, world.during, world.found = board(3), board(4), (99, 99)
    proof(counting)
    settled(counting)
    assert (world.counted, proof(counting).lost) == (1, 0)
    world.during, world.found = None, (0, 0)
    assert eventually(lambda: proof(counting).current)


@pytest.mark.parametrize("error", [Failed("archive", "a segment is damaged", "Restore it"), ZeroDivisionError()])
def test_a_count_that_fails_says_so(world: World, error: Exception) -> None:
    counting = Counting(lambda: world.seen, world.count, FIRST)
    world.seen, world.error = board(3), error
    proof(counting)
    settled(counting)
    found = proof(counting)
    assert not found.current
    assert found.error is not None
    assert ("damaged" in found.error.cause) == isinstance(error, Failed)


def test_nothing_goes_on_after_the_end(world: World) -> None:
    counting = Counting(lambda: world.seen, world.count, FIRST)
    world.hold.clear()
    world.seen = board(3)
    proof(counting)
    threading.Timer(0.1, world.hold.set).start()
    counting.end()
    assert world.counted == 1, "the count that was under way was waited for"
    with pytest.raises(NotNow):
        counting.board()
