"""The power goes, on a real ext4: what the server acknowledged is on the disk, and so is all that it remembers of it."""

import fcntl
import hashlib
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from home_server import HomeServer
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.limits import STORE_PART_BYTES
from tierkeeper.objectstore import home
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.port import put_object

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN of linux/fs/ext4
NO_LOG_FLUSH = 2  # what is not on the disk by now never comes there
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")


class Disk:
    """An ext4 in a file, whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.image, self.mounted_at = folder / "disk.img", folder / "home"
        self.mounted_at.mkdir()
        self.unsynced = self.mounted_at / "never-synced"
        with self.image.open("wb") as file:
            file.truncate(200 * 2**20)
        made = subprocess.run(["mkfs.ext4", "-q", str(self.image)], check=False, capture_output=True, stdin=subprocess.DEVNULL)
        if made.returncode or not self.mount():
            pytest.skip("this machine lets nobody mount an ext4 of their own")

    def mount(self) -> bool:
        command = ["mount", "-o", "loop", str(self.image), str(self.mounted_at)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.mounted_at)], check=True)

    def restart(self) -> None:
        """The power is cut, unless it was before, and comes back."""
        self.cut()
        self.unmount()
        assert self.mount()

    def cut(self) -> None:
        with suppress(OSError):
            self.unsynced.write_text("x")
        fd = os.open(self.mounted_at, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.unmount()


@pytest.mark.parametrize("last", ["put", "lock", "delete"])
def test_a_folder_alone_keeps_its_word_too(disk: Disk, last: str) -> None:
    """Whatever it did last: what comes after it would carry it to the disk."""
    store, end = DirectoryStore(disk.mounted_at / "store"), datetime(2040, 1, 1, tzinfo=UTC)
    first, data = put_object(store, "segment", b"first"), os.urandom(50_000)
    second = f"segment/{hashlib.sha256(data).hexdigest()}"
    if last == "put":
        put_object(store, "segment", data)
    elif last == "lock":
        store.lock(first, end)
    else:
        store.delete(first)
    disk.restart()
    assert not disk.unsynced.exists(), "the cut was one"
    assert {info.key: store.get(info.key) for info in store.list("segment")} == {
        **({first: b"first"} if last != "delete" else {}),
        **({second: data} if last == "put" else {}),
    }
    head = store.head(first)
    assert (head is not None and head.locked_until) == (end if last == "lock" else False if last == "delete" else None)


def test_what_was_acknowledged_survives_the_power(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "STORE_TRIES", 1)
    server = HomeServer(disk.mounted_at)
    server.start()
    acknowledged, stop = dict[str, bytes](), threading.Event()

    def put(size: int) -> None:
        store = server.store()
        while not stop.is_set():
            data = os.urandom(size)
            try:
                acknowledged[put_object(store, "segment", data)] = data
            except TierkeeperError:
                return

    server.token("writer")
    threads = [threading.Thread(target=put, args=(size,)) for size in (500, 50_000, STORE_PART_BYTES + 1)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 30:
        stop.wait(0.01)
    disk.cut()
    stop.set()
    for thread in threads:
        thread.join()
    server.kill()
    disk.restart()
    server.start()
    try:
        store = server.store()
        for key, data in acknowledged.items():
            assert store.get(key) == data
        for info in store.list("segment"):
            assert f"segment/{hashlib.sha256(store.get(info.key)).hexdigest()}" == info.key
        assert store.report().wrong == {}
        put_object(store, "segment", b"it goes on")
    finally:
        server.kill()
