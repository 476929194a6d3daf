"""A part that its process must not move: it says so and moves nothing."""

from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from jobs_processes import BEFORE, furnish, rows_in
from support import Tiers
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import NotNow, PassedOver, UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.lease import Lease


@pytest.fixture
def keeper(tiers: Tiers) -> Keeper:
    config = furnish(tiers, rows=500)
    made = open_keeper(load(config, tiers.environment, config.parent), environment=tiers.environment, batch_rows=100)
    made.setup(apply=True)
    return made


def part(tiers: Tiers, lease: Lease, **other: Any) -> dict[str, Any]:
    """The first pages of the table, as the holder of `lease` would offer them, but for what is `other`."""
    with closing(tiers.core.connect("test")) as conn:
        origin = conn.execute("SELECT id FROM tierkeeper.tier WHERE role = 'core'").fetchone()
        assert origin is not None
    free = [[0, 0, 0], [0, 0, 0]]
    return {
        "version": 1,
        "table": ["public", "rows"], "hop": ["core", "main"], "age": "at", "cutoff": BEFORE.isoformat(), "origin": str(origin[0]),
        "lease": lease.name, "holder": lease.holder, "batch_rows": 100, "sharers": 2, "budgets": [free, free],
        "ranges": [[0, 1, 100, 1000, 0, None]], **other,
    }  # fmt: skip


def test_a_part_moves_its_ranges_and_no_others(tiers: Tiers, keeper: Keeper) -> None:
    with closing(tiers.main.connect("test")) as conn:
        lease = Lease(conn, f"{TableName('public', 'rows')} core <-> main")
        lease.take()
        moved = keeper.move_part(part(tiers, lease))
        lease.give_back()
    assert 0 < moved.rows < 500
    assert rows_in(tiers.main).total() == moved.rows
    assert rows_in(tiers.core).total() == 500 - moved.rows


@pytest.mark.parametrize(
    ("other", "error", "cause"),
    [
        ({"holder": "host/another/1/2/3"}, PassedOver, "its run is over"),
        ({"version": 2}, PassedOver, "it is written in version 2, and this process reads 1"),
        ({"version": None}, PassedOver, "it is written in version none, and this process reads 1"),
        ({"origin": str(uuid4())}, UsageError, "this core is another database than that of the run"),
        ({"age": "seen_at"}, UsageError, "its age is at here, and seen_at where the run began"),
    ],
)
def test_a_part_of_another_run_is_left(
    tiers: Tiers, keeper: Keeper, other: dict[str, str], error: type[Exception], cause: str
) -> None:
    original = rows_in(tiers.core)
    noted = notes(tiers)
    with closing(tiers.main.connect("test")) as conn:
        lease = Lease(conn, f"{TableName('public', 'rows')} core <-> main")
        lease.take()
        with pytest.raises(error, match=cause):
            keeper.move_part(part(tiers, lease, **other))
        lease.give_back()
    assert rows_in(tiers.core) == original
    assert not rows_in(tiers.main)
    assert error is not PassedOver or notes(tiers) == noted, "nothing was begun"


def notes(tiers: Tiers) -> int:
    with closing(tiers.main.connect("test")) as conn:
        (count,) = conn.execute("SELECT count(*) FROM tierkeeper.audit").fetchone() or (0,)
    assert isinstance(count, int)
    return count


def test_a_table_that_others_came_to_refer_to_is_left(tiers: Tiers, keeper: Keeper) -> None:
    """Here none of them has an entry, so that nobody may move its rows."""
    with closing(tiers.core.connect("test")) as core:
        core.execute("CREATE TABLE public.notes (id bigint PRIMARY KEY REFERENCES public.rows)")
    with closing(tiers.main.connect("test")) as conn:
        lease = Lease(conn, f"{TableName('public', 'rows')} core <-> main")
        lease.take()
        with pytest.raises((UsageError, NotNow)):
            keeper.move_part(part(tiers, lease))
        lease.give_back()
    assert not rows_in(tiers.main)
