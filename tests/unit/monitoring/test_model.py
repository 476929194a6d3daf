"""What follows from measuring twice, from figures alone."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring.model import Figures, activity, from_line, grown, last_active, to_line

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENTS = TableName("public", "events")


def at(hours: float, reads: int, writes: int = 0, *, parts: int | None = 1, reset: datetime | None = None) -> Figures:
    when = NOON + timedelta(hours=hours)
    return Figures(
        "core", EVENTS, when, 1, reads=reads, writes=writes, cache_hits=0, cache_reads=0, parts=parts, stats_reset=reset
    )


def reads(*samples: Figures) -> dict[date, int]:
    return {a.day: a.reads for a in activity(samples)}


def test_what_a_counter_grew_by_was_done() -> None:
    (one,) = activity([at(0, 100, 7), at(1, 150, 9), at(2, 151, 9)])
    assert (one.tier, one.table, one.day, one.reads, one.writes) == ("core", EVENTS, NOON.date(), 51, 2)


def test_a_counter_that_fell_was_reset_and_says_what_came_since() -> None:
    assert reads(at(0, 1000), at(1, 40)) == {NOON.date(): 40}
    assert grown(at(0, 1000, 5), at(1, 40, 9)) == {"reads": 40, "writes": 4, "cache_hits": 0, "cache_reads": 0}


def test_a_reset_is_seen_even_where_the_counter_has_passed_its_old_value_again() -> None:
    assert reads(at(0, 100, 9), at(1, 150, 2, reset=NOON)) == {NOON.date(): 150}


def test_another_tables_reset_is_none_of_this_one() -> None:
    """The server tells when anything in the database was reset last: what this table ever did was not done today."""
    assert reads(at(0, 10**9, 7), at(1, 10**9 + 5, 7, reset=NOON)) == {NOON.date(): 5}


def test_a_partition_that_is_dropped_is_no_reset() -> None:
    """Its share of the sum goes with it: 600 reads of before are none of today's."""
    assert reads(at(0, 1000, parts=3), at(1, 600, parts=2)) == {NOON.date(): 0}
    assert reads(at(0, 1000, parts=3), at(1, 600, parts=2, reset=NOON)) == {NOON.date(): 600}


def test_what_grew_over_midnight_is_shared_out_by_time() -> None:
    assert reads(at(0, 0), at(48, 4800)) == {date(2026, 3, 1): 1200, date(2026, 3, 2): 2400, date(2026, 3, 3): 1200}


def test_one_sample_says_nothing_and_neither_does_one_without_counters() -> None:
    assert activity([at(0, 5)]) == []
    assert activity([Figures("archive", EVENTS, NOON, 5), Figures("archive", EVENTS, NOON + timedelta(days=1), 9)]) == []


@given(st.lists(st.tuples(st.floats(0.01, 200), st.integers(0, 10**6)), min_size=1, max_size=20))
def test_the_days_add_up_to_what_was_done(steps: list[tuple[float, int]]) -> None:
    samples, hours, total = [at(0, 0)], 0.0, 0
    for more_hours, more in steps:
        hours, total = hours + more_hours, total + more
        samples.append(at(hours, total))
    found = activity(samples)
    assert sum(a.reads for a in found) == total
    assert all(a.reads >= 0 for a in found)
    assert [a.day for a in found] == sorted({a.day for a in found})


def test_tables_and_tiers_are_counted_apart() -> None:
    whole = [Figures("core", None, NOON + timedelta(hours=h), 1, reads=h * 5, writes=0) for h in (0, 1)]
    found = activity([whole[0], at(0, 10), whole[1], at(1, 12)])
    assert [(a.table, a.reads) for a in found] == [(None, 5), (EVENTS, 2)]


def test_a_row_was_read_or_written_last_when_its_table_was_seen_to_have_grown() -> None:
    """The tier's own count grows by whoever looks; a table that went away, or is new, has done nothing by that."""
    looked = [Figures("core", None, NOON + timedelta(hours=h), 1, reads=h, writes=0) for h in range(9)]
    other = [replace(at(h, 7), table=TableName("public", "other")) for h in (0, 8)]
    assert last_active(looked) is None
    assert last_active([at(2, 5), at(3, 5)]) == NOON + timedelta(hours=2), "as far as is known"
    assert last_active([*looked, other[0], at(0, 5), at(1, 6), at(2, 6, 1), at(3, 6, 1), other[1]]) == NOON + timedelta(hours=2)
    assert last_active([at(0, 9, parts=2), at(1, 5, parts=1), at(2, 5)]) == NOON


def test_a_sample_survives_its_line() -> None:
    odd = TableName("Odd Schema", 'my "table"')
    for sample in (at(0, 3, reset=NOON), Figures("main", odd, NOON, 2**62, wal_bytes=7), Figures("archive", None, NOON, 0)):
        assert from_line(to_line(sample)) == sample
    for wrong in (["core"], ["moon", "", "", *([None] * 17)], to_line(at(0, 1))[:-1]):
        with pytest.raises((ValueError, TypeError)):
            from_line(wrong)


@pytest.mark.parametrize("wrong", ["12", 1.5, True, None, 2**63])
def test_a_line_that_main_would_refuse_is_no_sample(wrong: object) -> None:
    """One such line in the spool would keep all the others from Main for good, and every reader from its answer."""
    line = to_line(at(0, 1))
    line[4] = wrong
    with pytest.raises(ValueError, match="no sample"):
        from_line(line)
    for instant in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", wrong):
        with pytest.raises((ValueError, TypeError), match=r"no sample|Invalid isoformat"):
            from_line([*line[:3], instant, *to_line(at(0, 1))[4:]])
    for name in ("a\0b", "\ud800"):
        with pytest.raises(ValueError, match=r"no sample|surrogates"):
            from_line(["core", "public", name, *to_line(at(0, 1))[3:]])
