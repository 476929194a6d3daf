"""A file of which some bytes are held in memory: its end, and the row group that is being read.

A Parquet reader asks for the end of a file twice, and for each column by itself: from a store that is far away, or counts what it
gives out, both are fetched once and at once. A file of this machine Arrow reads itself.
"""

import io
from typing import BinaryIO, Final

import pyarrow as pa

from tierkeeper.kernel.seekable import Seekable

_END_BYTES: Final = 64 * 1024  # that a Parquet reader looks at first; most footers are no longer
_FOOTER_BYTES_MAX: Final = 16 * 2**20  # a longer one the reader fetches by itself, and where its length is damaged says so
_LENGTH: Final = slice(-8, -4)  # of the file: how long the footer before it is


def native(file: BinaryIO) -> pa.NativeFile | None:
    """`file` as Arrow opens it by itself, at a place of its own; None if it is none of this machine's.

    What reads it needs no turn of Python's, for which threads that work at once would wait.
    """
    try:
        return pa.OSFile(f"/proc/self/fd/{file.fileno()}")
    except OSError:  # it has no descriptor, or this machine has no such folder
        return None


class WindowedFile(Seekable):
    """`file`, whose end is read at once."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file.seek(0, io.SEEK_END))
        self._file = file
        first = max(0, self._length_bytes - _END_BYTES)
        end = self._fetched(first, self._length_bytes)
        footer = max(0, self._length_bytes - 8 - int.from_bytes(end[_LENGTH], "little"))
        if first - _FOOTER_BYTES_MAX < footer < first:
            end, first = self._fetched(footer, first) + end, footer
        self._windows = [(first, end), (0, b"")]

    def hold(self, start: int, end: int) -> None:
        """Reads the bytes from `start` to before `end` at once, and keeps them until others are held."""
        if not (self._windows[1][0] == start and len(self._windows[1][1]) == end - start):
            self._windows[1] = (0, b"")  # lest both lie in memory
            self._windows[1] = (start, self._fetched(start, end))

    def read(self, size: int = -1) -> bytes:
        end = self._length_bytes if size < 0 else min(self._length_bytes, self._at + size)
        start, self._at = self._at, max(self._at, end)
        for first, body in self._windows:
            if first <= start and end <= first + len(body):
                return body[start - first : end - first]
        return self._fetched(start, end)

    def _fetched(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(max(0, end - start))
