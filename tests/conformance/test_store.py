"""What every store must keep. A new implementation joins by one line in STORES."""

import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest

import bucket_server
import home_server
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.port import ObjectLocked, ObjectMissing, Store, put_object
from tierkeeper.objectstore.s3 import S3Store

STORES: dict[str, Callable[[Path], Store]] = {
    "directory": lambda folder: DirectoryStore(folder / "store"),
    "s3": lambda _: S3Store(bucket_server.bucket(), bucket_server.server()),
    "home": lambda _: home_server.shared().emptied().store("admin"),
}

DATA = bytes(range(256)) * 5_000
KEY = "segment/" + hashlib.sha256(DATA).hexdigest()
EMPTY = "segment/" + hashlib.sha256(b"").hexdigest()


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


def test_what_was_put_comes_back(store: Store) -> None:
    assert put_object(store, "segment", DATA) == KEY
    assert store.get(KEY) == DATA
    assert store.get(KEY, 10, 5) == DATA[10:15]
    assert store.get(KEY, len(DATA) - 3, 100) == DATA[-3:]
    assert store.get(KEY, len(DATA)) == b""
    with store.open(KEY) as file:
        file.seek(-4, io.SEEK_END)
        assert file.read() == DATA[-4:]
        file.seek(0)
        assert file.read(3) == DATA[:3]


def test_an_empty_object_is_an_object(store: Store) -> None:
    put_object(store, "segment", b"")
    assert store.get(EMPTY) == b""
    head = store.head(EMPTY)
    assert head is not None
    assert head.length_bytes == 0


def test_head_and_list_know_objects_only(store: Store) -> None:
    assert store.head(KEY) is None
    assert list(store.list("segment")) == []
    put_object(store, "segment", DATA)
    put_object(store, "segment", b"")
    assert [(o.key, o.length_bytes) for o in store.list("segment")] == sorted([(KEY, len(DATA)), (EMPTY, 0)])
    assert list(store.list("commit")) == []


def test_putting_the_same_again_succeeds_and_other_bytes_are_refused(store: Store) -> None:
    put_object(store, "segment", DATA)
    put_object(store, "segment", DATA)
    with pytest.raises(Failed):
        store.put(KEY, io.BytesIO(b"other"), length_bytes=5)
    assert store.get(KEY) == DATA


@pytest.mark.parametrize("length_bytes", [len(DATA) + 1, len(DATA) - 1, 0, len(DATA)])
@pytest.mark.parametrize("key", [KEY, "segment/" + "0" * 64])
def test_what_is_not_what_was_announced_is_not_kept(store: Store, key: str, length_bytes: int) -> None:
    if key == KEY and length_bytes == len(DATA):
        key = "manifest/" + "0" * 64
    with pytest.raises(Failed):
        store.put(key, io.BytesIO(DATA), length_bytes=length_bytes)
    assert store.head(key) is None
    assert list(store.list("segment")) == []


def test_missing_objects_are_missing(store: Store) -> None:
    for call in (store.open, store.get):
        with pytest.raises(ObjectMissing):
            call(KEY)
    with pytest.raises(ObjectMissing):
        store.lock(KEY, datetime.now(UTC))
    store.delete(KEY)


def test_delete_takes_away_and_the_key_is_free_again(store: Store) -> None:
    put_object(store, "segment", DATA)
    store.delete(KEY)
    assert store.head(KEY) is None
    put_object(store, "segment", DATA)
    assert store.get(KEY) == DATA


def test_a_lock_keeps_an_object_until_its_time_and_never_gets_shorter(store: Store) -> None:
    put_object(store, "segment", DATA)
    later = datetime.now(UTC) + timedelta(days=1)
    store.lock(KEY, later)
    store.lock(KEY, later - timedelta(hours=5))
    head = store.head(KEY)
    assert head is not None
    assert head.locked_until == later
    with pytest.raises(ObjectLocked):
        store.delete(KEY)
    assert store.get(KEY) == DATA


def test_a_lock_that_has_run_out_holds_nothing(store: Store) -> None:
    put_object(store, "segment", DATA)
    store.lock(KEY, datetime.now(UTC) - timedelta(seconds=1))
    store.delete(KEY)
    assert store.head(KEY) is None


BAD_KEYS = [
    "segment/../../etc/passwd",
    "segment/" + "g" * 64,
    "segment/" + "A" * 64,
    "segment/" + "0" * 63,
    "segment/" + "0" * 64 + "\n",
    "other/" + "0" * 64,
    "/segment/" + "0" * 64,
    "segment/" + "٠" * 64,
    "",
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_are_kinds_and_hex_and_nothing_else(store: Store, key: str) -> None:
    for call in (store.open, store.get, store.head, store.delete):
        with pytest.raises(UsageError):
            call(key)
    with pytest.raises(UsageError):
        store.put(key, io.BytesIO(), length_bytes=0)


def test_a_crash_before_the_object_has_its_name_leaves_none(store: Store) -> None:
    class Crash(BaseException):
        pass

    def hook(point: Point) -> None:
        if point is Point.OBJECT_BEFORE_RENAME:
            raise Crash

    faults.arm(hook)
    try:
        with pytest.raises(Crash):
            put_object(store, "segment", DATA)
    finally:
        faults.disarm()
    assert store.head(KEY) is None
    assert list(store.list("segment")) == []
    put_object(store, "segment", DATA)
    assert store.get(KEY) == DATA


def test_puts_of_one_object_at_once_leave_it_whole(store: Store) -> None:
    start, failed = Barrier(4), list[BaseException]()

    def put() -> None:
        start.wait()
        try:
            put_object(store, "segment", DATA)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert store.get(KEY) == DATA
    assert [o.key for o in store.list("segment")] == [KEY]


def test_probing_leaves_nothing(store: Store) -> None:
    assert store.probe()
    put_object(store, "segment", DATA)
    assert store.probe()
    assert [o.key for kind in ("segment", "manifest", "key", "commit") for o in store.list(kind)] == [KEY]  # type: ignore[arg-type]
