from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.watching import Touched
from tierkeeper.monitoring.asked import EDGES, EVERYTHING, bucket

NOW = datetime(2026, 6, 1, tzinfo=UTC)
T = TableName("public", "t")


def touched(oldest: float | None, youngest: float | None) -> Touched:
    at = [None if days is None else NOW - timedelta(days=days) for days in (oldest, youngest)]
    return Touched(T, *at)


@pytest.mark.parametrize(
    ("oldest", "youngest", "expected"),
    [
        (0.5, None, (1, 0)),
        (7, None, (7, 0)),
        (7.01, None, (10, 0)),
        (30, 29, (30, 21)),
        (None, 30, (EVERYTHING, 30)),
        (None, None, (EVERYTHING, 0)),
        (-5, -9, (1, 0)),
        (99_999, 4_000, (EVERYTHING, 3_650)),
    ],
)
def test_ages_are_rounded_outwards(oldest: float | None, youngest: float | None, expected: tuple[int, int]) -> None:
    assert bucket(touched(oldest, youngest), NOW) == expected


@given(st.floats(0, 36_000), st.floats(0, 36_000))
def test_what_was_asked_for_lies_between_the_edges(a: float, b: float) -> None:
    oldest, youngest = bucket(touched(max(a, b), min(a, b)), NOW)
    assert youngest <= min(a, b) + 1e-6
    assert oldest >= max(a, b) - 1e-6
    assert oldest in EDGES
    assert youngest in (0, *EDGES)
