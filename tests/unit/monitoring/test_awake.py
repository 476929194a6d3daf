"""When a tier is read to keep it awake, and what is remembered of it."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring.awake import Awake, AwakeForm, is_due, noted

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVENTS = TableName("public", "events")


def test_it_is_due_daily_and_hourly_until_it_comes_through() -> None:
    assert is_due(None, NOW)
    read = noted(None, NOW, EVENTS, None)
    assert not is_due(read, NOW + 19 * HOUR)
    assert is_due(read, NOW + 20 * HOUR)
    failed = noted(read, NOW + 20 * HOUR, None, "refused")
    assert (failed.ok_at, failed.cause) == (NOW, "refused")
    assert not is_due(failed, NOW + 20.5 * HOUR)
    assert is_due(failed, NOW + 21 * HOUR)
    again = noted(failed, NOW + 21 * HOUR, EVENTS, None)
    assert (again.ok_at, again.cause, again.since) == (NOW + 21 * HOUR, None, NOW)


@given(st.lists(st.tuples(st.integers(1, 24 * 60), st.booleans()), max_size=60))
def test_whoever_looks_at_least_daily_reads_well_before_a_week(looks: list[tuple[int, bool]]) -> None:
    """As long as reads come through: never two within a day but after a failure, and never one later than two days."""
    known: Awake | None = None
    now, reads = NOW, list[datetime]()
    for minutes, _ in looks:
        now += timedelta(minutes=minutes)
        if is_due(known, now):
            known = noted(known, now, EVENTS, None)
            reads.append(now)
    gaps = [b - a for a, b in pairwise(reads)]
    assert all(timedelta(hours=20) <= gap <= timedelta(days=2) for gap in gaps)


def test_it_is_quiet_from_the_first_try_where_none_came_through() -> None:
    never = noted(noted(None, NOW, None, "refused"), NOW + HOUR, None, "refused")
    assert never.read_at == NOW


def test_a_clock_that_was_ahead_keeps_nobody_from_reading_or_from_seeing_that_it_is_quiet() -> None:
    ahead = noted(None, NOW + 24 * 300 * HOUR, EVENTS, None)
    assert is_due(ahead, NOW)
    failed = noted(ahead, NOW, None, "refused")
    assert (failed.read_at, failed.tried_at) == (NOW, NOW)
    assert noted(ahead, NOW, EVENTS, None).read_at == NOW


def test_what_was_remembered_apart_is_brought_together() -> None:
    form, main, here = AwakeForm(), {"core": noted(None, NOW, EVENTS, None)}, {"core": noted(None, NOW + HOUR, None, "refused")}
    assert form.merge(main, here) == form.merge(here, main) == here
    assert form.parse(form.dump(main)) == main
    for wrong in (None, {"version": 2}, {"version": 1, "tiers": [1]}, {"version": 1}):
        with pytest.raises(ValueError, match=r"."):
            form.parse(wrong)
