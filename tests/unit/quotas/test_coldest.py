"""Which rows leave early: figures in, decisions out."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.quotas.coldest import Candidate, Kept, choose, pressure, retention

MB = 10**6
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def policy(name: str) -> TablePolicy:
    return TablePolicy(TableName("public", name), "move", "at")


def names(candidates: list[Candidate], over_bytes: int) -> list[str]:
    return [c.policy.name.name for c in choose(over_bytes, candidates)]


def test_below_start_at_nothing_has_to_leave() -> None:
    assert pressure(424 * MB, 500 * MB, start_at=0.85, stop_at=0.7) is None
    assert pressure(424 * MB, 500 * MB, start_at=0.85, stop_at=0.7, coming_bytes=75 * MB) is None


def test_a_tier_comes_down_to_stop_at() -> None:
    found = pressure(450 * MB, 500 * MB, start_at=0.85, stop_at=0.7)
    assert found is not None
    assert found.over_bytes == 100 * MB
    assert "90% of its quota is used" in found.why


def test_what_is_coming_before_the_next_run_counts() -> None:
    found = pressure(400 * MB, 500 * MB, start_at=0.85, stop_at=0.7, coming_bytes=200 * MB)
    assert found is not None
    assert found.over_bytes == 100 * MB, "down to 300 MB, so that 200 MB more fit"
    assert "200.0 MB that are coming before the next run" in found.why
    assert pressure(450 * MB, 500 * MB, start_at=0.85, stop_at=0.7, coming_bytes=10 * MB) is not None


@given(st.integers(0, 10**12), st.integers(1, 10**12), st.floats(0.02, 1), st.floats(0.01, 0.99), st.integers(0, 10**12))
def test_what_leaves_is_never_more_than_there_is(used: int, quota: int, start_at: float, stop: float, coming: int) -> None:
    found = pressure(used, quota, start_at=start_at, stop_at=start_at * stop, coming_bytes=min(coming, quota))
    assert found is None or 0 <= found.over_bytes <= used + 1


def test_the_coldest_rows_leave_first() -> None:
    old, young = Candidate(policy("old"), 1000, 100, 400), Candidate(policy("young"), 1000, 100, 20)
    assert names([young, old], 50_000) == ["old"]
    busy = Candidate(policy("busy"), 1000, 100, 400, reads=50.0)
    idle = Candidate(policy("idle"), 1000, 100, 30, reads=0.001)
    assert names([busy, idle], 50_000) == ["idle"]


def test_of_rows_that_are_as_cold_those_that_return_the_most_for_the_least_work() -> None:
    narrow, wide = Candidate(policy("narrow"), 10**6, 60, 300), Candidate(policy("wide"), 1000, 5_000, 330)
    assert names([narrow, wide], 10_000) == ["wide"]


def test_as_many_tables_as_it_takes_and_no_more_rows_than_may_leave() -> None:
    first, second = Candidate(policy("a"), 100, 1_000, 900), Candidate(policy("b"), 100, 1_000, 90)
    chosen = choose(150_000, [second, first])
    assert [(c.policy.name.name, c.rows, c.bytes) for c in chosen] == [("a", 100, 100_000), ("b", 50, 50_000)]
    assert "older than 900 days" in chosen[0].why
    assert choose(0, [first]) == []
    assert choose(10, [Candidate(policy("none"), 0, 100, 5), Candidate(policy("unknown"), 5, 0, 5)]) == []


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(1, 1e5), st.floats(0, 4000), st.floats(0, 100)), max_size=6),
    st.integers(0, 10**9),
)
def test_the_choice_covers_what_is_over_or_takes_all(tables: list[tuple[int, float, float, float]], over: int) -> None:
    candidates = [Candidate(policy(f"t{i}"), rows, width, age, reads) for i, (rows, width, age, reads) in enumerate(tables)]
    chosen = choose(over, candidates)
    allowed = {c.policy.name: c.rows for c in candidates}
    assert all(c.rows <= allowed[c.policy.name] for c in chosen)
    freed = sum(c.rows * next(t.row_bytes for t in candidates if t.policy is c.policy) for c in chosen)
    everything = sum(c.rows * c.row_bytes for c in candidates)
    assert freed >= min(over, everything) * 0.999 - 1


def test_a_full_archive_proposes_to_forget_the_oldest_and_no_more_than_it_takes() -> None:
    flights, orders = TableName("public", "flights"), TableName("public", "orders")
    segments = [
        Kept(flights, NOW - timedelta(days=1000), 40 * MB),
        Kept(flights, NOW - timedelta(days=700), 40 * MB),
        Kept(orders, NOW - timedelta(days=800), 30 * MB),
        Kept(orders, None, 500 * MB),
        Kept(flights, NOW - timedelta(days=100), 40 * MB),
    ]
    assert retention(segments, NOW, 60 * MB) == [
        'archive = "32 months" for public.flights would remove 1 segment with 40.0 MB, for good',
        'archive = "25 months" for public.orders would remove 1 segment with 30.0 MB, for good',
    ]
    assert retention([Kept(flights, NOW - timedelta(days=3), MB)], NOW, MB) == [], "no age in whole months removes it"
    assert retention([], NOW, MB) == []


@pytest.mark.parametrize(("main", "proposes"), [("2 months", False), ("93 days", False), ("1 month", True)])
def test_no_proposal_forgets_rows_before_or_as_they_leave_main(main: str, proposes: bool) -> None:
    """The configuration would refuse it, or all that the archive ever gets would be gone with its next run."""
    segment = Kept(TableName("public", "rent"), NOW - timedelta(days=65), 40 * MB, Age.parse(main, "main"))
    assert bool(retention([segment], NOW, 40 * MB)) is proposes
