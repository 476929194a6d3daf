"""A digest of rows as a multiset: order does not count, every bit of content does."""

from dataclasses import dataclass

from xxhash import xxh3_128_intdigest

_MODULUS = 1 << 128

weigh = xxh3_128_intdigest
"""What one row adds to the total."""


@dataclass
class RowDigest:
    """Sum of the rows' 128-bit hashes modulo 2^128, with their number and bytes.

    It guards against faults, not against an adversary, who at either server could change the row itself.
    """

    rows: int = 0
    total: int = 0
    size_bytes: int = 0

    def add(self, rows: int, total: int, size_bytes: int) -> None:
        """Counts in `rows` rows of `size_bytes` bytes, whose weights come to `total`."""
        self.rows += rows
        self.total = (self.total + total) % _MODULUS
        self.size_bytes += size_bytes

    @property
    def hex(self) -> str:
        return f"{self.total:032x}"

    def same_as(self, other: "RowDigest") -> bool:
        """Whether both saw the same rows, each as often."""
        return self.rows == other.rows and self.total == other.total
