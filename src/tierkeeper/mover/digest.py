"""A digest of rows as a multiset, taken from COPY data on its way: order does not count, every bit of content does."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xxhash import xxh3_128_intdigest

from tierkeeper.postgres.copy import Block

_HEADER_BYTES = 19  # of binary COPY: signature, flags, length of an extension that Postgres has never used
_TRAILER = b"\xff\xff"  # of binary COPY: no row begins so, for no table has 65535 columns
_MODULUS = 1 << 128


@dataclass
class RowDigest:
    """Sum of the rows' 128-bit hashes modulo 2^128, with their number and bytes.

    It guards against faults, not against an adversary, who at either server could change the row itself.
    """

    binary: bool
    rows: int = 0
    total: int = 0
    size_bytes: int = 0

    def through(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Passes `blocks` on as they are, counting their rows in."""
        for block in blocks:
            self._count(block)
            yield block

    def _count(self, block: Block) -> None:
        rows = block
        if self.binary:
            if not self.rows:
                rows = [block[0][_HEADER_BYTES:], *block[1:]]
            if rows[-1] == _TRAILER:
                rows = rows[:-1]
            if rows and not rows[0]:  # an empty table: the header came alone
                rows = rows[1:]
        self.rows += len(rows)
        self.size_bytes += sum(map(len, rows))
        self.total = (self.total + sum(map(xxh3_128_intdigest, rows))) % _MODULUS

    @property
    def hex(self) -> str:
        return f"{self.total:032x}"

    def same_as(self, other: "RowDigest") -> bool:
        """Whether both saw the same rows, each as often."""
        return self.rows == other.rows and self.total == other.total
