"""Cron expressions: what is one, and when it is due."""

from datetime import UTC, datetime, timedelta

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.config.model import Schedule
from tierkeeper.kernel import cron

INSTANTS = st.datetimes(datetime(2023, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
EXPRESSIONS = st.sampled_from(
    ["*/5 * * * *", "0 3 * * *", "0 4 * * sun", "0 6 1 * *", "30 2 29 2 *", "15 1-5/2 * jan,jun mon-fri"]
)


def test_the_schedules_own_are_without_fault() -> None:
    assert {job: cron.fault(text) for job, text in Schedule() if cron.fault(text)} == {}


def test_a_week_begins_on_the_day_that_it_names() -> None:
    """Sunday 04:00 UTC, which some programs take `0` to be Monday for."""
    assert cron.following("0 4 * * sun", datetime(2026, 11, 30, tzinfo=UTC)) == datetime(2026, 12, 6, 4, tzinfo=UTC)
    assert cron.newest("0 4 * * sun", datetime(2026, 11, 30, tzinfo=UTC)) == datetime(2026, 11, 29, 4, tzinfo=UTC)
    assert cron.newest("0 4 * * 0", datetime(2026, 11, 30, tzinfo=UTC)) == datetime(2026, 11, 29, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "daily", "@daily", "0 3 * *", "0 3 * * * *", "60 3 * * *", "0 24 * * *", "0 3 32 * *", "0 3 * 13 *", "0 3 * * 8",
        "0 3 * * someday", "0 3 30 2 *", "R 3 * * *", "H H * * *", "0 3 * * sun;drop", "0 3 * * -1", "*/0 * * * *", "0 0 0 * *",
    ],
)  # fmt: skip
def test_what_is_none_is_told(text: str) -> None:
    assert cron.fault(text)


@settings(max_examples=50, deadline=None)
@given(EXPRESSIONS, INSTANTS)
def test_nothing_is_due_between_the_newest_and_the_following(text: str, now: datetime) -> None:
    newest, following = cron.newest(text, now), cron.following(text, now)
    assert newest <= now < following
    assert croniter.match(text, newest)
    assert cron.newest(text, newest) == newest
    assert cron.following(text, newest) == following
    assert cron.newest(text, following - timedelta(microseconds=1)) == newest
