"""An object somewhere else as a seekable file that is read in ranges."""

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast


def in_ranges(read: Callable[[int, int], bytes], length_bytes: int, block_bytes: int) -> BinaryIO:
    """The file. `read(start, end)` gives the bytes from `start` to before `end`, never asked for more than there are."""
    return cast("BinaryIO", io.BufferedReader(_Ranges(read, length_bytes), block_bytes))


class _Ranges(io.RawIOBase):
    def __init__(self, read: Callable[[int, int], bytes], length_bytes: int) -> None:
        super().__init__()
        self._read, self._length_bytes, self._at = read, length_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length_bytes}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._take(self._at + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._take(self._length_bytes)  # else it comes in blocks of 8 KiB

    def _take(self, end: int) -> bytes:
        end = min(end, self._length_bytes)
        data = self._read(self._at, end) if self._at < end else b""
        self._at += len(data)
        return data
