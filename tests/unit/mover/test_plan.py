from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import BATCH_ROWS_MIN
from tierkeeper.kernel.tables import Column, TableName, TableShape
from tierkeeper.mover.model import Piece, travels_as_binary
from tierkeeper.mover.plan import Verdict, check_chosen, check_condition, check_hop, cut, even, smaller, verdict, workers


@pytest.mark.parametrize(
    ("ledger", "marker", "expected"),
    [
        ("open", "open", Verdict.UNDO),
        ("open", "aborted", Verdict.UNDO),
        ("open", None, Verdict.WITHDRAW),
        ("copied", "open", Verdict.RESUME),
        ("copied", "aborted", Verdict.UNDO),
        ("copied", None, Verdict.LOST),
        ("copied", "moved", Verdict.FINISH),
    ],
)
def test_the_marker_decides(ledger: str, marker: str | None, expected: Verdict) -> None:
    assert verdict(ledger, marker) is expected  # type: ignore[arg-type]


@given(st.integers(min_value=1, max_value=10_000_000))
def test_shrinking_ends(rows: int) -> None:
    steps = 0
    size: int | None = rows
    while size is not None:
        following = smaller(size)
        assert following is None or BATCH_ROWS_MIN <= following < size
        size, steps = following, steps + 1
    assert steps < 30


@pytest.mark.parametrize(
    "where", ["1=1) OR (1=1", "true; DROP TABLE t", "carrier =", "(a = 1", "SELECT 1", "a = 1 --x\n) OR (true"]
)
def test_a_condition_that_is_none_is_refused(where: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_condition(where)
    assert caught.value.place == "--where"


@pytest.mark.parametrize(
    "where", ["carrier = 'UA'", "a > 1 OR b IS NULL", "x IN (1, 2) -- why", "note = ')'", "(SELECT true)", "(a = 1)"]
)
def test_a_condition_is_taken(where: str) -> None:
    check_condition(where)


def test_rows_move_down_one_tier_and_from_main_back_to_core() -> None:
    check_hop("core", "main")
    check_hop("main", "archive")
    check_hop("main", "core")
    for hop in (("core", "archive"), ("archive", "main"), ("archive", "core"), ("core", "core")):
        with pytest.raises(UsageError):
            check_hop(*hop)


def test_on_the_way_up_the_rows_are_named() -> None:
    check_chosen("main", "core", chosen=True)
    check_chosen("core", "main", chosen=False)
    with pytest.raises(UsageError, match="nothing says which rows"):
        check_chosen("main", "core", chosen=False)


def test_what_is_local_or_differs_travels_as_text() -> None:
    shape = TableShape(TableName("public", "t"), (Column("c", "integer", "int4"),), ("c",))
    assert travels_as_binary(shape, shape)
    assert not travels_as_binary(replace(shape, as_text=frozenset("c")), shape)
    assert not travels_as_binary(shape, replace(shape, columns=(Column("c", "bigint", "int8"),)))


def test_an_interval_travels_as_text_where_its_bits_mean_something_else() -> None:
    shape = TableShape(TableName("public", "t"), (Column("c", "interval", "interval"),), ("c",), intervals=frozenset("c"))
    before, since, later = (replace(shape, server_version=v) for v in (160_004, 170_000, 180_001))
    assert travels_as_binary(before, before)
    assert travels_as_binary(since, later)
    assert not travels_as_binary(before, since)
    assert not travels_as_binary(since, before)
    assert travels_as_binary(replace(before, intervals=frozenset()), since)


@pytest.mark.parametrize(
    ("widest", "batches", "expected"),
    [(0, 100, 4), (0, 5, 2), (0, 1, 1), (6_000_000, 100, 4), (10_000_000, 100, 3), (20_000_000, 100, 2), (20_000_001, 100, 1)],
)
def test_wide_rows_get_fewer_workers(widest: int, batches: int, expected: int) -> None:
    """One wide row is enough, wherever it lies."""
    pieces = [Piece(i, i + 1, 10, 1, widest=widest if i == batches // 2 else 0) for i in range(batches)]
    assert workers(4, pieces) == expected
    assert workers(4, list(cut(pieces, 10, 1))) == expected
    assert max(p.widest for p in cut(pieces, 10**6, 10**6)) == widest


@given(st.lists(st.integers(1, 3000), max_size=400), st.integers(3000, 60_000), st.integers(1, 4))
def test_batches_are_shared_out_evenly(rows: list[int], most: int, workers: int) -> None:
    pieces = [Piece(i, i + 1, n, 0) for i, n in enumerate(rows)]
    size = even(pieces, most, workers)
    made = [b.rows for b in cut(pieces, size, 10**9)]
    assert sum(made) == sum(rows)
    assert max(made, default=0) <= size <= most
    largest = max(rows, default=0)
    if workers > 1 and largest < most:
        rounds = -(-sum(rows) // ((most - largest) * workers))
        assert len(made) <= rounds * workers
