"""`keys rotate`: every data key wrapped anew, no segment rewritten, and nothing that a kill could lose."""

import json
import os
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pyrage
import pytest

import processes
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.port import split_key
from vault import EVENTS, House, day

KEYS = Path(".config") / "tierkeeper"
POINTS: Sequence[Point] = (Point.KEY_ROTATED, Point.OBJECT_BEFORE_RENAME, Point.KEY_REWRAPPED, Point.KEY_REPLACED)


def objects(house: House, kind: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (house.tiers.store / kind).iterdir()}


def ring(house: House) -> KeyRing:
    return KeyRing.open(house.tiers.home / KEYS, {})


def test_the_new_key_opens_everything_and_the_old_one_no_data(filled: House) -> None:
    old, before = ring(filled), {kind: objects(filled, kind) for kind in ("segment", "manifest", "commit", "key")}
    result = filled.keeper.keys_rotate()
    assert (result.ok, result.new_key, result.segments, result.waiting, result.left) == (True, True, 2, 0, 0)
    new = ring(filled)
    assert (new.key_id, new.recipient_id) == (old.key_id, result.recipient)
    assert new.recipient_id != old.recipient_id
    for kind in ("segment", "manifest", "commit"):
        assert objects(filled, kind) == before[kind], "nothing was rewritten"
    keys = objects(filled, "key")
    assert len(keys) == 2
    assert not keys.keys() & before["key"].keys()
    for sealed in keys.values():
        assert new.alone().unseal("key", sealed, "test")["number"] == 2
        with pytest.raises(Exception, match="cannot be decrypted"):
            old.unseal("key", sealed, "test")
    verified = filled.keeper.archive_verify()
    assert (verified.ok, verified.strays) == (True, [])
    assert filled.archive(13) == 0
    assert filled.keeper.archive_verify().ok
    assert {row["id"] for row in filled.keeper.query("SELECT id FROM public.events").to_pylist()} == filled.everything


def test_the_kit_of_before_still_opens_everything(filled: House, tmp_path: Path) -> None:
    kit = tmp_path / "kit.txt"
    filled.keeper.keys_kit(to=kit)
    filled.keeper.keys_rotate()
    assert filled.archive(13) == 0
    assert filled.keeper.archive_drill(recovery=kit).ok


def test_a_lost_catalog_comes_back_with_the_keys_that_count(filled: House) -> None:
    """Also where the old wrappings are still in the store."""
    assert rotate(filled, die_at=Point.KEY_REPLACED) < 0
    before, chain = filled.segments(), filled.chain()
    filled.lose_the_catalog()
    assert filled.keeper.archive_rebuild().ok
    assert (filled.segments(), filled.chain()) == (before, chain)
    assert filled.keeper.keys_rotate().segments == 1
    assert filled.keeper.archive_verify().ok


def rotate(house: House, die_at: Point | None = None) -> int:
    return processes.command(["keys", "rotate", "--json"], house.tiers.environment, die_at=die_at).returncode


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=pytest.mark.long) if p is Point.OBJECT_BEFORE_RENAME else p for p in POINTS]
)
def test_a_kill_at_any_step_is_gone_on_with(filled: House, point: Point) -> None:
    old = ring(filled)
    assert rotate(filled, die_at=point) < 0
    assert ring(filled).recipient_id != old.recipient_id
    assert filled.keeper.archive_verify().ok
    assert {row["id"] for row in filled.keeper.query("SELECT id FROM public.events").to_pylist()} == filled.everything
    assert "run `tierkeeper keys rotate` to go on" in " ".join(filled.keeper.keys_status().notes)
    result = filled.keeper.keys_rotate()
    assert (result.ok, result.new_key) == (True, False)
    verified = filled.keeper.archive_verify()
    assert verified.ok
    assert len(verified.strays) == (1 if point is Point.KEY_REWRAPPED else 0)
    new = ring(filled).alone()
    with closing(filled.tiers.catalog.connect("test")) as conn:
        for (key,) in conn.execute("SELECT key_object FROM tierkeeper.segment").fetchall():
            new.unseal("key", (filled.tiers.store / key).read_bytes(), "test")


def test_an_erase_destroys_wrapped_keys_that_the_catalog_does_not_know(filled: House) -> None:
    """Of a rotation that was killed, and of one whose old keys were not deleted yet when the catalog was lost."""
    held = filled.segments()
    assert rotate(filled, die_at=Point.KEY_REWRAPPED) < 0
    old = ring(filled).previous[0]
    assert rotate(filled, die_at=Point.KEY_REPLACED) < 0
    filled.lose_the_catalog()
    assert filled.keeper.archive_rebuild().ok
    assert len(objects(filled, "key")) == 4
    result = filled.keeper.keys_rotate()
    assert (result.ok, result.segments, len(objects(filled, "key"))) == (True, 1, 2)
    for sealed in objects(filled, "key").values():
        with pytest.raises(pyrage.DecryptError):
            pyrage.decrypt(sealed, [old])
    assert rotate(filled, die_at=Point.KEY_REWRAPPED) < 0
    assert filled.keeper.keys_rotate().ok
    assert len(objects(filled, "key")) == 3
    assert filled.keeper.archive_erase(EVENTS, where="true").ok
    opened = {ring(filled).unseal("key", sealed, "test")["segment"] for sealed in objects(filled, "key").values()}
    assert not opened & {str(segment["id"]) for segment in held}


def test_a_wrapping_that_the_store_keeps_wrongly_is_not_pointed_to(filled: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before, get = objects(filled, "key"), DirectoryStore.get

    def forgetful(store: DirectoryStore, key: str, offset: int = 0, length_bytes: int | None = None) -> bytes:
        data = get(store, key, offset, length_bytes)
        kind, name = split_key(key)
        return data[:-1] + bytes([data[-1] ^ 1]) if kind == "key" and name not in before else data

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "get", forgetful)
        with pytest.raises(Failed, match="cannot be decrypted"):
            filled.keeper.keys_rotate()
    with closing(filled.tiers.catalog.connect("test")) as conn:
        pointed = {key for (key,) in conn.execute("SELECT key_object FROM tierkeeper.segment").fetchall()}
    assert pointed == {f"key/{name}" for name in before}
    assert filled.keeper.archive_verify().ok
    assert filled.keeper.keys_rotate().ok


def test_each_rotation_has_the_keys_before_it_and_the_file_stays_private(filled: House) -> None:
    first = filled.keeper.keys_rotate().recipient
    second = filled.keeper.keys_rotate().recipient
    assert first != second
    path = filled.tiers.home / KEYS / "archive.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(ring(filled).previous) == 2
    assert sorted(p.name for p in path.parent.glob("*key*")) == ["archive-recovery.key", "archive.key"]
    assert filled.keeper.archive_verify().ok


def test_what_else_waits_for_its_readers_is_no_rotation(filled: House) -> None:
    """A segment's file that outlives its readers must not keep a leaked key in use."""
    filled.keeper.archive_erase(EVENTS, where="id % 2 = 0")
    assert len(filled.keeper.archive.segments(EVENTS)) == 2
    old = ring(filled).recipient_id
    result = filled.keeper.keys_rotate(reencrypt=True)
    assert (result.new_key, result.rewritten) == (True, 2)
    assert ring(filled).recipient_id != old


def test_a_machine_with_the_key_of_before_is_told_so_and_no_segment_is_called_damaged(filled: House) -> None:
    old = (filled.tiers.home / KEYS / "archive.key").read_text()
    filled.keeper.keys_rotate()
    elsewhere = {**filled.tiers.environment, "TIERKEEPER_KEY": old}
    keeper = open_keeper(load(filled.config, {}, filled.tiers.home), environment=elsewhere)
    status = keeper.keys_status()
    assert (status.ok, "does not open" in "; ".join(status.notes)) == (False, True)
    for asked in (keeper.archive_verify, keeper.keys_rotate):
        with pytest.raises(UsageError, match="2 segments were wrapped to a newer operational key") as told:
            asked()
        assert "Copy archive.key" in told.value.remedy
        assert "recovery kit" in told.value.remedy
    with_the_kit = {**elsewhere, "TIERKEEPER_KEY": (filled.tiers.home / KEYS / "archive-recovery.key").read_text()}
    assert open_keeper(load(filled.config, {}, filled.tiers.home), environment=with_the_kit).archive_verify().ok
    assert filled.keeper.archive_verify().ok


def test_a_key_from_elsewhere_is_not_rotated(filled: House) -> None:
    text = (filled.tiers.home / KEYS / "archive.key").read_text()
    environment = {**filled.tiers.environment, "TIERKEEPER_KEY": text}
    os.unlink(filled.tiers.home / KEYS / "archive.key")  # noqa: PTH108
    keeper = open_keeper(load(filled.config, {}, filled.tiers.home), environment=environment)
    with pytest.raises(UsageError, match="does not come from this file"):
        keeper.keys_rotate()
    recovery = (filled.tiers.home / KEYS / "archive-recovery.key").read_text()
    keeper = open_keeper(load(filled.config, {}, filled.tiers.home), environment={**environment, "TIERKEEPER_KEY": recovery})
    with pytest.raises(UsageError, match="does not come from this file"):
        keeper.keys_rotate()
    ended = processes.command(["keys", "rotate", "--json"], environment)
    assert (ended.returncode, json.loads(ended.stdout)["error"]["place"].endswith("archive.key")) == (2, True)


def test_a_run_beside_a_rotation_loses_nothing(filled: House) -> None:
    failed = list[BaseException]()

    def archive() -> None:
        try:
            for number in (11, 13):
                filled.keeper.move(EVENTS, "main", "archive", before=day(number))
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    thread = threading.Thread(target=archive)
    thread.start()
    filled.keeper.keys_rotate()
    thread.join()
    assert failed == []
    while not filled.keeper.keys_rotate().ok:
        pass
    assert filled.keeper.archive_verify().ok
    assert {row["id"] for row in filled.keeper.query("SELECT id FROM public.events").to_pylist()} == filled.everything


@pytest.mark.parametrize("die_at", [None, Point.REPLACED, pytest.param(Point.REPLACEMENT_SAID, marks=pytest.mark.long)])
def test_a_leaked_key_opens_nothing_of_the_files_that_were_written_anew(filled: House, die_at: Point | None) -> None:
    settle = "UPDATE tierkeeper.ledger SET state = 'forgotten' WHERE state = 'done'"
    with closing(filled.tiers.catalog.connect("test")) as conn:
        conn.execute(settle)
    leaked, before = ring(filled), {kind: objects(filled, kind) for kind in ("segment", "key")}
    if die_at is not None:
        ended = processes.command(["keys", "rotate", "--reencrypt", "--json"], filled.tiers.environment, die_at=die_at)
        assert ended.returncode < 0
        assert {row["id"] for row in filled.keeper.query("SELECT id FROM public.events").to_pylist()} == filled.everything
    result = filled.keeper.keys_rotate(reencrypt=True)
    assert (result.ok, result.segments, result.rewritten, result.left) == (True, 0, 2 if die_at is None else 1, 0)
    for kind, old in before.items():
        assert not objects(filled, kind).keys() & old.keys()
    for sealed in objects(filled, "key").values():
        assert ring(filled).alone().unseal("key", sealed, "test")["number"] == 1, "it was never wrapped to another key"
        with pytest.raises(Exception, match="cannot be decrypted"):
            leaked.unseal("key", sealed, "test")
    assert filled.keeper.archive_verify().ok
    filled.nothing_is_lost_or_doubled()
    filled.lose_the_catalog()
    assert filled.keeper.archive_rebuild().ok
    filled.nothing_is_lost_or_doubled()
