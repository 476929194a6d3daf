"""The archive as `query` reads it: segments of a snapshot, columns and ages pushed down."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from archive_bench import Bench
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import transaction

EVENTS = TableName("public", "events")


def test_a_snapshot_has_its_segments_with_the_ledgers_word(small: Bench) -> None:
    first = small.move("events", "at", "id <= 2")
    scan = small.archive.scan()
    with closing(small.tiers.catalog.connect("test")) as conn:
        with transaction(conn, isolation="repeatable read", read_only=True) as cur:
            before = scan.segments(cur, EVENTS)
            small.copy(small.batch("events", "at", "id = 3"))
            assert scan.segments(cur, EVENTS) == before
        assert [(s.batch, s.state, s.rows) for s in before] == [(first, "done", 2)]
        assert before[0].min_age == datetime(2013, 1, 1, tzinfo=UTC)
        small.destination.forget(0, [])
        with transaction(conn, read_only=True) as cur:
            assert [s.state for s in scan.segments(cur, EVENTS)] == ["forgotten", "copied"]
            assert scan.segments(cur, TableName("public", "other")) == []


def test_columns_and_ages_are_pushed_down_and_both_ends_are_included(small: Bench) -> None:
    small.move("events", "at")
    segment = small.archive.segments()[0]
    scan = small.archive.scan()
    low, high = datetime(2013, 2, 1, tzinfo=UTC), datetime(2013, 3, 1, tzinfo=UTC)

    def read(columns: list[str], low: datetime | None = None, high: datetime | None = None) -> list[Any]:
        with scan.open(str(segment.id)) as content:
            return list(content.batches(columns, low, high))

    batches = read(["what", "id"], low, high)
    assert [b.schema.names for b in batches] == [["what", "id"]]
    assert batches[0].to_pylist() == [{"what": None, "id": 2}, {"what": "", "id": 3}]
    everything = read(["id"])
    assert sum(b.num_rows for b in everything) == 4
    last = datetime.max.replace(tzinfo=UTC)
    assert sum(b.num_rows for b in read(["id"], None, last)) == 4
    with pytest.raises(Failed, match="no column 'later'"):
        read(["later"])
    (small.tiers.store / segment.object_key).unlink()
    with pytest.raises(Failed, match="does not hold"):
        read(["id"])


def test_rows_are_counted_once_they_are_sealed(small: Bench) -> None:
    small.move("events", "at", "id <= 3")
    small.copy(small.batch("events", "at", "id = 4"))
    with closing(small.tiers.catalog.connect("test")) as conn:
        assert small.archive.rows_by_table(conn) == {EVENTS: 3}
