"""What somebody may do to the store and the catalog: each is found and named by `archive verify`."""

import secrets
import shutil
from contextlib import closing
from dataclasses import replace

import pytest

from archive_bench import Bench
from tierkeeper.archive.checkpoint import Checkpoints
from tierkeeper.archive.model import Commit
from tierkeeper.archive.service import Archive
from tierkeeper.archive.verify import Sample
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.objectstore.port import KINDS, put_object


@pytest.fixture
def watched(small: Bench) -> Bench:
    """The bench on a machine that remembers."""
    archive = Archive(
        small.store,
        small.tiers.catalog,
        lambda: small.keys,
        SystemClock(),
        source_marker=lambda _: "open",
        checkpoints=Checkpoints(small.tiers.home / "archive-checkpoint.json", small.store.name),
    )
    return replace(small, archive=archive)


def move(bench: Bench, ids: str) -> None:
    batch = bench.batch("events", "at", ids)
    with bench.archive.destination() as destination, bench.snapshot(batch) as snapshot:
        destination.open(batch)
        destination.copy(batch, snapshot)
        destination.finish(batch.id)


def put_back(bench: Bench) -> None:
    """The catalog as it was when there was one segment."""
    with closing(bench.tiers.catalog.connect("test")) as conn:
        conn.execute("DELETE FROM tierkeeper.segment WHERE position > 1")
        conn.execute("DELETE FROM tierkeeper.ledger AS l WHERE NOT EXISTS (SELECT FROM tierkeeper.segment WHERE batch = l.batch)")
        conn.execute("UPDATE tierkeeper.chain SET (position, manifest) = (SELECT position, manifest FROM tierkeeper.segment)")


def test_yesterdays_store_and_catalog_together_are_known_for_what_they_are(watched: Bench) -> None:
    """They agree with each other in everything: only what this machine remembers tells."""
    store, yesterday = watched.tiers.store, watched.tiers.home / "yesterday"
    move(watched, "id = 1")
    shutil.copytree(store, yesterday)
    move(watched, "id = 2")
    assert watched.archive.verify().ok
    shutil.rmtree(store)
    shutil.copytree(yesterday, store)
    assert len(watched.archive.verify().missing) == 1
    put_back(watched)
    result = watched.archive.verify()
    assert (result.ok, result.missing, len(result.damaged)) == (False, [], 1)
    assert "as number 2" in result.damaged[0]
    assert "the chain ends at number 1: an older state was put back" in result.damaged[0]
    with pytest.raises(Failed, match="an older state was put back"):
        move(watched, "id = 3")
    assert len(watched.archive.segments()) == 1
    (watched.tiers.home / "archive-checkpoint.json").unlink()
    assert watched.archive.verify().ok, "the user has said that it is meant to be so"
    move(watched, "id = 3")


def test_a_chain_that_forked_is_another_archive(watched: Bench) -> None:
    move(watched, "id = 1")
    move(watched, "id = 2")
    put_back(watched)
    for key in ("id = 3", "id = 4"):
        watched.move("events", "at", key)  # by a machine that does not remember
    assert "and number 2 is another" in watched.archive.verify().damaged[0]


def test_what_a_stolen_writers_token_can_put_is_found(small: Bench) -> None:
    """The thief has no key: nothing of this is signed by the archive."""
    small.move("events", "at", "id = 1")
    (segment,) = small.archive.segments()
    other, _ = KeyRing.create(small.tiers.home / "thief", {})
    forged = {
        kind: other.seal(kind, {"format": f"tierkeeper {kind}", "version": 1, "segment": str(segment.id)})
        for kind in KINDS
        if kind != "segment"
    }
    forged["segment"] = secrets.token_bytes(1000)
    for kind, data in forged.items():
        put_object(small.store, kind, data)
    result = small.archive.verify()
    assert not result.ok
    assert sorted(d.split("/")[0] for d in result.damaged) == ["commit", "key", "manifest"]
    assert all("this archive has not written it" in d for d in result.damaged)
    assert [s.split("/")[0] for s in result.strays] == ["segment"]


def test_a_commit_of_what_the_catalog_does_not_count_is_found(small: Bench) -> None:
    small.move("events", "at", "id = 1")
    (segment,) = small.archive.segments()
    body = Commit(segment=segment.id, batch=segment.batch, manifest="0" * 64).body()
    key = put_object(small.store, "commit", small.keys.seal("commit", body))
    assert small.archive.verify().damaged == [f"{key}: the store holds a segment that the catalog does not count"]


def test_what_an_interrupted_run_left_is_a_stray_and_no_damage(small: Bench) -> None:
    small.move("events", "at", "id = 1")
    sealed = small.keys.seal("key", {"format": "tierkeeper wrapped key", "version": 1})
    put_object(small.store, "key", sealed)
    result = small.archive.verify()
    assert result.ok
    assert [s.split("/")[0] for s in result.strays] == ["key"]


def test_samples_go_round_until_all_had_their_turn(small: Bench) -> None:
    for n in (1, 2, 3, 4):
        small.move("events", "at", f"id = {n}")
    read: list[set[str]] = []
    for unread in (2, 0, 0):
        before = {s.segment: s.verified_at for s in small.archive.list()}
        result = small.archive.verify(sample="2/4")
        assert (result.segments, result.checked, result.unread, result.ok) == (4, 2, unread, True)
        read.append({s.segment for s in small.archive.list() if s.verified_at != before[s.segment]})
    assert len(read[0]) == 2
    assert not read[0] & read[1]
    assert read[2] == read[0]


def test_what_is_gone_is_missed_though_it_was_not_its_turn(small: Bench) -> None:
    for n in (1, 2, 3):
        small.move("events", "at", f"id = {n}")
    one, _, three = small.archive.segments()
    assert small.archive.verify(str(one.id)).ok
    assert small.archive.verify(str(three.id)).ok
    (small.tiers.store / one.object_key).unlink()
    path = small.tiers.store / three.object_key
    path.write_bytes(path.read_bytes()[:-1])
    result = small.archive.verify(sample="1/3")
    assert (result.checked, [m.split(":")[0] for m in result.missing]) == (1, [str(one.id)])
    assert [d.split(":")[0] for d in result.damaged] == [str(three.id)]
    assert [s.verified_at is not None for s in small.archive.segments()] == [True, True, True]


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "1.5/3", "a/b", "¹/3"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--sample"):
        Sample.parse(text)


def test_nothing_is_written_beside_an_archive_that_the_catalog_has_lost(small: Bench) -> None:
    small.move("events", "at", "id = 1")
    with closing(small.tiers.catalog.connect("test")) as conn:
        conn.execute("TRUNCATE tierkeeper.segment, tierkeeper.ledger, tierkeeper.chain")
    with pytest.raises(Failed, match="the catalog knows none") as refused:
        small.move("events", "at", "id = 2")
    assert "archive rebuild" in refused.value.remedy


def test_a_machine_that_cannot_remember_archives_all_the_same(watched: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (watched.tiers.home / "archive-checkpoint.new").mkdir()
    move(watched, "id = 1")
    assert watched.archive.verify().ok
    assert "what was seen of the archive is not remembered" in "".join(capsys.readouterr())
