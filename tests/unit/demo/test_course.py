"""The days of a demo that goes by the real clock, and the data that is shifted to them."""

import csv
import io
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from tierkeeper.demo import flights
from tierkeeper.demo.course import AS_IT_WAS, DUE_DAYS, until_yesterday
from tierkeeper.demo.oracle import Original

DAYS = 4_715
CORE, MAIN = timedelta(days=90), timedelta(days=180)


def test_the_plain_demo_stays_in_its_year() -> None:
    assert (AS_IT_WAS.today, AS_IT_WAS.days, str(AS_IT_WAS.restored)) == (
        datetime(2014, 1, 1, tzinfo=UTC), 0, "public.flights_february",
    )  # fmt: skip
    assert (AS_IT_WAS.since, AS_IT_WAS.until) == (datetime(2013, 2, 1, tzinfo=UTC), datetime(2013, 3, 1, tzinfo=UTC))


def test_whatever_day_it_is_no_row_is_of_tomorrow_and_the_month_is_whole_and_archived() -> None:
    first, last = datetime(2013, 1, 1, 10, tzinfo=UTC), datetime(2014, 1, 1, 4, tzinfo=UTC)  # of the data's time_hour
    for day in range(4 * 366):
        now = datetime(2026, 1, 1, 13, 37, tzinfo=UTC) + timedelta(days=day)
        course = until_yesterday(now)
        shift = timedelta(days=course.days)
        assert timedelta() < now - (last + shift) < timedelta(days=2)
        assert timedelta(days=DUE_DAYS) <= now - course.today < timedelta(days=DUE_DAYS + 1)
        assert course.since > first + shift
        assert course.until < course.today - MAIN
        assert course.until.month == course.since.month % 12 + 1


def python_rows(days: int) -> list[tuple[object, ...]]:
    """The package's file read by another reader, and shifted by another calendar."""
    reader = csv.DictReader(io.StringIO(flights._contents("flights").decode()))
    found = []
    for i, row in enumerate(reader):
        if i % 500 == 0:
            day = datetime(int(row["year"]), int(row["month"]), int(row["day"])) + timedelta(days=days)
            hour = datetime.fromisoformat(row["time_hour"].replace("Z", "+00:00")) + timedelta(days=days)
            found.append((day.year, day.month, day.day, row["carrier"], int(row["flight"]), hour))
    return found


@pytest.mark.parametrize("days", [0, DAYS, 423])
def test_the_originals_dates_are_shifted_and_nothing_else(days: int) -> None:
    shifted, original = Original.load(days=days).table, Original.load().table
    sample = shifted.take(pa.array(range(0, shifted.num_rows, 500)))
    names = ("year", "month", "day", "carrier", "flight", "time_hour")
    assert list(zip(*(sample[n].to_pylist() for n in names), strict=True)) == python_rows(days)
    assert shifted.schema == original.schema
    others = [n for n in original.column_names if n not in ("year", "month", "day", "time_hour")]
    assert shifted.select(others).equals(original.select(others))
    assert flights.read("planes", days=days).equals(flights.read("planes")), "a plane's year is when it was built"
    assert Original.load(days=days).lost_and_doubled([original]) == ((0, 0) if days == 0 else (336_776, 336_776))


def test_weather_goes_along() -> None:
    shifted, original = flights.read("weather", days=DAYS), flights.read("weather")
    moved = {b - a for a, b in zip(original["time_hour"].to_pylist(), shifted["time_hour"].to_pylist(), strict=True)}
    assert moved == {timedelta(days=DAYS)}
    assert shifted["hour"].equals(original["hour"])
