"""Which rows of a segment stay, over however many batches they come in."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from tierkeeper.archive.replacing import _Kept as Kept
from tierkeeper.archive.replacing import all_stay, chosen_by

AGES = [datetime(2024, 1, n, tzinfo=UTC) for n in range(1, 11)]


def batches(sizes: Sequence[int], zone: str | None = "UTC") -> list[pa.RecordBatch]:
    whole = pa.record_batch({"id": pa.array(range(10)), "at": pa.array(AGES, pa.timestamp("us", zone))})
    ends = [sum(sizes[:n]) for n in range(len(sizes))]
    return [whole.slice(at, size) for at, size in zip(ends, sizes, strict=True)]


@pytest.mark.parametrize("sizes", [[10], [3, 4, 3], [1] * 10, [5, 0, 5]])
@pytest.mark.parametrize("zone", ["UTC", None])
def test_exactly_those_that_are_not_marked_stay_in_their_order(sizes: list[int], zone: str | None) -> None:
    goes = bytes([0, 0, 1, 0, 1, 1, 0, 0, 0, 1])
    kept = Kept(iter(batches(sizes, zone)), chosen_by(goes), "at")
    assert [i for batch in kept for i in batch.column("id").to_pylist()] == [0, 1, 3, 6, 7, 8]
    assert (kept.least, kept.greatest) == (AGES[0], AGES[8])


def test_all_or_none_of_them() -> None:
    kept = Kept(iter(batches([4, 6])), all_stay, "at")
    assert sum(batch.num_rows for batch in kept) == 10
    assert (kept.least, kept.greatest) == (AGES[0], AGES[9])
    kept = Kept(iter(batches([4, 6])), chosen_by(bytes([1] * 10)), "at")
    assert list(kept) == []
    assert (kept.least, kept.greatest) == (None, None)


def test_without_ages_of_its_own_it_says_none() -> None:
    kept = Kept(iter(batches([10])), all_stay, "")
    assert [batch.num_rows for batch in kept] == [10]
    assert kept.least is None
