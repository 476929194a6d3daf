"""A digest of rows as a multiset, taken from COPY data on its way: order does not count, every bit of content does."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xxhash import xxh3_128_intdigest

Row = bytes | bytearray | memoryview

_HEADER_BYTES = 19  # of binary COPY: signature, flags, length of an extension that Postgres has never used
_TRAILER = b"\xff\xff"  # of binary COPY: no row begins so, for no table has 65535 columns
_MODULUS = 1 << 128


@dataclass
class RowDigest:
    """Sum of the rows' 128-bit hashes modulo 2^128, with their number and bytes.

    COPY hands over one row a block; in `binary` the header rides with the first row and the trailer comes alone. It guards
    against faults, not against an adversary, who at either server could change the row itself.
    """

    binary: bool
    rows: int = 0
    total: int = 0
    size_bytes: int = 0

    def through(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Passes `rows` on as they are, counting them in."""
        count, total, size_bytes = self.rows, self.total, self.size_bytes
        skip = _HEADER_BYTES if self.binary and not count else 0
        end = _TRAILER if self.binary else None
        for block in rows:
            row = block[skip:] if skip else block
            skip = 0
            if row and row != end:
                count += 1
                size_bytes += len(row)
                total += xxh3_128_intdigest(row)
            yield block
        self.rows, self.total, self.size_bytes = count, total % _MODULUS, size_bytes

    @property
    def hex(self) -> str:
        return f"{self.total:032x}"

    def same_as(self, other: "RowDigest") -> bool:
        """Whether both saw the same rows, each as often."""
        return self.rows == other.rows and self.total == other.total
