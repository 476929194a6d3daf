"""What is due, and what becomes of a job that failed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.config.model import Schedule
from tierkeeper.jobs import plan
from tierkeeper.jobs.model import Timing
from tierkeeper.jobs.table import JOBS
from tierkeeper.kernel import cron
from tierkeeper.kernel.errors import Exit

START = datetime(2026, 3, 28, 12, 30, tzinfo=UTC)  # the night after it clocks in Europe go forward
CRONS = {"usage": "*/5 * * * *", "quota": "0 3 * * *", "archive": "0 4 * * sun"}
LOOKS = st.lists(st.integers(1, 3 * 86_400), min_size=1, max_size=30)  # seconds between two looks; a machine may be off for days


def test_every_job_has_a_time() -> None:
    assert {job.name for job in JOBS} <= set(Schedule.model_fields)


@settings(max_examples=30, deadline=None)
@given(LOOKS, st.lists(st.booleans(), min_size=30, max_size=30))
def test_no_due_time_is_run_twice_or_skipped_and_missed_ones_are_caught_up_once(gaps: list[int], forgets: list[bool]) -> None:
    """Also where a process dies between the look and the note, and another looks with the older memory."""
    handled = dict.fromkeys(CRONS, START)
    ran: dict[str, list[datetime]] = {job: [] for job in CRONS}
    now = START
    for gap, forgets_now in zip(gaps, forgets, strict=False):
        now += timedelta(seconds=gap)
        found = plan.due(CRONS, handled, now)
        assert len({one.job for one in found}) == len(found)
        assert found == plan.due(CRONS, handled, now)
        if forgets_now:
            continue
        for one in found:
            assert handled[one.job] < one.at <= now
            ran[one.job].append(one.at)
            handled[one.job] = one.at
        for job, text in CRONS.items():
            assert cron.newest(text, now) <= handled[job]
    assert all(len(set(times)) == len(times) for times in ran.values())


def test_of_a_week_away_one_run_is_made_up() -> None:
    back = START + timedelta(days=8)
    assert plan.due(CRONS, dict.fromkeys(CRONS, START), back) == [
        plan.Due("usage", datetime(2026, 4, 5, 12, 30, tzinfo=UTC)),
        plan.Due("quota", datetime(2026, 4, 5, 3, tzinfo=UTC)),
        plan.Due("archive", datetime(2026, 4, 5, 4, tzinfo=UTC)),
    ]


def test_a_clock_that_goes_back_a_little_makes_nothing_due_again() -> None:
    handled = {"quota": START + plan.AHEAD}
    assert plan.due({"quota": "0 3 * * *"}, handled, START) == []


def test_a_time_that_lies_far_ahead_was_never_handled() -> None:
    """One machine's clock was wrong for a moment: its jobs are not to rest until then."""
    handled = {"quota": datetime(2036, 4, 5, 3, tzinfo=UTC)}
    assert plan.due({"quota": "0 3 * * *"}, handled, START) == [plan.Due("quota", datetime(2026, 3, 28, 3, tzinfo=UTC))]


@given(st.sampled_from([Exit.FAILED, Exit.NOT_NOW, Exit.USAGE]), st.integers(0, 10_000))
def test_the_back_off_is_bounded(code: Exit, attempts: int) -> None:
    seconds = plan.again_seconds(code, attempts, Timing())
    if code is Exit.USAGE or (code is Exit.FAILED and attempts >= plan.TRIES - 1):
        assert seconds is None
    else:
        assert seconds is not None
        assert 60 <= seconds <= 3600


def test_the_back_off_grows() -> None:
    assert [plan.again_seconds(Exit.NOT_NOW, n, Timing()) for n in range(8)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    partly = [plan.again_seconds(Exit.NOT_NOW, n, Timing(), partly=True) for n in range(8)]
    assert partly == [60, 120, 240, 480, None, None, None, None]
    assert [plan.back_off_seconds(n, Timing()) for n in (1, 2, 7, 500)] == [1, 2, 60, 60]


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({}, Exit.DONE),
        ({"ok": True, "errors": []}, Exit.DONE),
        ({"ok": False}, Exit.FAILED),
        ({"errors": [{"place": "t"}]}, Exit.FAILED),
        ({"errors": [{"place": "t", "not_now": True}]}, Exit.NOT_NOW),
        ({"errors": [{"place": "t", "not_now": True}, {"place": "u", "not_now": False}]}, Exit.FAILED),
        ({"ok": False, "errors": [{"place": "t", "not_now": True}]}, Exit.FAILED),
        ({"runs": [{"rows": 1, "errors": [{"place": "t", "not_now": True}]}]}, Exit.NOT_NOW),
        ({"moves": [{"rows": 1, "ok": False}], "errors": [{"place": "t", "not_now": True}]}, Exit.FAILED),
        ({"moves": [{"rows": 1}], "errors": []}, Exit.DONE),
    ],
)
def test_a_result_says_whether_something_failed_or_was_only_not_possible_now(result: dict[str, object], code: Exit) -> None:
    assert plan.meaning(result) is code


def test_a_move_within_a_result_may_have_been_stopped() -> None:
    assert plan.was_stopped({"moves": [{"stopped_because": "complete"}, {"stopped_because": "stopped"}]}, "stopped")
    assert not plan.was_stopped({"stopped_because": "row limit", "runs": []}, "stopped")
