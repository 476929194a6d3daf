"""What a request brings of an object, on its way to the disk."""

import hashlib
import os
from abc import ABC, abstractmethod
from io import FileIO

from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.objectstore.port import NotAsAnnounced


class Incoming(ABC):
    """What one request brings of an object: no more than was announced, and digested as it comes."""

    def __init__(self, at: int, length_bytes: int) -> None:
        self._digest = hashlib.sha256()
        self.at = at
        self.length_bytes = length_bytes

    def write(self, data: bytes) -> None:
        """Appends. Raises UsageError for more than was announced."""
        if self.at + len(data) > self.length_bytes:
            raise UsageError("home server", f"more than the {self.length_bytes} announced bytes came", "Announce what is sent")
        self._append(data)
        self._digest.update(data)
        self.at += len(data)

    def require(self, sha256: bytes | None) -> None:
        """Raises NotAsAnnounced, and takes this request's bytes back, unless they have this SHA-256."""
        if sha256 is not None and self._digest.digest() != sha256:
            self._take_back()
            raise NotAsAnnounced("home server", "the bytes that came are not those of Content-Digest", "Send them again")

    @abstractmethod
    def _append(self, data: bytes) -> None:
        """Keeps the next bytes."""

    @abstractmethod
    def _take_back(self) -> None:
        """Forgets what this request brought."""


class Whole(Incoming):
    """A small object that comes at once."""

    def __init__(self, length_bytes: int) -> None:
        super().__init__(0, length_bytes)
        self.data = bytearray()

    def _append(self, data: bytes) -> None:
        self.data += data

    def _take_back(self) -> None:
        self.data.clear()


class Part(Incoming):
    """The next bytes of an upload that this request alone may write to."""

    def __init__(self, file: FileIO, at: int, length_bytes: int) -> None:
        super().__init__(at, length_bytes)
        self._file = file
        self._began_at = at

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self._take_back()
            cause = f"it cannot be written ({os.strerror(error.errno or 0)})"
            raise NotNow("home server", cause, "Make room on its disk") from error
        reach(Point.UPLOAD_WRITTEN)

    def _take_back(self) -> None:
        """The upload as it was before this request."""
        self._file.truncate(self._began_at)
        self._file.seek(self._began_at)
        self.at = self._began_at
