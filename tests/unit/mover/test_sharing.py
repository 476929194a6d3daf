"""Parts of a pass, as values."""

from datetime import UTC, datetime
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.limits import PART_BATCHES, SHARED_BATCHES_MIN
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import sharing
from tierkeeper.mover.budget import Cost, Server
from tierkeeper.mover.model import Piece
from tierkeeper.mover.pacing import Side
from tierkeeper.mover.sharing import Part


def pieces(batches: int) -> list[Piece]:
    return [Piece(16 * at, 16 * at + 16, 640, 64_000, None, 100) for at in range(batches)]


@given(st.integers(0, 400), st.integers(1, 12))
def test_parts_hold_each_range_once(batches: int, sharers: int) -> None:
    ranges = pieces(batches)
    parts = sharing.cut(ranges, sharers)
    if sharers == 1 or batches < SHARED_BATCHES_MIN:
        assert parts == []
        return
    assert [piece for part in parts for piece in part] == ranges
    assert all(0 < len(part) <= PART_BATCHES for part in parts)
    assert len(parts) >= min(sharers, batches)


@given(st.sampled_from([None, uuid4()]), st.sampled_from([None, TableName("Odd", 'a "part"')]))
def test_a_part_comes_through_the_queue_as_it_was(origin: object, leaf: TableName | None) -> None:
    part = Part(
        table=TableName("odd schema", "My Table"),
        source="core",
        destination="main",
        age="at",
        cutoff=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        origin=origin,  # type: ignore[arg-type]
        lease="public.t core <-> main",
        holder="host/1/2/3",
        batch_rows=50_000,
        sharers=3,
        budgets=((Cost(1, 2, 3), Cost(4, 5, 6)), (Cost(7), Cost(8))),
        ranges=(Piece(0, 16, 640, 64_000, leaf, 100), Piece(16, 32, 1, 2, leaf, 3)),
    )
    assert Part.read(part.document()) == part


def test_a_process_takes_its_share_of_the_room_alone() -> None:
    """I9: each looks at what is left as if it were alone."""
    alone, shared = (Side(None, None, Cost(1_000), Cost(10_000), sharers=n) for n in (1, 3))  # type: ignore[arg-type]
    room = Server("tiers.core", 0, 10**9, None, 10**8, 16 * 2**20, 10**6, 10**6)
    assert alone.allow(room) is shared.allow(room) is None
    assert 0 < shared.allowed == alone.allowed // 3
