"""The margins of a time limit, and the alarm that keeps them."""

import threading
import time
from typing import Any

import pytest

from tierkeeper.functions import limit
from tierkeeper.functions.limit import Bounds, TimeLimit, TimeOver
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.limits import BATCH_ROWS, BATCH_ROWS_MIN, SEGMENT_ROWS
from tierkeeper.kernel.stop import TIME_LIMIT


class Context:
    """AWS Lambda's, `seconds` before its limit."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int((self._until - time.monotonic()) * 1000)


@pytest.mark.parametrize("seconds", [2, 5, 20, 60, 300, 900])
def test_a_run_is_asked_before_it_is_interrupted_and_that_before_it_is_killed(seconds: float) -> None:
    found = TimeLimit.of(seconds)
    assert 0 < found.ask_after_seconds < found.end_after_seconds < seconds
    assert seconds - found.end_after_seconds >= min(0.3, seconds)  # for the answer
    assert found.ask_after_seconds >= 0.6 * seconds  # most of the time is for work
    # A batch that begins at the last moment fits, also over a slow link.
    assert min(found.rows, SEGMENT_ROWS) / limit.ROWS_PER_SECOND <= max(
        found.end_after_seconds - found.ask_after_seconds, BATCH_ROWS_MIN / limit.ROWS_PER_SECOND
    )


def test_a_limit_that_is_too_short_is_told_and_nothing_is_begun() -> None:
    for seconds in (1.9, 0, -1):
        with pytest.raises(NotNow, match=r"nothing can be done in less than 2.*longer timeout"):
            Bounds.of(Context(seconds))


def test_a_keeper_is_opened_with_what_the_limit_allows() -> None:
    given = Bounds.of(Context(900)).for_keeper
    assert (given["batch_rows"], given["segment_rows"]) == (BATCH_ROWS, 150_000)
    assert Bounds.of(Context(20)).for_keeper["segment_rows"] <= 20_000
    assert "segment_rows" not in Bounds.of(None).for_keeper
    assert Bounds.of(object()).limit is None


def test_the_flag_says_that_the_time_is_over() -> None:
    bounds = Bounds.of(Context(2.0 + 0.05))
    assert bounds.stop() is None
    time.sleep(1.4)
    assert bounds.stop() == TIME_LIMIT


def quick(ends_after: float) -> Bounds:
    return Bounds(TimeLimit(ends_after + 0.3, ends_after / 2, ends_after))


def test_what_does_not_come_to_its_end_is_interrupted_and_says_how_far_it_came() -> None:
    bounds, ended = quick(0.2), []

    def work() -> None:
        bounds.progress("t: core to main", 1200, 5000)
        try:
            time.sleep(10)
        finally:
            ended.append(time.monotonic())

    began = time.monotonic()
    with pytest.raises(NotNow) as caught:
        bounds.run(work, "Run it again")
    assert time.monotonic() - began < 1
    assert ended
    assert "t: core to main: 1,200 of 5,000 rows" in caught.value.cause
    assert (caught.value.place, caught.value.remedy) == (TIME_LIMIT, "Run it again")


def test_an_end_that_hangs_is_interrupted_too() -> None:
    def work() -> None:
        try:
            time.sleep(10)
        finally:
            time.sleep(10)

    began = time.monotonic()
    with pytest.raises(NotNow):
        quick(0.1).run(work, "")
    assert time.monotonic() - began < 1


def test_connections_are_cut_from_the_second_ring_on_and_dialled_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance is used again: what one invocation had to cut, the next one reaches."""
    done: list[str] = []

    class Session:
        cut_all = staticmethod(lambda: done.append("cut"))
        dial_again = staticmethod(lambda: done.append("dial"))

    monkeypatch.setattr(limit, "_loaded_session", Session)
    seen: list[list[str]] = []

    def hangs() -> None:
        for _ in range(2):
            try:
                time.sleep(5)
            except TimeOver:
                seen.append([*done])
        raise TimeOver

    with pytest.raises(NotNow):
        Bounds(TimeLimit(0.4, 0.05, 0.1)).run(hangs, "x")
    assert seen == [[], ["cut"]]
    assert done[-1] == "dial"


def test_afterwards_no_alarm_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quick(0.1).run(lambda: 5, "") == 5
    time.sleep(0.3)  # it would be raised here
    with pytest.raises(NotNow):
        quick(0.05).run(lambda: time.sleep(5), "")
    time.sleep(0.5)


def test_in_a_thread_work_is_asked_alone() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(quick(0.05).run(lambda: time.sleep(0.2) or 7, "")))
    thread.start()
    thread.join()
    assert found == [7]


def test_no_handler_of_ordinary_errors_swallows_it() -> None:
    assert not issubclass(TimeOver, Exception)
