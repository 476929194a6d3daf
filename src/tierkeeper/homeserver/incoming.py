"""What requests bring of an object, on its way to the disk."""

import hashlib
import os
from io import FileIO
from pathlib import Path

from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.objectstore.port import NotAsAnnounced


class Part:
    """The next bytes of an upload, which one request alone holds: no more than was announced, and digested as they come.

    `path` is its file, `is_over` whether that has become an object or was given up.
    """

    def __init__(self, token_id: str, key: str, path: Path, file: FileIO, length_bytes: int) -> None:
        self.token_id = token_id
        self.key = key
        self.path = path
        self.length_bytes = length_bytes
        self.at = file.seek(0, os.SEEK_END)
        self.is_over = False
        self._file = file
        self._began_at = self.at
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Appends. Raises UsageError for more than was announced, NotNow where it cannot be written."""
        if self.at + len(data) > self.length_bytes:
            raise UsageError("home server", f"more than the {self.length_bytes} announced bytes came", "Announce what is sent")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self._take_back()
            cause = f"it cannot be written ({os.strerror(error.errno or 0)})"
            raise NotNow("home server", cause, "Make room on its disk") from error
        reach(Point.UPLOAD_WRITTEN)
        self._digest.update(data)
        self.at += len(data)

    def require(self, sha256: bytes | None) -> None:
        """Raises NotAsAnnounced, and takes this request's bytes back, unless they have this SHA-256."""
        if sha256 is not None and self._digest.digest() != sha256:
            self._take_back()
            raise NotAsAnnounced("home server", "the bytes that came are not those of Content-Digest", "Send them again")

    def _take_back(self) -> None:
        """The upload as it was before this request."""
        self._file.truncate(self._began_at)
        self._file.seek(self._began_at)
        self.at = self._began_at
