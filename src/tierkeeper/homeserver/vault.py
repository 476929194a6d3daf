"""What the server does with objects, whoever asks: receive them in parts, give them their names, lock, check and delete them."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Final

from tierkeeper.homeserver.incoming import Part
from tierkeeper.homeserver.state import State
from tierkeeper.homeserver.tokens import Token
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import COPY_BLOCK_BYTES, DISK_SPARE_BYTES, UPLOAD_IDLE_SECONDS, UPLOAD_KEPT_SECONDS
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.port import DAMAGED, KINDS, ObjectExists, ObjectMissing, split_key

FOLDER: Final = "server"
"""Below the store's root: all that the server keeps beside the objects."""


_OWN_ENDS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # what a process or a machine may lack while the disk is good


class Busy(NotNow):
    """Another request is writing to the same upload."""


class OffsetMismatch(Failed):
    """The next bytes of an upload have to begin at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__("home server", f"the upload stands at {offset} bytes", "Go on from there")
        self.offset = offset


class Vault:
    """The store's objects behind the server.

    An object is acknowledged when its bytes, whose SHA-256 is its name, are on the disk under that name; a part of one is never
    an object. An upload's file and its reservation change while that file is locked, and by who locked it: nobody takes away what
    another request is writing, nor writes without a reservation. Whatever is killed in between is settled by the next `start`.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        self.store = DirectoryStore(root, clock)
        self.state = State(root / FOLDER / "state.sqlite", clock)
        self._clock = clock
        self._parts = root / FOLDER / "uploads"

    def start(self) -> None:
        """Settles what a killed server left, and enters what lies in the store and is not known."""
        self._parts.mkdir(mode=0o700, parents=True, exist_ok=True)
        reserved = set[Path]()
        for token_id, key, _ in self.state.uploads():
            part = self._part(token_id, key)
            info = self.store.head(key)
            if info is not None:
                part.unlink(missing_ok=True)
                self.state.ended(token_id, key, info.length_bytes)
            elif not part.exists():
                self.state.ended(token_id, key, None)
            reserved.add(part)
        for stray in set(self._parts.iterdir()) - reserved:
            stray.unlink()
        for key in self.state.left_deleting():
            self.state.deleted(key, gone=self.store.head(key) is None)
        for kind in KINDS:
            objects = self.store.list(kind)
            while some := list(islice(objects, 1000)):
                self.state.adopt(some)

    def close(self) -> None:
        self.state.close()

    def offset(self, token: Token, key: str) -> int | None:
        """How many bytes of an upload have come; None if none is under way. An object that is there has come whole."""
        info = self.store.head(key)
        if info is not None:
            return info.length_bytes
        with suppress(FileNotFoundError):
            return self._part(token.id, key).stat().st_size
        return None

    def holds(self, key: str) -> bool:
        """Whether the object is there already, durably, and good. Raises ObjectExists for a damaged one."""
        if self.store.head(key) is None:
            return False
        if (wrong := self.check(key)) is not None:
            raise ObjectExists("home server", f"{key} is there already: {wrong}", DAMAGED)
        self.store.settle(key)
        return True

    @contextmanager
    def receiving(self, token: Token, key: str, offset: int, length_bytes: int) -> Iterator[Part]:
        """The place for the next bytes of an upload, `length_bytes` long in the end, from `offset` on.

        Raises OffsetMismatch, UsageError for another length than was announced before, Busy where another request is
        writing to it, NotNow where the token's quota or the disk has no room.
        """
        with self._alone(token.id, key) as file:
            self._reserve(token, key, length_bytes)
            part = Part(token.id, key, self._part(token.id, key), file, length_bytes)
            if part.at != offset:
                raise OffsetMismatch(part.at)
            yield part

    @contextmanager
    def receiving_whole(self, token: Token, key: str, length_bytes: int) -> Iterator[Part]:
        """The place for an object that comes at once: from its first byte on, and given up if the block fails."""
        with self._alone(token.id, key) as file:
            file.truncate(0)
            self._reserve(token, key, length_bytes)
            part = Part(token.id, key, self._part(token.id, key), file, length_bytes)
            try:
                yield part
            except BaseException:
                self._forget(part)
                raise

    def finish(self, part: Part) -> bool:
        """Makes the object of an upload that has come whole; whether it was not there before.

        Raises NotAsAnnounced. Whatever goes wrong, the upload is given up: after a failed fsync nobody knows what the disk has.
        """
        try:
            is_new = self.store.adopt(part.key, part.path, part.length_bytes)
        except TierkeeperError:
            self._forget(part)
            raise
        part.is_over = True
        reach(Point.UPLOAD_PUBLISHED)
        self.state.ended(part.token_id, part.key, part.length_bytes, is_new=is_new)
        if self.store.head(part.key) is None:  # deleted before it was entered
            self.state.deleted(part.key, gone=True)
        return is_new

    def give_up(self, token: Token, key: str) -> None:
        """Forgets an upload. Raises Busy while a request writes to it."""
        with self._alone(token.id, key):
            self._end(token.id, key)

    def sweep(self, idle_seconds: float = UPLOAD_KEPT_SECONDS, of_token: str | None = None) -> int:
        """Gives up the uploads whose last bytes came too long ago, of one token or of all; how many."""
        given_up = 0
        for token_id, key, _ in self.state.uploads():
            if of_token not in (None, token_id):
                continue
            was_there = self._part(token_id, key).exists()
            with suppress(Busy), self._alone(token_id, key) as file:
                idle = self._clock.now().timestamp() - os.fstat(file.fileno()).st_mtime
                if idle > idle_seconds or not was_there:
                    self._end(token_id, key)
                    given_up += 1
        return given_up

    def delete(self, actor: str, key: str) -> None:
        """Takes an object away. Raises ObjectLocked."""
        split_key(key)
        with self.state.action(actor, "delete", key):
            self.state.deleting(key)
            reach(Point.OBJECT_DELETING)
            try:
                self.store.delete(key)
                reach(Point.OBJECT_DELETED)
            finally:
                self.state.deleted(key, gone=self.store.head(key) is None)

    def check(self, key: str) -> str | None:
        """Reads an object whole; what is wrong with it, or None.

        Raises ObjectMissing for one that was never there, NotNow where this process, and not the disk, is at its end.
        """
        _, sha256 = split_key(key)
        digest, wrong = hashlib.sha256(), None
        try:
            with self.store.open(key) as file:
                with suppress(OSError):  # from the disk, and not from memory
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while block := file.read(COPY_BLOCK_BYTES):
                    digest.update(block)
            if digest.hexdigest() != sha256:
                wrong = "its bytes are not what was put"
        except ObjectMissing:
            if not self.state.knows(key):
                raise
            wrong = "it is gone"
        except (OSError, TierkeeperError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            told = os.strerror(cause.errno) if cause.errno else str(cause)
            if cause.errno in _OWN_ENDS:
                raise NotNow("home server", f"it cannot read {key} ({told})", "Try again") from error
            wrong = f"the disk does not give it back ({told})"
        self.state.was_read(key, wrong)
        return wrong

    @contextmanager
    def _alone(self, token_id: str, key: str) -> Iterator[FileIO]:
        """An upload's file, made if it is not there, that nobody else writes to or takes away meanwhile. Raises Busy, NotNow."""
        try:
            fd = os.open(self._part(token_id, key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            cause = f"an upload cannot be begun ({os.strerror(error.errno or 0)})"
            raise NotNow("home server", cause, "Look at its disk, and make room there") from error
        with FileIO(fd, "r+") as file:
            if not _is_ours(fd):
                raise Busy("home server", "another request is writing to this upload", "Try again")
            yield file

    def _reserve(self, token: Token, key: str, length_bytes: int) -> None:
        """Room for an upload that this request holds; uploads that its token has left lying make way."""
        try:
            known = self._begin(token, key, length_bytes)
        except NotNow:
            self._part(token.id, key).unlink(missing_ok=True)
            raise
        reach(Point.UPLOAD_RESERVED)
        if known is not None and known != length_bytes:
            cause = f"the upload was announced with {known} bytes"
            raise UsageError("home server", cause, "Announce the same length, or give the upload up first")

    def _begin(self, token: Token, key: str, length_bytes: int) -> int | None:
        try:
            known = self.state.begin(token, key, length_bytes)
        except NotNow:
            if not self.sweep(UPLOAD_IDLE_SECONDS, token.id):
                raise
            known = self.state.begin(token, key, length_bytes)
        if known is None and self._room_bytes() < DISK_SPARE_BYTES:
            self.state.ended(token.id, key, None)
            raise NotNow("home server", f"its disk has no room for {length_bytes} bytes", "Make room on its disk")
        return known

    def room_bytes(self, token: Token) -> int:
        """How much more of the token's may come, by the disk and by its quota."""
        disk = self._room_bytes() - DISK_SPARE_BYTES
        return max(0, disk if token.quota_bytes is None else min(disk, token.quota_bytes - self.state.used_bytes(token.id)))

    def _room_bytes(self) -> int:
        """What the disk has free beside what was promised to uploads."""
        disk, promised = os.statvfs(self._parts), 0
        for token_id, key, length_bytes in self.state.uploads():
            with suppress(FileNotFoundError):
                promised += length_bytes - self._part(token_id, key).stat().st_size
        return disk.f_bavail * disk.f_frsize - promised

    def _forget(self, part: Part) -> None:
        if not part.is_over:
            part.is_over = True
            self._end(part.token_id, part.key)

    def _end(self, token_id: str, key: str) -> None:
        """Forgets an upload that this request holds."""
        self._part(token_id, key).unlink(missing_ok=True)
        self.state.ended(token_id, key, None)

    def _part(self, token_id: str, key: str) -> Path:
        return self._parts / "-".join((token_id, *split_key(key)))


def _is_ours(fd: int) -> bool:
    """Whether this request alone may write to the file; one that was finished between its opening and now is nobody's."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0
