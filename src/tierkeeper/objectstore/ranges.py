"""An object somewhere else as a seekable file that is read in ranges."""

from collections.abc import Callable
from typing import Any, BinaryIO, cast

from tierkeeper.kernel.seekable import Seekable


def in_ranges(read: Callable[[int, int], bytes], length_bytes: int, block_bytes: int) -> BinaryIO:
    """The file. `read(start, end)` gives the bytes from `start` to before `end`, never asked for more than there are.

    Who reads on and on gets blocks that double up to `block_bytes`; who reads here and there is given what he asks for and no
    more: a few rows of an object should not cost the transfer of half of it.
    """
    return cast("BinaryIO", _Ranges(read, length_bytes, block_bytes))


class _Ranges(Seekable):
    def __init__(self, read: Callable[[int, int], bytes], length_bytes: int, block_bytes: int) -> None:
        super().__init__(length_bytes)
        self._read, self._block_bytes = read, block_bytes
        self._first, self._block = 0, memoryview(b"")  # what came last, and where it begins

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` unless the object ends before."""
        wanted = max(0, min(len(buffer), self._length_bytes - self._at))
        there = self._there(wanted)
        buffer[: len(there)] = there
        if len(there) < wanted:
            self._take(self._at + len(there), wanted - len(there))
            more = self._block[: wanted - len(there)]
            buffer[len(there) : len(there) + len(more)] = more
            wanted = len(there) + len(more)
        self._at += wanted
        return wanted

    def readall(self) -> bytes:
        data = self._read(self._at, self._length_bytes) if self._at < self._length_bytes else b""  # else in blocks of 8 KiB
        self._at += len(data)
        return data

    def _there(self, wanted: int) -> memoryview:
        """What of the next `wanted` bytes lies in the last block."""
        start = self._at - self._first
        return self._block[start : start + wanted] if 0 <= start < len(self._block) else memoryview(b"")

    def _take(self, start: int, wanted: int) -> None:
        """The next block, from `start` on, with `wanted` bytes at least: twice the last one, where it follows on that."""
        last, follows = len(self._block), start == self._first + len(self._block)
        self._block = memoryview(b"")  # lest both lie in memory
        ahead = min(2 * last, self._block_bytes) if follows else 0
        end = min(start + max(wanted, ahead), self._length_bytes)
        self._first, self._block = start, memoryview(self._read(start, end))
