"""What a segment's manifest says of the values in it, sealed with the segment's own data key.

A manifest stays in the chain for ever, and the data key does not: with it goes every value that the manifest tells.
"""

import secrets
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tierkeeper.archive.lossless import Carried
from tierkeeper.archive.model import ColumnSummary, Document
from tierkeeper.kernel.errors import Failed

_LONGEST_SUMMARY: Final = 64  # characters of a least or greatest text; longer ones say little and make a manifest long
_PURPOSE: Final = b"tierkeeper summary 1"
_NONCE_BYTES: Final = 12  # AES-GCM's own
_EPOCH: Final = datetime(1970, 1, 1)  # of times in UTC, which are told without their zone


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
    """Per column the nulls; the first and the last row's key. Values it takes from the finished file's own statistics."""

    def __init__(self, carried: Sequence[Carried], key: Sequence[str]) -> None:
        self._carried = carried
        self._key = key
        self._nulls = [0] * len(carried)
        self.first_key: tuple[str, ...] = ()
        self.last_key: tuple[str, ...] = ()

    def update(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        self.first_key = self.first_key or self._key_of(batch, 0)
        self.last_key = self._key_of(batch, batch.num_rows - 1)
        self._nulls = [n + array.null_count for n, array in zip(self._nulls, batch.columns, strict=True)]

    def columns(self) -> tuple[ColumnSummary, ...]:
        """What may be said of them without saying any value."""
        found = zip(self._carried, self._nulls, strict=True)
        return tuple(ColumnSummary(name=c.column.name, type=c.column.type, native=c.native, nulls=n) for c, n in found)

    def summary(self, file: pq.FileMetaData) -> Summary:
        """What says values, those of the finished `file`; long ones are left out."""
        ranges: dict[str, tuple[str, str]] = {}
        for index, carried in enumerate(self._carried):
            # Text of a type that sorts by value would mislead, and NaN has no place in the file's order.
            if carried.native and not pa.types.is_floating(carried.type) and not pa.types.is_boolean(carried.type):
                groups = [file.row_group(g).column(index).statistics for g in range(file.num_row_groups)]
                extremes = _extremes(groups, carried.type)
                if extremes is not None and max(map(len, extremes)) <= _LONGEST_SUMMARY:
                    ranges[carried.column.name] = extremes
        return Summary(ranges=ranges, first_key=list(self.first_key), last_key=list(self.last_key))

    def _key_of(self, batch: pa.RecordBatch, row: int) -> tuple[str, ...]:
        return tuple(_shown(_plain(batch.column(name)[row])) for name in self._key)


def _extremes(groups: Sequence[pq.Statistics | None], kind: pa.DataType) -> tuple[str, str] | None:
    """The least and the greatest value, as text; None where there is none, or a group of long values does not tell its own."""
    if any(one is None or not (one.has_min_max or one.num_values == 0) for one in groups):
        return None
    known = [one for one in groups if one is not None and one.has_min_max]
    if not known:
        return None
    least, greatest = min(one.min_raw for one in known), max(one.max_raw for one in known)
    return _told(least, kind), _told(greatest, kind)


def _told(raw: Any, kind: pa.DataType) -> str:
    """A value as the file has it: bytes of a text, microseconds or days since 1970 of a time; some machines know no zones."""
    if pa.types.is_date(kind):
        return (_EPOCH + timedelta(days=raw)).date().isoformat()
    if pa.types.is_timestamp(kind):
        return (_EPOCH + timedelta(microseconds=raw)).isoformat()
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def _plain(scalar: pa.Scalar) -> Any:
    """The Python value; a time in UTC without its zone, which some machines have no table of."""
    return (scalar.cast(pa.timestamp("us")) if getattr(scalar.type, "tz", None) else scalar).as_py()


def _shown(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)
