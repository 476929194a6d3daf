"""What a file that is read from elsewhere has in common with every other: a length, and a place at which it is read next."""

import io


class Seekable(io.RawIOBase):
    """Of `length_bytes`; `_at` is the place. Who makes one of it says how bytes are read."""

    def __init__(self, length_bytes: int) -> None:
        super().__init__()
        self._length_bytes, self._at = length_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length_bytes}[whence])
        return self._at
