"""`archive verify` finds what is wrong, wherever it lies, and says where."""

import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from archive_bench import Bench
from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.service import Archive
from tierkeeper.archive.verify import check
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.stop import TIME_LIMIT
from tierkeeper.kernel.tables import TableName


def flip(path: Path, at: int) -> None:
    """Flips one bit of the byte at `at`; again, and it is as it was."""
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 1]), at)
    os.close(fd)


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.long)])
def test_every_flipped_byte_of_every_object_is_found(small: Bench, every: int) -> None:
    """Every fifth on every day, and all of the headers and the ends."""
    small.move("events", "at")
    segment = Catalog(small.tiers.catalog).segments()[0]
    check(small.store, lambda: small.keys, segment)
    for key in (segment.object_key, segment.manifest_key, segment.key_object, segment.commit_object):
        path = small.tiers.store / key
        unfound = []
        size = path.stat().st_size
        for at in sorted({*range(0, size, every), *range(min(64, size)), *range(max(0, size - 64), size)}):
            flip(path, at)
            try:
                check(small.store, lambda: small.keys, segment)
            except Failed:
                pass
            else:
                unfound.append(at)
            flip(path, at)
        assert unfound == [], key
    check(small.store, lambda: small.keys, segment)


def test_damage_and_loss_are_told_apart_and_the_rest_goes_on(small: Bench) -> None:
    for n in (1, 2, 3):
        small.move("events", "at", f"id = {n}")
    one, two, three = Catalog(small.tiers.catalog).segments()
    flip(small.tiers.store / one.object_key, 100)
    (small.tiers.store / two.object_key).unlink()
    result = small.archive.verify()
    assert (result.checked, result.ok) == (3, False)
    assert [d.split(":")[0] for d in result.damaged] == [str(one.id)]
    assert [m.split(":")[0] for m in result.missing] == [str(two.id)]
    verified = [s.verified_at is not None for s in Catalog(small.tiers.catalog).segments()]
    assert verified == [False, False, True]
    assert small.archive.verify(str(three.id)).ok


@pytest.mark.parametrize("kind", ["manifest", "key", "commit"])
def test_a_missing_document_is_missing(small: Bench, kind: str) -> None:
    small.move("events", "at")
    (path,) = (small.tiers.store / kind).iterdir()
    path.unlink()
    result = small.archive.verify()
    assert len(result.missing) == 1
    assert kind in result.missing[0]


def test_swapped_and_cut_segments_are_found(small: Bench) -> None:
    small.move("events", "at", "id = 1")
    small.move("events", "at", "id = 2")
    one, two = (small.tiers.store / s.object_key for s in Catalog(small.tiers.catalog).segments())
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert len(small.archive.verify().damaged) == 2
    one.write_bytes(first)
    two.write_bytes(second)
    assert small.archive.verify().ok
    for length in (0, 4, len(first) // 2, len(first) - 1):
        os.truncate(one, length)
        assert len(small.archive.verify().damaged) == 1
        one.write_bytes(first)


def test_a_row_taken_out_of_the_catalog_breaks_the_chain(small: Bench) -> None:
    for n in (1, 2, 3):
        small.move("events", "at", f"id = {n}")
    _, two, three = Catalog(small.tiers.catalog).segments()
    with small.tiers.catalog.connect("test") as conn:
        conn.execute("DELETE FROM tierkeeper.segment WHERE id = %s", [two.id])
    conn.close()
    result = small.archive.verify()
    assert [d.split(":")[0] for d in result.damaged] == [str(three.id), two.commit_object]


def test_a_changed_catalog_row_is_found(small: Bench) -> None:
    small.move("events", "at")
    with small.tiers.catalog.connect("test") as conn:
        conn.execute("UPDATE tierkeeper.segment SET max_age = max_age - interval '1 day'")
    conn.close()
    assert "other things than the catalog" in small.archive.verify().damaged[0]


def test_the_wrong_key_opens_nothing_and_the_recovery_key_all(small: Bench) -> None:
    small.move("events", "at")
    other, _ = KeyRing.create(small.tiers.home / "other", {})
    with_other = Archive(small.store, small.tiers.catalog, lambda: other, SystemClock(), source_marker=lambda _: "open")
    for read in (with_other.verify, lambda: with_other.restore(TableName("public", "events"), to="x", target=small.tiers.main)):
        with pytest.raises(UsageError, match="was written with key"):  # a mistake, and not damage
            read()
    recovery = KeyRing.parse((small.tiers.home / ".config/tierkeeper/archive-recovery.key").read_text(), "test")
    with_recovery = Archive(small.store, small.tiers.catalog, lambda: recovery, SystemClock(), source_marker=lambda _: "open")
    assert with_recovery.verify().ok


def test_an_unknown_segment_is_a_usage_error(small: Bench) -> None:
    for name in ("nonsense", "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(UsageError, match="no such segment"):
            small.archive.verify(name)


def test_the_store_holds_no_word_of_the_rows(small: Bench) -> None:
    """I6."""
    small.main.execute("UPDATE events SET what = repeat('plainword', 50)")
    small.move("events", "at")
    for path in (p for p in small.tiers.store.rglob("*") if p.is_file()):
        data = path.read_bytes()
        assert b"plainword" not in data
        assert b"events" not in data
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_newest_row_taken_out_of_the_catalog_is_missed(small: Bench) -> None:
    small.move("events", "at", "id = 1")
    small.move("events", "at", "id = 2")
    _, newest = small.archive.segments()
    with small.tiers.catalog.connect("test") as conn:
        conn.execute("DELETE FROM tierkeeper.segment WHERE id = %s", [newest.id])
    conn.close()
    result = small.archive.verify()
    assert sorted(d.split(":")[0] for d in result.damaged) == [newest.commit_object, f"manifest {newest.manifest}"]


def test_a_catalog_that_was_put_back_misses_what_the_store_has(small: Bench) -> None:
    small.move("events", "at", "id = 1")
    with small.tiers.catalog.connect("test") as conn:
        conn.execute("CREATE TABLE chain_of_yesterday AS TABLE tierkeeper.chain")
        small.move("events", "at", "id = 2")
        newest = small.archive.segments()[-1]
        conn.execute("DELETE FROM tierkeeper.segment WHERE id = %s", [newest.id])
        conn.execute("UPDATE tierkeeper.chain SET (position, manifest) = (SELECT position, manifest FROM chain_of_yesterday)")
    conn.close()
    assert [d.split(":")[0] for d in small.archive.verify().damaged] == [newest.commit_object]


def test_a_segment_declared_undone_is_missed(small: Bench) -> None:
    small.move("events", "at")
    (segment,) = small.archive.segments()
    with small.tiers.catalog.connect("test") as conn:
        conn.execute("UPDATE tierkeeper.segment SET state = 'undone'")
    conn.close()
    assert [d.split(":")[0] for d in small.archive.verify().damaged] == [segment.commit_object]


def test_a_copy_that_is_taken_back_meanwhile_is_no_damage(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = small.batch("events", "at", "id = 2")
    small.copy(batch)
    get = small.store.get

    def undo_then_get(key: str) -> bytes:
        small.destination.undo(batch.id)
        return get(key)

    monkeypatch.setattr(small.store, "get", undo_then_get)
    result = small.archive.verify()
    assert (result.ok, result.missing) == (True, [])


def test_a_reading_that_had_to_end_is_gone_on_with(small: Bench) -> None:
    for n in (1, 2, 3, 4):
        small.move("events", "at", f"id = {n}")
    began = datetime.now(UTC)

    def after(segments: int) -> Stop:
        asked = itertools.count()
        return lambda: TIME_LIMIT if next(asked) >= segments else None

    first = small.archive.verify(stop=after(1))
    assert (first.segments, first.checked, first.ok, first.stopped_because) == (4, 1, True, TIME_LIMIT)
    assert [one.segments for one in first.left] == [3]
    second = small.archive.verify(read_before=began, stop=after(1 + 2))  # the one that was read is only looked for
    assert (second.checked, [one.segments for one in second.left]) == (2, [1])
    last = small.archive.verify(read_before=began)
    assert (last.checked, last.left, last.stopped_because, last.unread) == (1, [], None, 0)
    # Where all are wanted, those that were read longest ago come first, wherever in the chain they are.
    small.archive.verify(str(Catalog(small.tiers.catalog).segments()[0].id))
    turns = sorted(Catalog(small.tiers.catalog).segments(), key=lambda s: s.verified_at or began)
    small.archive.verify(stop=after(1))
    again = max(Catalog(small.tiers.catalog).segments(), key=lambda s: s.verified_at or began)
    assert again.id == turns[0].id


def test_what_was_read_before_an_interruption_stays_read(small: Bench) -> None:
    for n in (1, 2):
        small.move("events", "at", f"id = {n}")
    asked = itertools.count()

    def interrupted() -> str | None:
        if next(asked) == 1:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        small.archive.verify(stop=interrupted)
    assert sorted(s.verified_at is not None for s in Catalog(small.tiers.catalog).segments()) == [False, True]
