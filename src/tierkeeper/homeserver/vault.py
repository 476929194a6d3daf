"""What the server does with objects, whoever asks: receive them in parts, give them their names, lock, check and delete them."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO, FileIO
from itertools import islice
from pathlib import Path
from typing import Final

from tierkeeper.homeserver.incoming import Part, Whole
from tierkeeper.homeserver.state import State
from tierkeeper.homeserver.tokens import Token
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import COPY_BLOCK_BYTES, UPLOAD_KEPT_SECONDS
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.objectstore.port import DAMAGED, KINDS, NotAsAnnounced, ObjectExists, ObjectMissing, split_key

FOLDER: Final = "server"
"""Below the store's root: all that the server keeps beside the objects."""


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
    an object. Whatever is killed in between is settled by the next `start`.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        self.store = DirectoryStore(root, clock)
        self.state = State(root / FOLDER / "state.sqlite", clock)
        self._clock = clock
        self._parts = root / FOLDER / "uploads"

    def start(self) -> None:
        """Settles what a killed server left, and enters what lies in the store and is not known."""
        self._parts.mkdir(mode=0o700, parents=True, exist_ok=True)
        for token_id, key in self.state.uploads():
            part = self._part(token_id, key)
            info = self.store.head(key)
            if info is not None:
                part.unlink(missing_ok=True)
                self.state.ended(token_id, key, info.length_bytes)
            elif not part.exists():
                self.state.ended(token_id, key, None)
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
        """Whether the object is there already, and good. Raises ObjectExists for a damaged one."""
        if self.store.head(key) is None:
            return False
        if (wrong := self.check(key)) is not None:
            raise ObjectExists("home server", f"{key} is there already: {wrong}", DAMAGED)
        return True

    @contextmanager
    def receiving(self, token: Token, key: str, offset: int, length_bytes: int) -> Iterator[Part]:
        """The place for the next bytes of an upload, `length_bytes` long in the end, from `offset` on.

        Raises OffsetMismatch, UsageError for another length than was announced before, NotNow where another request is
        writing to it, or where the token's quota or the disk has no room.
        """
        self._begin(token, key, length_bytes)
        path = self._part(token.id, key)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with FileIO(fd, "r+") as file:
            if not _is_ours(fd):
                raise Busy("home server", "another request is writing to this upload", "Try again")
            at = file.seek(0, os.SEEK_END)
            if at != offset:
                raise OffsetMismatch(at)
            yield Part(file, at, length_bytes)

    def put(self, token: Token, key: str, whole: Whole) -> None:
        """Makes the object of what came at once. Raises NotAsAnnounced, and NotNow where there is no room."""
        self._begin(token, key, whole.length_bytes)
        try:
            self.store.put(key, BytesIO(whole.data), length_bytes=whole.length_bytes)
        except TierkeeperError:
            self.give_up(token, key)
            raise
        reach(Point.UPLOAD_PUBLISHED)
        self.state.ended(token.id, key, whole.length_bytes)

    def finish(self, token: Token, key: str, length_bytes: int) -> None:
        """Makes the object of an upload that has come whole, while it is being received.

        Raises NotAsAnnounced, and gives the upload up.
        """
        try:
            self.store.adopt(key, self._part(token.id, key), length_bytes)
        except (NotAsAnnounced, ObjectExists):
            self.give_up(token, key)
            raise
        reach(Point.UPLOAD_PUBLISHED)
        self.state.ended(token.id, key, length_bytes)

    def give_up(self, token: Token, key: str) -> None:
        """Forgets an upload."""
        self._part(token.id, key).unlink(missing_ok=True)
        self.state.ended(token.id, key, None)

    def sweep(self) -> None:
        """Gives up the uploads whose last bytes came too long ago."""
        for token_id, key in self.state.uploads():
            part = self._part(token_id, key)
            with suppress(FileNotFoundError):
                if self._clock.now().timestamp() - part.stat().st_mtime > UPLOAD_KEPT_SECONDS:
                    part.unlink()
                    self.state.ended(token_id, key, None)

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
        """Reads an object whole; what is wrong with it, or None. Raises ObjectMissing for one that was never there."""
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
        except OSError as error:
            wrong = f"the disk does not give it back ({os.strerror(error.errno) if error.errno else error})"
        self.state.was_read(key, wrong)
        return wrong

    def _begin(self, token: Token, key: str, length_bytes: int) -> None:
        split_key(key)
        known = self.state.begin(token, key, length_bytes)
        reach(Point.UPLOAD_RESERVED)
        if known is not None and known != length_bytes:
            cause = f"the upload was announced with {known} bytes"
            raise UsageError("home server", cause, "Announce the same length, or give the upload up first")

    def _part(self, token_id: str, key: str) -> Path:
        return self._parts / "-".join((token_id, *split_key(key)))


def _is_ours(fd: int) -> bool:
    """Whether this request alone may write to the file; one that was finished between its opening and now is nobody's."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0
