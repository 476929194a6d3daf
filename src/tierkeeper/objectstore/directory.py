"""A store in a folder: a disk of this machine, or one mounted into it.

It keeps the port's promises with POSIX alone: a temporary file, fsync, a hard link that cannot overwrite, fsync of the folder.
It must never hold a name that a reader could take for a finished object before its bytes are on the disk.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import COPY_BLOCK_BYTES, SYNC_BYTES
from tierkeeper.objectstore.port import (
    DAMAGED,
    Kind,
    NotAsAnnounced,
    ObjectExists,
    ObjectInfo,
    ObjectLocked,
    ObjectMissing,
    split_key,
)

_INCOMING: Final = "incoming"
_LOCKS: Final = "lock"
_TURN: Final = "turn"  # in their folder; no lock has such a name
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)  # a lock that cannot be read holds
_NO_LINKS = (errno.EOPNOTSUPP, errno.EMLINK)


class DirectoryStore:
    """`root/kind/hex`, files 600 in folders 700.

    An acknowledged object survives a power cut, an unacknowledged one is whole or absent, and no object is ever overwritten. A
    lock that was acknowledged holds until its end: none of its rivals makes it shorter, and no deletion has overlooked it.
    """

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        return f"store {self._root}"

    def probe(self) -> str:
        """See `Store.probe`."""
        with self._translated("write"):
            if not self._root.exists():
                return f"{self._root} does not exist and will be made"
            temporary, fd = _exclusive_file(self._root)
            linked = temporary.with_suffix(".probe")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(b"tierkeeper")
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, linked)
            finally:
                linked.unlink(missing_ok=True)
                temporary.unlink()
        return f"{self._root} can be written"

    def put(self, key: str, source: BinaryIO, *, length_bytes: int) -> None:
        """See `Store.put`."""
        _, sha256 = split_key(key)
        with self._translated(f"put {key}"):
            incoming = self._folder(_INCOMING)
            self._sweep(incoming)
            temporary, fd = _exclusive_file(incoming)
            try:
                with os.fdopen(fd, "wb") as file:
                    digest, received, begun = hashlib.sha256(), 0, 0
                    while block := source.read(COPY_BLOCK_BYTES):
                        file.write(block)
                        digest.update(block)
                        received += len(block)
                        if received - begun >= SYNC_BYTES:
                            _leave_memory(fd, begun, received)
                            begun = received
                    self._require(key, (received, digest.hexdigest()), (length_bytes, sha256))
                    file.flush()
                    self._publish(key, temporary, file, length_bytes)
            finally:
                # A rival's sweep may have been quicker; an object that is linked loses nothing by it.
                temporary.unlink(missing_ok=True)

    def adopt(self, key: str, path: Path, length_bytes: int) -> bool:
        """As `put`, of a file that lies in this file system, which loses that name if it is what was announced.

        Whether the object was not there before.
        """
        _, sha256 = split_key(key)
        with self._translated(f"put {key}"), path.open("rb") as file:
            received = os.fstat(file.fileno()).st_size
            self._require(key, (received, hashlib.file_digest(file, "sha256").hexdigest()), (length_bytes, sha256))
            is_new = self._publish(key, path, file, length_bytes)
            path.unlink()
            return is_new

    def found(self, key: str) -> tuple[Path, os.stat_result]:
        """Where the object lies, and what its file is. Raises ObjectMissing."""
        path = self._path(key)
        with self._translated(f"open {key}"):
            try:
                return path, path.stat()
            except FileNotFoundError:
                raise self._missing(key) from None

    def settle(self, key: str) -> None:
        """Makes the name of an object that is there durable: who put it may not have come so far."""
        with self._translated(f"put {key}"):
            _sync_folder(self._path(key).parent)

    def _require(self, key: str, received: tuple[int, str], announced: tuple[int, str]) -> None:
        if received != announced:
            cause = f"what arrived for {key} is not what was announced"
            raise NotAsAnnounced(self.name, cause, "Run the same command again")

    def _publish(self, key: str, temporary: Path, file: BinaryIO, length_bytes: int) -> bool:
        """Gives a whole file the object's name, durably; one that has it already is the object if its bytes are right.

        Whether none had it.
        """
        kind, sha256 = split_key(key)
        folder = self._folder(kind)
        os.fsync(file.fileno())
        _leave_memory(file.fileno())  # what is read back must come from the disk
        reach(Point.OBJECT_BEFORE_RENAME)
        is_new = True
        try:
            os.link(temporary, folder / sha256)
        except FileExistsError:
            is_new = False
            self._same_or_raise(key, folder / sha256, length_bytes, sha256)
        _sync_folder(folder)
        return is_new

    def open(self, key: str) -> BinaryIO:
        """See `Store.open`."""
        with self._translated(f"open {key}"):
            try:
                return self._path(key).open("rb")
            except FileNotFoundError:
                raise self._missing(key) from None

    def get(self, key: str, offset: int = 0, length_bytes: int | None = None) -> bytes:
        """See `Store.get`."""
        with self.open(key) as file, self._translated(f"get {key}"):
            file.seek(offset)
            return file.read(-1 if length_bytes is None else length_bytes)

    def head(self, key: str) -> ObjectInfo | None:
        """See `Store.head`."""
        with self._translated(f"head {key}"):
            try:
                length_bytes = self._path(key).stat().st_size
            except FileNotFoundError:
                return None
            return ObjectInfo(key, length_bytes, self._locked_until(key))

    def list(self, kind: Kind, after: str = "") -> Iterator[ObjectInfo]:
        """See `Store.list`; `after` leaves out the keys up to it."""
        with self._translated(f"list {kind}"):
            folder = self._root / kind
            keys = sorted(f"{kind}/{found.name}" for found in os.scandir(folder)) if folder.is_dir() else []
        for key in keys[bisect_right(keys, after) :]:
            with suppress(UsageError):  # a stranger's file in the folder is no object
                info = self.head(key)
                if info is not None:
                    yield info

    def lock(self, key: str, until: datetime) -> None:
        """See `Store.lock`."""
        split_key(key)
        with self._translated(f"lock {key}"), self._turn():
            if self.head(key) is None:
                raise self._missing(key)
            held = self._locked_until(key)
            if held is None or held < until:
                self._write_lock(key, until)
            _sync_folder(self._root / _LOCKS)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        path = self._path(key)
        with self._translated(f"delete {key}"):
            if not path.exists():
                return
            with self._turn():
                until = self._locked_until(key)
                if until is not None and until > self._clock.now():
                    raise ObjectLocked(self.name, f"{key} is locked until {until.isoformat()}", "Delete it after that time")
                path.unlink(missing_ok=True)
                _sync_folder(path.parent)
                self._lock_path(key).unlink(missing_ok=True)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Locks and deletions, of all processes, one after the other: what one has looked at stays so until it has acted."""
        fd = os.open(self._folder(_LOCKS) / _TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _write_lock(self, key: str, until: datetime) -> None:
        temporary, fd = _exclusive_file(self._folder(_INCOMING))
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(until.isoformat().encode())
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(self._lock_path(key))
        finally:
            temporary.unlink(missing_ok=True)

    def _same_or_raise(self, key: str, path: Path, length_bytes: int, sha256: str) -> None:
        with path.open("rb") as there:
            same = path.stat().st_size == length_bytes and hashlib.file_digest(there, "sha256").hexdigest() == sha256
        if not same:
            raise ObjectExists(self.name, f"{key} holds other bytes already", DAMAGED)

    def _locked_until(self, key: str) -> datetime | None:
        try:
            until = datetime.fromisoformat(self._lock_path(key).read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            return _FOREVER
        return until if until.tzinfo is not None else _FOREVER

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*split_key(key))

    def _lock_path(self, key: str) -> Path:
        return self._root / _LOCKS / "-".join(split_key(key))

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        if not folder.is_dir():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self._root)
            _sync_folder(self._root.parent)
        return folder

    def _sweep(self, incoming: Path) -> None:
        """Removes what killed puts left. A live put holds a lock on its file, so only orphans can be locked here."""
        for leftover in incoming.iterdir():
            with suppress(FileNotFoundError, BlockingIOError, PermissionError), leftover.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()

    def _missing(self, key: str) -> ObjectMissing:
        return ObjectMissing(
            self.name, f"it does not hold {key}", "Check that the disk is mounted, then run `tierkeeper archive verify`"
        )

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(error, doing) from error

    def _error(self, error: OSError, doing: str) -> TierkeeperError:
        cause = f"could not {doing}: {os.strerror(error.errno) if error.errno else error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NotNow(self.name, cause, "Make room on its disk, then run again")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            return Failed(
                self.name, cause, "Give this user a writable folder there (its file system needs hard links), then run again"
            )
        if error.errno in _NO_LINKS:
            return Failed(self.name, cause, "Put the store on a file system with hard links, such as ext4, xfs, btrfs or zfs")
        if error.errno == errno.EIO:
            return Failed(
                self.name, cause, "The disk reports damage: copy the store to another one and run `tierkeeper archive verify`"
            )
        return Failed(self.name, cause, "Check the folder and its disk, then run again")


def _exclusive_file(folder: Path) -> tuple[Path, int]:
    """A new file (600) that this process holds a lock on; a sweep that came between its making and its lock is tried again."""
    while True:
        path = folder / secrets.token_hex(16)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return path, fd
        os.close(fd)


def _leave_memory(fd: int, start: int = 0, end: int = 0) -> None:
    """Begins to bring bytes from `start` to before `end`, or all, to the disk, and has the system forget those that are there.

    Not every file system can do it.
    """
    with suppress(OSError):
        os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
