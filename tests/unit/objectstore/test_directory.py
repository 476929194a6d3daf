"""What only a folder can do wrong: its modes, its leftovers, its disk."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.objectstore import directory
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.port import ObjectLocked, ObjectMissing, put_object

X = b"x" * 100
KEY = "segment/" + hashlib.sha256(X).hexdigest()


def test_files_are_600_in_folders_700(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        put_object(DirectoryStore(tmp_path / "store"), "segment", X)
    finally:
        os.umask(previous)
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


KILLED = """
import os, sys
from pathlib import Path
from tierkeeper.kernel import faults
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.port import put_object
faults.arm(lambda point: os.kill(os.getpid(), 9))
put_object(DirectoryStore(Path(sys.argv[1])), "segment", b"x" * 100)
"""


def test_what_a_killed_put_left_is_swept_and_a_live_put_is_not(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -9
    incoming = tmp_path / "incoming"
    assert len(list(incoming.iterdir())) == 1
    assert store.head(KEY) is None

    class Slow:
        """While it is read, another put comes, sweeps, and ends."""

        def __init__(self) -> None:
            self.left = [X, b""]

        def read(self, size: int) -> bytes:
            put_object(store, "segment", b"quick")
            return self.left.pop(0)[:size]

    store.put(KEY, Slow(), length_bytes=100)  # type: ignore[arg-type]
    assert store.get(KEY) == X
    assert list(incoming.iterdir()) == []


@pytest.mark.parametrize("refuses", [False, True])
def test_what_is_written_begins_its_way_to_the_disk_before_all_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    """And what cannot begin sooner waits for the end, and is no error."""
    data, steps = os.urandom(2 * directory.SYNC_BYTES + 5_000_000), list[tuple[str, int, int]]()
    fsync = os.fsync

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        steps.append(("begun", offset, length))
        assert os.fstat(fd).st_size >= offset + length
        if refuses:
            raise OSError(errno.EINVAL, "no such advice here")

    def syncing(fd: int) -> None:
        steps.append(("synced", 0, os.fstat(fd).st_size))
        fsync(fd)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(os, "fsync", syncing)
    store = DirectoryStore(tmp_path / "store")
    key = put_object(store, "segment", data)
    at = directory.SYNC_BYTES
    written = [step for step in steps if step[0] == "begun" or step[2] == len(data)]
    assert written == [("begun", 0, at), ("begun", at, at), ("synced", 0, len(data)), ("begun", 0, 0)]
    assert store.get(key) == data


CAUSES: list[tuple[int, tuple[type[TierkeeperError], str]]] = [
    (errno.ENOSPC, (NotNow, "Make room")),
    (errno.EDQUOT, (NotNow, "Make room")),
    (errno.EACCES, (Failed, "writable folder")),
    (errno.EROFS, (Failed, "writable folder")),
    (errno.EIO, (Failed, "reports damage")),
    (errno.EOPNOTSUPP, (Failed, "hard links")),
]


@pytest.mark.parametrize(("number", "told"), CAUSES)
@pytest.mark.parametrize("call", ["fsync", "link", "open"])
def test_every_cause_names_the_store_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, told: tuple[type[TierkeeperError], str]
) -> None:
    kind, remedy = told
    store = DirectoryStore(tmp_path)
    put_object(store, "segment", b"")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"tierkeeper.objectstore.directory.os.{call}", fail)
        with pytest.raises(TierkeeperError) as caught:
            put_object(store, "segment", X)
    assert type(caught.value) is kind
    assert caught.value.place == f"store {tmp_path}"
    assert remedy in caught.value.remedy
    assert store.head(KEY) is None
    put_object(store, "segment", X)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        store = DirectoryStore(tmp_path)
        small = put_object(store, "segment", b"small")
        with pytest.raises(NotNow, match="No space left"):
            put_object(store, "segment", b"x" * 1_000_000)
        assert list((tmp_path / "incoming").iterdir()) == []
        assert store.get(small) == b"small"
        put_object(store, "segment", X)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_strangers_files_are_no_objects(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    put_object(store, "segment", X)
    (tmp_path / "segment" / "lost+found").mkdir()
    (tmp_path / "segment" / "notes.txt").write_text("hello")
    assert [o.key for o in store.list("segment")] == [KEY]


def test_an_unreadable_lock_locks(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    put_object(store, "segment", X)
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / KEY.replace("/", "-")).write_text("gibberish")
    with pytest.raises(Failed, match="locked until"):
        store.delete(KEY)


NOW = datetime.now(UTC)
FAR = NOW + timedelta(days=1000)


def beside(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object], times: int = 1) -> Thread:
    """`act` in a thread, once the store has called its own `name` so many times; that call waits a little for `act` to end."""
    called, original, calls = Event(), getattr(DirectoryStore, name), list[object]()

    def wait_and_act() -> None:
        called.wait(10)
        with suppress(ObjectMissing):
            act()

    thread = Thread(target=wait_and_act)
    thread.start()

    def slowly(*args: Any, **more: Any) -> Any:
        result = original(*args, **more)
        calls.append(result)
        if len(calls) == times:
            called.set()
            thread.join(0.3)
        return result

    monkeypatch.setattr(DirectoryStore, name, slowly)
    return thread


def test_of_two_locks_at_once_the_longer_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    put_object(store, "segment", X)
    longer = beside(monkeypatch, "_locked_until", lambda: DirectoryStore(tmp_path).lock(KEY, FAR), times=2)
    store.lock(KEY, NOW + timedelta(days=1))
    longer.join()
    assert store._locked_until(KEY) == FAR


@pytest.mark.parametrize("step", ["_locked_until", "_path"])
def test_a_lock_amid_a_deletion_finds_nothing_or_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    store, held = DirectoryStore(tmp_path), list[bool]()
    put_object(store, "segment", X)

    def lock() -> None:
        DirectoryStore(tmp_path).lock(KEY, FAR)
        held.append(True)

    locking = beside(monkeypatch, step, lock)
    with suppress(ObjectLocked):
        store.delete(KEY)
    locking.join()
    assert (store.head(KEY) is not None) == bool(held)


def test_an_object_that_comes_back_amid_its_deletion_keeps_its_new_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, again = DirectoryStore(tmp_path), DirectoryStore(tmp_path)
    put_object(store, "segment", X)
    store.lock(KEY, NOW - timedelta(days=1))

    def put_and_lock() -> None:
        put_object(again, "segment", X)
        again.lock(KEY, FAR)

    unlink, gone = Path.unlink, list[Thread]()

    def unlink_and_wait(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path == tmp_path / KEY and not gone:
            gone.append(Thread(target=put_and_lock))
            gone[0].start()
            gone[0].join(0.3)

    monkeypatch.setattr(Path, "unlink", unlink_and_wait)
    store.delete(KEY)
    gone[0].join()
    assert store._locked_until(KEY) == FAR


@pytest.mark.parametrize("text", ["", "tomorrow", "2020-01-01T00:00:00", "\xff"])
def test_a_lock_that_cannot_be_read_holds(tmp_path: Path, text: str) -> None:
    store = DirectoryStore(tmp_path)
    put_object(store, "segment", X)
    store.lock(KEY, NOW)
    store._lock_path(KEY).write_bytes(text.encode("latin-1"))
    with pytest.raises(ObjectLocked):
        store.delete(KEY)
    assert store.get(KEY) == X


def test_a_lock_that_was_not_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    put_object(store, "segment", X)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("tierkeeper.objectstore.directory.os.fsync", full)
        with pytest.raises(NotNow):
            store.lock(KEY, FAR)
    assert list((tmp_path / "incoming").iterdir()) == []
    assert store._locked_until(KEY) is None
