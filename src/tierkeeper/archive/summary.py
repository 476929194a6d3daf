"""What a segment's manifest says of the values in it, sealed with the segment's own data key.

A manifest stays in the chain for ever, and the data key does not: with it goes every value that the manifest tells.
"""

import secrets
from collections.abc import Sequence
from datetime import date
from typing import Any, Final, Literal
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tierkeeper.archive.lossless import Carried
from tierkeeper.archive.model import ColumnSummary, Document
from tierkeeper.kernel.errors import Failed

_LONGEST_SUMMARY: Final = 64  # characters of a least or greatest text; longer ones say little and make a manifest long
_UTF8_BYTES: Final = 4  # of a character, at most
_PURPOSE: Final = b"tierkeeper summary 1"
_NONCE_BYTES: Final = 12  # AES-GCM's own


class Summary(Document):
    """The least and the greatest value of columns, as text and compared by value, and the keys of the first and the last row.

    Of a column there is none where it is dear, says little or is long.
    """

    format: Literal["tierkeeper summary"] = "tierkeeper summary"
    version: Literal[1] = 1
    ranges: dict[str, tuple[str, str]]
    first_key: list[str]
    last_key: list[str]


def sealed(summary: Summary, data_key: bytes, segment: UUID) -> str:
    """The summary in hex, encrypted and bound to the segment."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return (nonce + _cipher(data_key).encrypt(nonce, summary.model_dump_json().encode(), segment.bytes)).hex()


def unsealed(text: str, data_key: bytes, segment: UUID, place: str) -> Summary:
    """Raises Failed at `place` unless it is what was sealed for this segment."""
    try:
        data = bytes.fromhex(text)
        opened = _cipher(data_key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], segment.bytes)
        return Summary.model_validate_json(opened)
    except (ValueError, InvalidTag) as error:
        raise Failed(place, "its summary is not what was written", "Restore the store from its copy") from error


def _cipher(data_key: bytes) -> AESGCM:
    """Under a key of its own, so that the file's nonces are not this one's."""
    return AESGCM(HKDF(SHA256(), len(data_key), None, _PURPOSE).derive(data_key))


class Summarizer:
    """Per column the nulls, and where they say something the extremes; the first and the last row's key."""

    def __init__(self, carried: Sequence[Carried], key: Sequence[str]) -> None:
        self._carried = carried
        self._key = key
        self._nulls = [0] * len(carried)
        # Text of a type that sorts by value would mislead, and NaN has no place in an order.
        ordered = [c.native and not pa.types.is_floating(c.type) and not pa.types.is_boolean(c.type) for c in carried]
        self._extremes = {i: _Extremes() for i, has in enumerate(ordered) if has}
        self.first_key: tuple[str, ...] = ()
        self.last_key: tuple[str, ...] = ()

    def update(self, group: Sequence[pa.RecordBatch]) -> None:
        """Counts the rows in, each batch with at least one."""
        self.first_key = self.first_key or self._key_of(group[0], 0)
        self.last_key = self._key_of(group[-1], group[-1].num_rows - 1)
        for batch in group:
            self._nulls = [n + array.null_count for n, array in zip(self._nulls, batch.columns, strict=True)]
        for index, extremes in self._extremes.items():
            extremes.update(pa.chunked_array([batch.column(index) for batch in group]))

    def columns(self) -> tuple[ColumnSummary, ...]:
        """What may be said of them without saying any value."""
        found = zip(self._carried, self._nulls, strict=True)
        return tuple(ColumnSummary(name=c.column.name, type=c.column.type, native=c.native, nulls=n) for c, n in found)

    def summary(self) -> Summary:
        """What says values; long ones are left out."""
        told = {self._carried[i].column.name: extremes.told() for i, extremes in self._extremes.items()}
        ranges = {name: both for name, both in told.items() if both is not None}
        return Summary(ranges=ranges, first_key=list(self.first_key), last_key=list(self.last_key))

    def _key_of(self, batch: pa.RecordBatch, row: int) -> tuple[str, ...]:
        return tuple(_shown(_plain(batch.column(name)[row])) for name in self._key)


class _Extremes:
    """The least and the greatest value of a column: of text the least and the greatest bytes. Given up where values are long."""

    def __init__(self) -> None:
        self._found: tuple[Any, Any] | None = None
        self._long = False

    def update(self, array: pa.ChunkedArray) -> None:
        if pa.types.is_string(array.type) and not self._long:
            longest = pc.max(pc.binary_length(array)).as_py() or 0
            self._long = longest > _LONGEST_SUMMARY * _UTF8_BYTES  # a large one would lie in memory twice more
        if self._long:
            return
        ends = pc.min_max(array)
        if not ends["min"].is_valid:
            return
        least, greatest = (_plain(ends[end]) for end in ("min", "max"))
        self._long = max(len(str(least)), len(str(greatest))) > _LONGEST_SUMMARY
        before = (least, greatest) if self._found is None else self._found
        self._found = min(least, before[0], key=_order), max(greatest, before[1], key=_order)

    def told(self) -> tuple[str, str] | None:
        """As text; None where there is none, or it is long."""
        return None if self._long or self._found is None else (_shown(self._found[0]), _shown(self._found[1]))


def _order(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _plain(scalar: pa.Scalar) -> Any:
    """The Python value; a time in UTC without its zone, which some machines have no table of."""
    return (scalar.cast(pa.timestamp("us")) if getattr(scalar.type, "tz", None) else scalar).as_py()


def _shown(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)
