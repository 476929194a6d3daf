"""A segment moves like a batch: states, retries, and what a crash between two durable steps leaves (I1, I3, I5)."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from archive_bench import Bench
from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.destination import ArchiveDestination
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel import faults
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import Failed, Fenced, NotNow, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName

EVENTS = TableName("public", "events")


class Crash(BaseException):
    """Stands in for kill -9: nothing in the program may catch it."""


@pytest.fixture
def crash_at() -> Iterator[list[Point]]:
    """Points at which the program dies."""
    points: list[Point] = []

    def hook(point: Point) -> None:
        if point in points:
            raise Crash(point)

    faults.arm(hook)
    yield points
    faults.disarm()


def objects(bench: Bench) -> dict[str, int]:
    return {kind: len(list(bench.store.list(kind))) for kind in ("segment", "key", "manifest", "commit")}


def test_a_batch_becomes_a_sealed_segment(small: Bench) -> None:
    batch = small.batch("events", "at", "at < '2014-01-01'")
    opened = small.destination.open(batch)
    assert (opened.state, opened.extent) == ("open", None)
    copied = small.copy(batch)
    assert (copied.state, copied.batch) == ("copied", batch)
    assert copied.extent is not None
    assert copied.extent.rows == 3
    assert [s.state for s in small.archive.list()] == ["copied"]
    assert objects(small) == {"segment": 1, "key": 1, "manifest": 1, "commit": 0}
    small.destination.finish(batch.id)
    small.destination.finish(batch.id)
    assert [s.state for s in small.archive.list()] == ["sealed"]
    assert objects(small)["commit"] == 1
    assert small.destination.knows(batch.id) == "done"
    assert small.destination.unsettled() == []
    detail = small.archive.show(small.archive.list()[0].segment)
    assert detail.columns == {"at": "timestamp with time zone", "id": "integer", "what": "text"}
    assert (detail.rows, detail.batch, detail.source) == (3, str(batch.id), "main")
    assert small.archive.segments_of([str(batch.id)]) == [detail.segment]


def test_copying_again_changes_nothing(small: Bench) -> None:
    batch = small.batch("events", "at")
    assert small.copy(batch).state == "copied"
    with small.snapshot(batch) as snapshot:
        assert small.destination.copy(batch, snapshot).state == "copied"
    assert objects(small)["segment"] == 1


def test_undo_takes_exactly_the_batch_away(small: Bench) -> None:
    kept, undone = small.batch("events", "at", "id <= 2"), small.batch("events", "at", "id > 2")
    small.copy(kept)
    small.copy(undone)
    assert [r.batch.id for r in small.destination.unsettled(EVENTS)] == [kept.id, undone.id]
    small.destination.undo(undone.id)
    small.destination.undo(undone.id)
    assert small.destination.knows(undone.id) == "undone"
    small.destination.finish(kept.id)
    assert [s.rows for s in small.archive.list()] == [2]
    assert objects(small) == {"segment": 1, "key": 1, "manifest": 2, "commit": 1}
    assert small.archive.verify().ok
    with small.snapshot(undone) as snapshot, pytest.raises(Fenced):
        small.destination.copy(undone, snapshot)
    with pytest.raises(Fenced):
        small.destination.undo(kept.id)
    with pytest.raises(Failed, match="does not say that it was copied"):
        small.destination.finish(undone.id)


def test_a_batch_rests_until_it_is_forgotten(small: Bench) -> None:
    assert small.destination.rests(EVENTS, 60) is None
    batch = small.move("events", "at")
    assert "1 batch done" in str(small.destination.rests(EVENTS, 60))
    assert small.destination.forget(60, [batch]) == []
    small.destination.forget(0, [batch])
    assert small.destination.knows(batch) == "forgotten"
    assert small.destination.forget(0, [batch, uuid4()]) == [batch]
    assert small.destination.rests(EVENTS, 60) is None
    assert small.destination.settled_for_readers([batch]) is None


BEFORE_COPIED = (
    Point.SEGMENT_WRITTEN,
    Point.SEGMENT_PUT,
    Point.OBJECT_BEFORE_RENAME,
    Point.MANIFEST_PUT,
    Point.COPY_BEFORE_COMMIT,
)


@pytest.mark.parametrize("point", BEFORE_COPIED)
def test_a_crash_before_copied_leaves_nothing_that_counts(small: Bench, crash_at: list[Point], point: Point) -> None:
    batch = small.batch("events", "at")
    crash_at.append(point)
    with pytest.raises(Crash):
        small.copy(batch)
    crash_at.clear()
    assert small.destination.knows(batch.id) == "open"
    assert small.archive.list() == []
    small.destination.undo(batch.id)
    again = small.batch("events", "at")
    small.copy(again)
    small.destination.finish(again.id)
    assert small.archive.verify().ok
    assert list((small.tiers.store / "incoming").iterdir()) == []


def test_a_crash_after_copied_is_found_copied(small: Bench, crash_at: list[Point]) -> None:
    batch = small.batch("events", "at")
    crash_at.append(Point.COPIED)
    with pytest.raises(Crash):
        small.copy(batch)
    crash_at.clear()
    assert [r.state for r in small.destination.unsettled()] == ["copied"]
    small.destination.finish(batch.id)
    assert small.archive.verify().ok


@pytest.mark.parametrize("point", [Point.DONE, Point.OBJECT_BEFORE_RENAME, Point.COMMIT_PUT])
def test_a_commit_object_that_a_crash_left_out_is_put_by_the_next_look(small: Bench, crash_at: list[Point], point: Point) -> None:
    batch = small.batch("events", "at")
    small.copy(batch)
    crash_at.append(point)
    with pytest.raises(Crash):
        small.destination.finish(batch.id)
    crash_at.clear()
    assert small.destination.knows(batch.id) == "done"
    assert objects(small)["commit"] == (1 if point is Point.COMMIT_PUT else 0)
    assert small.destination.unsettled() == []
    left = 1 if point is Point.COMMIT_PUT else 0
    assert objects(small)["commit"] == 1 + left
    found = small.archive.verify()
    assert (found.ok, len(found.strays)) == (True, left)


def test_rows_that_the_store_keeps_wrongly_are_never_copied(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3: the comparison reads what the store gives back, not what was sent."""
    put = small.store.put

    def lying_put(key: str, source: object, **said: object) -> None:
        put(key, source, **said)  # type: ignore[arg-type]
        if key.startswith("segment/"):
            path = small.tiers.store / key
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(small.store, "put", lying_put)
    batch = small.batch("events", "at")
    with pytest.raises(Failed, match="are not the"):
        small.copy(batch)
    assert small.destination.knows(batch.id) == "open"
    assert small.archive.list() == []
    assert objects(small)["segment"] == 0


def test_a_full_disk_under_the_store_changes_nothing(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tierkeeper.objectstore.directory.os.fsync", full)
    batch = small.batch("events", "at")
    with pytest.raises(NotNow, match=r"No space left on device\. Make room") as caught:
        small.copy(batch)
    assert caught.value.place == f"store {small.tiers.store}"
    assert small.destination.knows(batch.id) == "open"
    monkeypatch.undo()
    assert small.copy(batch).state == "copied"


def test_another_key_than_the_archives_is_refused(small: Bench) -> None:
    small.move("events", "at", "id = 1")
    other, _ = KeyRing.create(small.tiers.home / "other", {})
    destination = ArchiveDestination(small.store, small.tiers.catalog, lambda: other, SystemClock())
    with pytest.raises(UsageError, match="was written with key"):
        destination.open(small.batch("events", "at"))


def test_without_setup_the_error_says_so(small: Bench) -> None:
    destination = ArchiveDestination(small.store, small.tiers.core, lambda: small.keys, SystemClock())
    with pytest.raises(UsageError, match="setup --apply"):
        destination.unsettled()


def test_a_store_without_its_disk_is_not_begun_anew(small: Bench) -> None:
    """I1: an unmounted disk leaves an empty folder; what is written there would be hidden by the mount."""
    small.move("events", "at", "id = 1")
    copied = small.batch("events", "at", "id = 2")
    small.copy(copied)
    away = small.tiers.store.rename(small.tiers.store.with_name("away"))
    for mounted in (False, True):
        if mounted:
            small.tiers.store.mkdir()
        with pytest.raises(Failed, match="disk is mounted"):
            small.destination.open(small.batch("events", "at", "id = 3"))
        with pytest.raises(Failed, match="disk is mounted"):
            small.destination.finish(copied.id)
    assert list(small.tiers.store.iterdir()) == []
    small.tiers.store.rmdir()
    away.rename(small.tiers.store)
    assert small.destination.unsettled() == []
    assert small.archive.verify().ok
    assert objects(small)["commit"] == 2


@pytest.mark.parametrize("kind", ["segment", "key", "manifest"])
def test_an_object_that_finds_no_room_takes_the_others_along(small: Bench, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """I9: tries that a full disk ends must not fill it further."""
    put = small.store.put

    def no_room(key: str, source: object, **said: object) -> None:
        if key.startswith(kind):
            raise NotNow("store", "no room", "Make room")
        put(key, source, **said)  # type: ignore[arg-type]

    monkeypatch.setattr(small.store, "put", no_room)
    with pytest.raises(NotNow, match="no room"):
        small.copy(small.batch("events", "at"))
    assert sum(objects(small).values()) == 0


def test_what_a_writers_token_cannot_take_back_goes_when_somebody_comes_who_can(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: each try that fails would leave a whole segment in its quota for ever."""
    put = small.store.put

    def no_room(key: str, source: object, **said: object) -> None:
        if key.startswith("manifest"):
            raise NotNow("store", "no room", "Make room")
        put(key, source, **said)  # type: ignore[arg-type]

    def may_not(_: str) -> None:
        raise UsageError("store", "a writer's token may not delete", "Use another one")

    with monkeypatch.context() as patched:
        patched.setattr(small.store, "put", no_room)
        patched.setattr(small.store, "delete", may_not)
        with pytest.raises(NotNow, match="no room"):
            small.copy(small.batch("events", "at"))
        assert small.archive.sweep(0) == "a writer's token may not delete"
    small.move("events", "at")
    assert objects(small)["segment"] == 2
    assert Catalog(small.tiers.catalog).old_wrappings() == 0, "no rotation is under way"
    assert small.archive.sweep(0) is None
    assert objects(small)["segment"] == 1
    assert small.archive.verify().ok
