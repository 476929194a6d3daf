"""What fits beside the data and what does not, by figures alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.limits import BATCH_ROWS_MIN
from tierkeeper.mover import budget
from tierkeeper.mover.budget import Cost, Server, Slot, Table

MB = 10**6
SERVER = Server("tiers.core", 480 * MB, 500 * MB, 1000 * MB, 4000 * MB, 16 * 2**20, 900 * MB, 850 * MB)
TABLE = Table(1_000_000, 150 * MB, 0, 50 * MB, 2, 120.0)


def test_the_disk_bounds_the_log_before_the_setting_does() -> None:
    assert SERVER.wal_room_bytes == 520 * MB
    assert replace(SERVER, disk_bytes=None).wal_room_bytes == 4000 * MB
    assert replace(SERVER, used_bytes=1100 * MB).wal_room_bytes == 0


def test_a_disk_that_holds_more_than_it_should_is_larger() -> None:
    """Of a quota that the user has set far below what lies there, all of it would be refused to leave."""

    def disk(used_mb: int, sold_mb: int | None = 500) -> int | None:
        sold = None if sold_mb is None else sold_mb * MB
        return budget.disk_bytes(60 * MB, used_mb * MB, sold_bytes=sold, counts_server=True)

    assert (disk(50), disk(119), disk(130), disk(1100), disk(130, None)) == (120 * MB, 120 * MB, 1000 * MB, None, None)
    assert budget.disk_bytes(60 * MB, 130 * MB, sold_bytes=None, counts_server=False) is None


def test_a_slot_and_an_archiver_hold_what_a_checkpoint_would_return() -> None:
    assert SERVER.retained_bytes == 50 * MB + 16 * 2**20
    stuck = replace(SERVER, slots=(Slot("s", False, 300 * MB), Slot("t", True, 899 * MB)))
    assert (stuck.pinned_bytes, stuck.retained_bytes) == (600 * MB, 600 * MB + 16 * 2**20)
    assert replace(stuck, slot_cap_bytes=100 * MB).pinned_bytes == 100 * MB
    assert replace(SERVER, archived_lsn=500 * MB).pinned_bytes == 400 * MB


def test_the_archivers_position_is_read_from_a_segments_name() -> None:
    assert budget.archived_lsn("0000000100000002000000FF", 16 * 2**20, 10**13) == 3 * 2**32
    assert budget.archived_lsn("000000010000000000000001", 2**20, 10**13) == 2 * 2**20
    assert budget.archived_lsn(None, 16 * 2**20, 77) == 77
    assert budget.archived_lsn("00000002.history", 16 * 2**20, 77) == 77


def test_a_stuck_slot_is_named_with_figures_and_remedy() -> None:
    stuck = replace(SERVER, slots=(Slot("debezium", False, 400 * MB),))
    assert budget.refusal(stuck, Cost(10 * MB), 1000) is None
    error = budget.refusal(stuck, Cost(30 * MB), 1000)
    assert isinstance(error, NotNow)
    assert [word for word in ("debezium", "500.0 MB", "30.0 MB", "520.0 MB") if word not in error.cause] == []
    assert "pg_drop_replication_slot('debezium')" in error.remedy
    failing = replace(SERVER, archived_lsn=100 * MB)
    assert "archiver" in str(budget.refusal(failing, Cost(30 * MB), 1000))


@pytest.mark.parametrize(("growth", "rows", "remedy"), [(19 * MB, 100_000, None), (38 * MB, 100_000, "--limit 50000"),
                                                        (38 * MB, 900, "raise its quota")])  # fmt: skip
def test_what_a_quota_has_no_room_for_is_refused(growth: int, rows: int, remedy: str | None) -> None:
    error = budget.refusal(SERVER, Cost(MB, growth), rows)
    assert (error is None) == (remedy is None)
    assert error is None or remedy in error.remedy  # type: ignore[operator]
    assert error is None or ("--limit" in error.remedy) == (rows > 1000)


def test_a_sort_that_fills_the_disk_is_refused() -> None:
    assert budget.refusal(SERVER, Cost(MB, 0, 400 * MB), 1000) is None
    assert "temporary files" in str(budget.refusal(SERVER, Cost(MB, 0, 480 * MB), 1000))


def test_log_that_a_checkpoint_returns_is_waited_for_where_nothing_is_sorted() -> None:
    flooded = replace(SERVER, lsn=1400 * MB)
    assert flooded.retained_bytes > flooded.wal_room_bytes
    assert budget.refusal(flooded, Cost(MB), 3) is None
    assert "waiting for its next checkpoint" in str(budget.pause(flooded, Cost(MB)))


def test_the_log_of_a_delete_follows_what_is_logged() -> None:
    bare = budget.delete_cost(TABLE, replace(SERVER, full_page_writes=False), 100_000, batches=1).wal_bytes
    images = budget.delete_cost(TABLE, SERVER, 100_000, batches=1).wal_bytes
    assert images - bare == pytest.approx(15 * MB, rel=0.01)  # a tenth of the heap's pages
    anywhere = budget.delete_cost(replace(TABLE, scatter=1.0), SERVER, 100_000, batches=1).wal_bytes
    assert anywhere - bare == pytest.approx(150 * MB, rel=0.01)  # every page
    whole = replace(TABLE, identity="full")
    assert budget.delete_cost(whole, SERVER, 100_000, batches=1).wal_bytes == images
    logical = budget.delete_cost(whole, replace(SERVER, logical=True), 100_000, batches=1).wal_bytes
    assert logical - images == 100_000 * 120
    assert budget.delete_cost(TABLE, SERVER, 0, batches=0) == Cost(0)


@given(
    rows=st.integers(1, 10**7),
    wal=st.integers(0, 10**11),
    in_flight=st.integers(1, 32),
    used=st.integers(0, 10**9),
    wanted=st.sampled_from([500, 25_000, 1_000_000]),
)
def test_batches_in_flight_take_half_of_the_log_at_most(rows: int, wal: int, in_flight: int, used: int, wanted: int) -> None:
    server = replace(SERVER, used_bytes=used)
    size = budget.batch_rows(wanted, rows, [(server, Cost(wal))], in_flight=in_flight)
    assert BATCH_ROWS_MIN <= size <= wanted
    assert size == BATCH_ROWS_MIN or size * in_flight * wal / rows <= server.wal_room_bytes / 2 + 1


def test_a_batch_waits_for_room_and_says_for_what() -> None:
    assert budget.pause(SERVER, Cost(400 * MB)) is None
    assert "waiting for its next checkpoint" in str(budget.pause(SERVER, Cost(460 * MB)))
    lagging = replace(SERVER, slots=(Slot("standby", True, 500 * MB),))
    assert "waiting for the replication slot standby" in str(budget.pause(lagging, Cost(200 * MB)))
    assert "nearly full" in str(budget.pause(SERVER, Cost(MB, 21 * MB)))
    assert budget.pause(replace(SERVER, used_bytes=510 * MB), Cost(MB)) is None  # rows may always leave


@given(batch=st.integers(1, 10**9), reserve=st.integers(0, 10**9), growth=st.integers(0, 10**8))
def test_what_is_allowed_before_the_next_look_fits(batch: int, reserve: int, growth: int) -> None:
    allowed = budget.batches_allowed(SERVER, Cost(batch, growth), Cost(reserve, growth))
    assert allowed >= 0
    if allowed:
        assert SERVER.retained_bytes + reserve + allowed * batch <= SERVER.wal_room_bytes
        assert SERVER.used_bytes + growth + allowed * growth <= SERVER.quota_bytes
