"""A level rings when it holds in both windows, and ends when it is clearly below; noise does neither."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.limits import ALERT_LONG_SECONDS, ALERT_RECOVERY_SHARE, ALERT_SHORT_SECONDS
from tierkeeper.monitoring.alerts.levels import Level, Windows, holds

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOWS = Windows(ALERT_SHORT_SECONDS, ALERT_LONG_SECONDS)
MINUTES = 5


def level(*shares: float, minutes: float = MINUTES) -> Level:
    """Looked at every `minutes`, the last one now."""
    count = len(shares)
    return Level([(NOW - timedelta(minutes=minutes * (count - 1 - i)), share) for i, share in enumerate(shares)])


def rings(*shares: float, firing: bool = False, minutes: float = MINUTES) -> bool:
    return holds(level(*shares, minutes=minutes), 0.85, WINDOWS, is_firing=firing)


@given(st.lists(st.floats(0.85, 3), min_size=1, max_size=3), st.floats(0.1, 0.84))
def test_what_stands_high_for_less_than_the_short_window_does_not_ring(peak: list[float], before: float) -> None:
    """Three looks at five minutes' distance: ten minutes of fifteen, even at three times the quota."""
    assert not rings(*[before] * 14, *peak[:2])
    assert not rings(*[before] * 10, *peak, *[before] * 2)


def test_a_rebuilt_index_that_doubles_a_tier_for_twenty_minutes_does_not_ring() -> None:
    assert not any(rings(*[0.7] * 20, *[0.95] * n) for n in range(1, 5))


@given(st.lists(st.floats(0.85, 1.2), min_size=13, max_size=40), st.lists(st.floats(0, 0.8), max_size=30))
def test_what_stands_high_all_through_the_long_window_rings(high: list[float], before: list[float]) -> None:
    assert rings(*before, *high)


def test_whoever_looks_once_a_day_hears_it_that_day() -> None:
    assert rings(0.99)
    assert rings(0.2, 0.99, minutes=24 * 60)
    assert not rings(0.99, 0.2, minutes=24 * 60)


@given(st.lists(st.floats(0.85 - ALERT_RECOVERY_SHARE + 1e-9, 0.9), min_size=1, max_size=30))
def test_what_rings_does_not_end_while_it_wobbles_about_its_bound(shares: list[float]) -> None:
    assert rings(*shares, firing=True)


def test_what_rings_ends_after_a_short_window_clearly_below() -> None:
    low = 0.85 - ALERT_RECOVERY_SHARE - 0.001
    assert rings(*[0.9] * 10, low, low, firing=True)
    assert not rings(*[0.9] * 10, low, low, low, firing=True)


def test_a_mean_weighs_each_level_by_how_long_it_lasted() -> None:
    seen = [(NOW - timedelta(minutes=40), 1.0), (NOW - timedelta(minutes=10), 0.0), (NOW, 0.0)]
    assert Level(seen).mean(3600) == 0.75
