from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.units import Age, format_bytes, parse_bytes, parse_instant, parse_share


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("10 GiB", 10 * 2**30), ("1.5kB", 1_500), ("1048576", 2**20), ("1 tb", 10**12)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "here") == size


@pytest.mark.parametrize("text", ["5 bananas", "", "MB", "-1MB", "1e6", "0", "0.2B", "1,5MB", "NaN", "500", "1024"])
def test_what_is_no_size_names_its_place(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(text, "tiers.core.quota")
    assert caught.value.place == "tiers.core.quota"


@given(st.integers(min_value=0, max_value=10**15))
def test_sizes_are_shown_within_a_tenth(size: int) -> None:
    shown = format_bytes(size)
    assert abs(parse_bytes(shown, "") - size) <= max(0.1 * size, 1) if size else shown == "0 B"


def test_shares() -> None:
    assert parse_share("85%", "") == 0.85
    for wrong in ("85", "0%", "101%", "a%"):
        with pytest.raises(UsageError):
            parse_share(wrong, "quotas.start_at")


@pytest.mark.parametrize(
    ("text", "months", "span"),
    [
        ("30 days", 0, timedelta(days=30)),
        ("12h", 0, timedelta(hours=12)),
        ("1 year 6 months", 18, timedelta()),
        ("1 second", 0, timedelta(seconds=1)),
        ("2 weeks, 3 days", 0, timedelta(days=17)),
    ],
)
def test_ages(text: str, months: int, span: timedelta) -> None:
    age = Age.parse(text, "")
    assert (age.months, age.span) == (months, span)


@pytest.mark.parametrize("text", ["soon", "30", "-3 days", "3 fortnights", "", "days 3", "99999 years", "9999999999999 days"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(UsageError):
        Age.parse(text, "tables.core")


def test_months_are_clipped_to_the_last_day() -> None:
    assert Age.parse("1 month", "").before(datetime(2024, 3, 31, tzinfo=UTC)) == datetime(2024, 2, 29, tzinfo=UTC)
    assert Age.parse("1 year", "").before(datetime(2024, 2, 29, tzinfo=UTC)) == datetime(2023, 2, 28, tzinfo=UTC)


def test_a_time_without_a_zone_is_utc() -> None:
    assert parse_instant("2013-10-01", "") == datetime(2013, 10, 1, tzinfo=UTC)
    assert parse_instant("2013-10-01T02:00:00+02:00", "") == datetime(2013, 10, 1, tzinfo=UTC)
    with pytest.raises(UsageError):
        parse_instant("yesterweek", "--before")
    for beyond in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00+01:00"):
        with pytest.raises(UsageError, match="years 1 to 9999"):
            parse_instant(beyond, "--before")
