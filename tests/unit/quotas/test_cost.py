from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.series import Sample
from tierkeeper.quotas.cost import cost, month_of
from tierkeeper.tiers.price import NOTHING, Price
from tierkeeper.tiers.profile import SUPABASE_FREE

GB = 10**9
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
PRICE = Price(storage_per_gb_month=0.30, egress_per_gb=0.10, requests_per_million=2.0, fixed_per_month=60.0)


def at(day: float, gigabytes: float) -> Sample:
    return Sample(JUNE + timedelta(days=day), int(gigabytes * GB))


def test_a_month_that_is_half_over() -> None:
    now = JUNE + timedelta(days=15)
    found = cost(PRICE, [at(-1, 10), at(0, 10), at(15, 20)], now, net_bytes_per_day=0, egress_bytes=30 * GB,
                 egress_budget_bytes=10 * GB, requests=1_000_000)  # fmt: skip
    # 15 GB on average for half of the month, then 20 GB for the other; twice the egress and the requests.
    assert found.so_far == pytest.approx(0.30 * 7.5 + 0.10 * 20 + 2.0 + 30.0)
    assert found.storage == pytest.approx(0.30 * 17.5)
    assert found.egress == pytest.approx(0.10 * 50)
    assert found.month == pytest.approx(0.30 * 17.5 + 5.0 + 4.0 + 60.0)
    assert found.known_since is None


def test_what_was_before_the_month_does_not_count_but_tells_how_it_began() -> None:
    found = cost(Price(storage_per_gb_month=0.30), [at(-10, 0), at(10, 20)], JUNE + timedelta(days=10))
    assert found.so_far == pytest.approx(0.30 * 15 / 3)
    assert found.known_since is None


def test_what_comes_grows_up_to_the_quota_and_no_further() -> None:
    now = JUNE + timedelta(days=20)
    found = cost(PRICE, [at(0, 10), at(20, 10)], now, net_bytes_per_day=1 * GB, quota_bytes=15 * GB)
    assert found.storage == pytest.approx(0.30 * (20 * 10 + 5 * 12.5 + 5 * 15) / 30)
    shrinks = cost(PRICE, [at(0, 4), at(20, 4)], now, net_bytes_per_day=-1 * GB)
    assert shrinks.storage == pytest.approx(0.30 * (20 * 4 + 4 * 2) / 30)


def test_where_the_history_begins_within_the_month_it_says_so() -> None:
    now = JUNE + timedelta(days=10)
    found = cost(PRICE, [at(5, 8), at(10, 8)], now)
    assert found.known_since == JUNE + timedelta(days=5)
    assert found.so_far == pytest.approx(0.30 * 8 / 3 + 20)
    assert cost(PRICE, [], now).storage == 0


def test_the_free_plan_costs_nothing_and_says_when_its_egress_runs_out() -> None:
    now = JUNE + timedelta(days=10)
    found = cost(SUPABASE_FREE.price, [at(0, 0.4)], now, egress_bytes=2 * GB, egress_budget_bytes=5 * GB)
    assert found.month == 0
    assert found.note is not None
    assert "6.0 GB of egress at this month's pace" in found.note
    assert cost(SUPABASE_FREE.price, [], now, egress_bytes=GB, egress_budget_bytes=5 * GB).note is None


def test_months_are_the_calendars_in_utc() -> None:
    assert month_of(datetime(2026, 12, 31, 23, 59, tzinfo=UTC)) == (
        datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    assert month_of(datetime(2024, 2, 10, tzinfo=UTC))[1] == datetime(2024, 3, 1, tzinfo=UTC)


@given(st.lists(st.tuples(st.floats(0, 29), st.floats(0, 50)), max_size=20), st.floats(0.01, 29.9))
def test_a_month_costs_at_least_what_it_has_cost_so_far(raw: list[tuple[float, float]], day: float) -> None:
    found = cost(PRICE, [at(d, g) for d, g in raw], JUNE + timedelta(days=day), quota_bytes=60 * GB)
    assert -1e-9 <= found.so_far <= found.month + 1e-6
    assert found.month == pytest.approx(found.storage + found.egress + found.requests + found.fixed)
    assert cost(NOTHING, [at(d, g) for d, g in raw], JUNE + timedelta(days=day)).month == 0
