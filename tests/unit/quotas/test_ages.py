"""How rows are spread over time, from the planner's statistics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.quotas.ages import Ages, spread

DAY = 86_400.0


def test_rows_lie_evenly_between_the_bounds() -> None:
    ages = spread([], [], [0, 10 * DAY, 20 * DAY], 0.0)
    assert [ages.before(t * DAY) for t in (-1, 0, 5, 10, 15, 20, 30)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert ages.at(0.25) == pytest.approx(5 * DAY, abs=1)


def test_common_values_and_rows_without_an_age_have_their_shares() -> None:
    ages = spread([5 * DAY], [0.4], [0, 10 * DAY], 0.2)
    assert ages.before(5 * DAY) == pytest.approx(0.2)
    assert ages.before(5 * DAY + 1) == pytest.approx(0.6, abs=1e-3)
    assert ages.before(100 * DAY) == pytest.approx(0.8)


def test_what_is_infinite_never_leaves() -> None:
    ages = spread([float("-inf")], [0.5], [0, 10 * DAY, float("inf")], 0.0)
    assert ages.before(1e15) == pytest.approx(0.25)
    assert spread([], [], [], 0.0).at(0.5) is None


@given(
    st.lists(st.floats(0, 1e9), min_size=2, max_size=50).map(sorted),
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0.001, 0.05)), max_size=10),
    st.floats(0, 1),
)
def test_at_is_where_before_reaches_the_share(bounds: list[float], common: list[tuple[float, float]], share: float) -> None:
    ages = spread([c[0] for c in common], [c[1] for c in common], bounds, 0.0)
    instant = ages.at(share)
    assert instant is not None
    assert ages.before(instant + 1) >= min(share, ages.before(2e9)) - 1e-6


def test_no_statistics_are_no_ages() -> None:
    assert Ages([]).before(1.0) == 0
