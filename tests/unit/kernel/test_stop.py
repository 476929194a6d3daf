"""A time limit, asked between batches."""

import threading

from tierkeeper.kernel.stop import STOPPED, TIME_LIMIT, TimedStop


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(stop: TimedStop, time: Time, *at: float) -> list[str | None]:
    found = []
    for time.now in at:
        found.append(stop())
    return found


def test_it_ends_at_its_time_and_stays_so() -> None:
    time = Time()
    stop = TimedStop(time)
    assert asked(stop, time, 100, 10_000) == [None, None]
    time.now = 100
    stop.end_after(10)
    assert asked(stop, time, 100, 101, 109.9, 110, 105) == [None, None, None, TIME_LIMIT, TIME_LIMIT]


def test_what_would_not_be_through_in_time_is_not_begun() -> None:
    time = Time()
    stop = TimedStop(time)
    stop.end_after(10, 12)
    assert asked(stop, time, 101, 102, 107) == [None, None, TIME_LIMIT]  # five seconds once: it would be 112 the next time
    time.now = 100
    stop = TimedStop(time)
    stop.end_after(10, 12)
    assert asked(stop, time, 105, 107, 109, 109.9) == [None] * 4  # the time before the first question is no batch


def test_the_batches_of_one_thread_are_not_cut_by_the_questions_of_another() -> None:
    time = Time()
    stop = TimedStop(time)
    stop.end_after(10, 12)
    assert stop() is None
    thread = threading.Thread(target=lambda: asked(stop, time, 101, 103, 105))
    thread.start()
    thread.join()
    assert asked(stop, time, 107) == [TIME_LIMIT]


def test_a_signal_says_more_than_the_time() -> None:
    stop = TimedStop(Time())
    stop.end_after(0)
    assert stop() == TIME_LIMIT
    stop.reason = STOPPED
    assert stop() == STOPPED
