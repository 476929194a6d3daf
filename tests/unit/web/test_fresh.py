"""How often the tiers are asked for a page, and what it says when they do not answer."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from support import eventually
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.results import BoardResult
from tierkeeper.web.fresh import Fresh


class Hands(SystemClock):
    """A clock that is put forward by hand."""

    seconds = 0.0

    def now(self, server: object = None) -> datetime:
        del server
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class Tiers:
    def __init__(self, clock: Hands) -> None:
        self.clock, self.looks = clock, 0
        self.begun, self.answers = threading.Event(), threading.Event()
        self.answers.set()
        self.error: Exception | None = None

    def look(self) -> BoardResult:
        at = self.clock.now()
        self.begun.set()
        self.answers.wait(10)
        self.looks += 1
        if self.error is not None:
            raise self.error
        return BoardResult(at=at, fresh_seconds=5)


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def tiers(clock: Hands) -> Tiers:
    return Tiers(clock)


@pytest.fixture
def fresh(tiers: Tiers, clock: Hands) -> Fresh:
    return Fresh(tiers.look, clock, wait_seconds=0.1, first_wait_seconds=5)


def test_a_crowd_asks_once(fresh: Fresh, tiers: Tiers, clock: Hands) -> None:
    tiers.answers.clear()
    with ThreadPoolExecutor(20) as crowd:
        asked = [crowd.submit(fresh.get) for _ in range(20)]
        tiers.answers.set()
        assert {one.result().at for one in asked} == {clock.now()}
    clock.seconds = 4.9
    fresh.get()
    assert tiers.looks == 1
    clock.seconds = 5.1
    assert (fresh.get().at, tiers.looks) == (clock.now(), 2)


def test_what_the_tiers_said_before_they_went_silent_is_old(fresh: Fresh, tiers: Tiers, clock: Hands) -> None:
    first = fresh.get()
    assert not first.old
    tiers.answers.clear()
    for seconds, old in ((5.1, False), (14.9, False), (15.1, True), (3600, True)):
        clock.seconds = seconds
        told = fresh.get()
        assert (told.old, told.at) == (old, first.at)
    tiers.answers.set()
    assert eventually(lambda: tiers.looks == 2)
    clock.seconds += 5
    assert eventually(lambda: not fresh.get().old)
    assert tiers.looks == 3, "one look was under way, and nobody began another; it was too old by then"


def test_a_look_that_took_long_is_as_old_as_its_begin(fresh: Fresh, tiers: Tiers, clock: Hands) -> None:
    tiers.answers.clear()
    with ThreadPoolExecutor(1) as one:
        asked = one.submit(fresh.get)
        assert tiers.begun.wait(5)
        clock.seconds = 60
        tiers.answers.set()
        assert asked.result().old
    assert (fresh.get().old, tiers.looks) == (True, 1), "slow tiers are left in peace as long as others are"


@pytest.mark.parametrize("error", [NotNow("tiers", "away", "wait"), ZeroDivisionError()])
def test_a_look_that_fails_leaves_the_last_one_and_says_why(tiers: Tiers, clock: Hands, error: Exception) -> None:
    fresh = Fresh(tiers.look, clock, wait_seconds=20)
    first = fresh.get()
    tiers.error = error
    for seconds, old in ((6, False), (20, True)):
        clock.seconds = seconds
        told = fresh.get()
        assert (told.old, told.at, len(told.errors)) == (old, first.at, 1)
    tiers.error = None
    assert eventually(lambda: not fresh.get().old)
    assert fresh.get().errors == []


def test_tiers_that_never_answered_are_no_empty_page(tiers: Tiers, clock: Hands) -> None:
    tiers.answers.clear()
    told = Fresh(tiers.look, clock, wait_seconds=0.05, first_wait_seconds=0.05).get()
    assert told.old
    assert told.errors
    tiers.answers.set()
