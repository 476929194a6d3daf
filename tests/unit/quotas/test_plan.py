from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.quotas.plan import PEAK_SHARE, Method, Relation, early_rows, reclaim

MB = 10**6


def test_a_half_empty_table_is_rewritten() -> None:
    assert reclaim(Relation(100 * MB, 80 * MB, 20 * MB), 200 * MB, 500 * MB)[0] is Method.VACUUM_FULL


def test_a_full_table_is_left() -> None:
    method, why = reclaim(Relation(100 * MB, 80 * MB, 79 * MB), 200 * MB, 500 * MB)
    assert method is Method.VACUUM
    assert "too little" in why


def test_no_rewrite_beyond_the_disk() -> None:
    """I9: a rewrite that would fill the disk does not begin."""
    method, why = reclaim(Relation(600 * MB, 500 * MB, 300 * MB), 900 * MB, 500 * MB)
    assert method is Method.VACUUM
    assert "more than the disk may hold" in why


@given(*[st.integers(0, 10**12)] * 3, st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_rewrite_always_fits(total: int, heap: int, live: int, used: int, quota: int) -> None:
    relation = Relation(total, min(heap, total), live)
    if reclaim(relation, used, quota)[0] is Method.VACUUM_FULL:
        assert used + relation.rewritten_bytes <= PEAK_SHARE * quota
        assert relation.rewritten_bytes < total


def test_early_rows_bring_the_tier_down() -> None:
    wanted = early_rows(450 * MB, 500 * MB, start_at=0.85, stop_at=0.7, table_bytes=400 * MB, table_rows=4_000_000)
    assert wanted == 1_000_001
    assert early_rows(400 * MB, 500 * MB, start_at=0.85, stop_at=0.7, table_bytes=400 * MB, table_rows=4_000_000) == 0
    assert early_rows(490 * MB, 500 * MB, start_at=0.85, stop_at=0.7, table_bytes=10 * MB, table_rows=100) == 100
    assert early_rows(490 * MB, 500 * MB, start_at=0.85, stop_at=0.7, table_bytes=0, table_rows=0) == 0
