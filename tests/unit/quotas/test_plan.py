"""What is decided about space, from figures alone."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.quotas.plan import (
    CUT_PAGES,
    CUT_SHARE,
    Method,
    OldPartition,
    Room,
    arriving_bytes,
    compacted_pages,
    for_index,
    for_table,
    next_round,
    old_partitions,
    partition_stays,
    rows_that_fit,
)
from tierkeeper.tiers.space import PAGE_BYTES, Heap, Index

MB = 10**6
HALF_EMPTY = Heap(pages=10_000, live_rows=400_000, held_rows=0, row_bytes=100, index_bytes=20 * MB)
LOOSE = Room(200 * MB, 500 * MB)
TIGHT = Room(499 * MB, 500 * MB)
FULL_ALLOWED = Room(499 * MB, 500 * MB, may_rewrite=True)


def test_a_half_empty_table_is_compacted_whatever_room_there_is() -> None:
    for room in (LOOSE, TIGHT, FULL_ALLOWED):
        choice = for_table(HALF_EMPTY, room, barred=None, untouchable=None)
        assert choice.method is Method.COMPACTION
        assert choice.gain_bytes > 40 * MB


def test_a_full_table_is_left() -> None:
    heap = Heap(pages=5_000, live_rows=400_000, held_rows=0, row_bytes=100)
    choice = for_table(heap, LOOSE, barred=None, untouchable=None)
    assert (choice.method, choice.stays_bytes) == (Method.VACUUM, 0)


def test_a_rewrite_is_shown_and_refused_until_it_is_allowed() -> None:
    refused = for_table(HALF_EMPTY, TIGHT, barred=None, untouchable="its trigger t fires on UPDATE")
    assert refused.method is Method.VACUUM
    assert refused.stays_bytes == HALF_EMPTY.dead_bytes
    for figure in ("its trigger t fires on UPDATE", "gives back about", "in use at its peak", "locked", "--allow-rewrite"):
        assert figure in refused.why
    allowed = for_table(HALF_EMPTY, FULL_ALLOWED, barred=None, untouchable="its trigger t fires on UPDATE")
    assert allowed.method is Method.REWRITE


def test_no_rewrite_beyond_the_disk() -> None:
    """I9: a rewrite that would fill the disk does not begin, allowed or not."""
    room = Room(990 * MB, 500 * MB, may_rewrite=True)
    choice = for_table(HALF_EMPTY, room, barred=None, untouchable="no column of it can be set to itself")
    assert choice.method is Method.VACUUM
    assert "more than the disk may hold" in choice.why


def test_nothing_is_written_where_it_would_stay_or_help_nobody() -> None:
    held = Heap(pages=10_000, live_rows=400_000, held_rows=380_000, row_bytes=100)
    for may_rewrite in (False, True):
        room = Room(200 * MB, 500 * MB, may_rewrite)
        assert for_table(HALF_EMPTY, room, barred="a slot", untouchable=None).why == "a slot"
        choice = for_table(held, room, barred=None, untouchable=None)
        assert choice.method is Method.VACUUM
        assert "old snapshot" in choice.why
        assert choice.stays_bytes == held.dead_bytes


def test_toast_needs_a_rewrite_and_the_heap_is_compacted_meanwhile() -> None:
    heap = Heap(10_000, 400_000, 0, 100, toast_bytes=100 * MB, toast_chunks=10_000, index_bytes=20 * MB)
    choice = for_table(heap, LOOSE, barred=None, untouchable=None)
    assert choice.method is Method.COMPACTION
    assert choice.stays_bytes == heap.dead_toast_bytes > 70 * MB
    allowed = for_table(heap, Room(200 * MB, 500 * MB, may_rewrite=True), barred=None, untouchable=None)
    assert allowed.method is Method.REWRITE


def index(size_bytes: int, **more: object) -> Index:
    given_: dict[str, object] = {"entries": 400_000, "entry_bytes": 20.0, "fill_share": 0.9, "repeats": False, **more}
    return Index("i", size_bytes, **given_)  # type: ignore[arg-type]


def test_a_bloated_index_is_built_anew_where_that_has_room() -> None:
    choice = for_index(index(30 * MB), LOOSE, 1.0, barred=None)
    assert choice is not None
    assert choice.method is Method.REINDEX
    assert 20 * MB < choice.gain_bytes < 22 * MB
    for room, barred, fixed in ((TIGHT, None, None), (LOOSE, "a slot", None), (LOOSE, None, "an exclusion")):
        refused = for_index(index(30 * MB, fixed=fixed), room, 1.0, barred=barred)
        assert refused is not None
        assert (refused.method, refused.stays_bytes) == (Method.VACUUM, choice.gain_bytes)
    assert for_index(index(30 * MB), FULL_ALLOWED, 1.0, barred=None) == choice


def test_an_index_as_inserts_leave_it_is_not_rebuilt_again_and_again() -> None:
    lean = index(0).lean_bytes(1.0)
    assert for_index(index(int(lean * 1.4)), LOOSE, 1.0, barred=None) is None
    assert for_index(index(int(lean * 1.4)), LOOSE, 0.5, barred=None) is None, "the formula knows better than the heap"
    equal_keys = index(int(lean * 0.7), repeats=True)
    assert for_index(equal_keys, LOOSE, 1.0, barred=None) is None
    assert for_index(equal_keys, LOOSE, 0.5, barred=None) is not None
    unknown = index(30 * MB, entry_bytes=None)
    assert for_index(unknown, LOOSE, 1.0, barred=None) is None
    assert for_index(unknown, LOOSE, 0.5, barred=None) is not None


heaps = st.builds(
    Heap,
    pages=st.integers(0, 10**8),
    live_rows=st.integers(0, 10**10),
    held_rows=st.integers(0, 10**10),
    row_bytes=st.floats(28, 8000),
    toast_bytes=st.integers(0, 10**12),
    toast_chunks=st.integers(0, 10**9),
    index_bytes=st.integers(0, 10**12),
    fill_share=st.floats(0.1, 1),
)
rooms = st.builds(Room, st.integers(0, 10**12), st.integers(1, 10**12), st.booleans())
words = st.sampled_from([None, "because"])


@given(heaps, rooms, words, words)
def test_a_rewrite_always_is_allowed_and_fits(heap: Heap, room: Room, barred: str | None, untouchable: str | None) -> None:
    choice = for_table(heap, room, barred=barred, untouchable=untouchable)
    if choice.method is Method.REWRITE:
        assert room.may_rewrite
        assert barred is None
        assert room.used_bytes + heap.rewritten_bytes <= room.limit_bytes
    if choice.method is Method.COMPACTION:
        assert barred is None
        assert untouchable is None
    assert choice.gain_bytes + choice.stays_bytes in (0, heap.dead_bytes + heap.dead_toast_bytes)


@given(st.integers(0, 10**9), rooms, st.floats(0, 2), words)
def test_a_rebuild_always_fits(size: int, room: Room, share: float, barred: str | None) -> None:
    choice = for_index(index(size), room, share, barred=barred)
    if choice is not None and choice.method is Method.REINDEX:
        assert room.used_bytes + size <= room.limit_bytes
        assert barred is None


@given(st.integers(0, 10**7), st.floats(0, 1))
def test_a_compaction_ends_and_each_round_is_long_enough_to_be_cut(pages: int, share: float) -> None:
    target, rounds = int(pages * share), 0
    while (floor := next_round(pages, target)) is not None:
        assert target <= floor < pages
        assert pages - floor >= CUT_PAGES or pages - floor >= pages * CUT_SHARE
        pages, rounds = floor, rounds + 1
    assert rounds <= 150
    assert pages - target <= max(pages * CUT_SHARE + 1, 0)


def test_a_compaction_aims_above_what_the_rows_need() -> None:
    assert HALF_EMPTY.lean_pages < compacted_pages(HALF_EMPTY) < HALF_EMPTY.pages
    assert HALF_EMPTY.dead_bytes == (10_000 - HALF_EMPTY.lean_pages) * PAGE_BYTES


def test_an_old_partition_goes_only_when_nobody_can_miss_it() -> None:
    table = TableName("public", "t")
    empty = OldPartition(1, table, TableName("public", "t_1"), "", False, 0, 8192, None)
    dead = replace(empty, heap_bytes=8192)
    assert partition_stays(empty, is_empty=True, fed=False) is None
    assert "old snapshot" in str(partition_stays(dead, is_empty=True, fed=False))
    assert partition_stays(dead, is_empty=True, fed=False, seen=False) is None, "before VACUUM has looked nothing is said"
    assert "not left" in str(partition_stays(empty, is_empty=False, fed=False))
    assert "DEFAULT" in str(partition_stays(empty, is_empty=True, fed=True))
    assert partition_stays(replace(empty, beside_default=True), is_empty=True, fed=True) is None
    assert partition_stays(replace(empty, barred="why"), is_empty=True, fed=False) == "why"


def test_old_partitions_are_told_before_anything_is_done() -> None:
    table = TableName("public", "t")
    found = [OldPartition(i, table, TableName("public", f"t_{i}"), "", False, i % 2, 0, None) for i in range(14)]
    asked, silent = TablePolicy(table, drop_partitions=True), TablePolicy(table)
    assert "public.t_4 and 9 more" in str(old_partitions(asked, found, fed=False))
    assert "public.t_8 and 2 more" in str(old_partitions(silent, found, fed=False))
    assert old_partitions(asked, found, fed=True) is None
    assert old_partitions(silent, found[1:2], fed=False) is None


def test_what_arrives_counts_its_indexes() -> None:
    bare = arriving_bytes(1_000, {"id": 8_000, "body": 50_000}, [])
    assert 58_000 < bare < arriving_bytes(1_000, {"id": 8_000, "body": 50_000}, [["id"], []])
    assert arriving_bytes(0, {}, [["id"]]) == 0


@given(st.integers(0, 600 * MB), st.integers(1, 10**6), st.integers(1, 10**9))
def test_as_many_rows_fit_as_leave_the_tier_below_its_mark(used: int, rows: int, arriving: int) -> None:
    """I9: a tier that is above the mark takes none."""
    fit = rows_that_fit(used, 500 * MB, 0.85, rows, arriving)
    assert 0 <= fit <= rows
    assert fit == 0 or used + fit * arriving / rows < 425 * MB
    assert fit == rows or used + arriving >= 425 * MB
