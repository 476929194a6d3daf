"""Reading segments back: from a catalog row to authenticated record batches.

It needs a store, a key and the row; it changes nothing anywhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO
from uuid import UUID

from tierkeeper.archive.digest import ContentDigest
from tierkeeper.archive.model import Manifest, Segment, WrappedKey, parse_document
from tierkeeper.archive.segment import OpenSegment, authenticated, opened, sha256_of
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.ahead import Beside
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.objectstore.port import Store

_REMEDY = "Restore the store from its copy, then run `tierkeeper archive verify`"


class SegmentReader:
    """Opens segments. What comes out was authenticated page by page; whether the file is whole only its end can tell."""

    def __init__(self, store: Store, keys: Callable[[], KeyRing]) -> None:
        self._store = store
        self._keys = keys

    @contextmanager
    def open(self, segment: Segment, data_key: bytes | None = None) -> Iterator[OpenSegment]:
        """The segment for reading. Raises ObjectMissing, or Failed if anything about it is not what was written."""
        data_key = data_key or self.data_key(segment)
        place = f"segment {segment.id}"
        with self._store.open(segment.object_key) as file, opened(file, segment.id, data_key, place) as content:
            yield content

    def data_key(self, segment: Segment) -> bytes:
        """Unwraps the segment's key."""
        return bytes.fromhex(self.wrapped(segment).data_key)

    def wrapped(self, segment: Segment) -> WrappedKey:
        """The segment's key object, opened. Raises Failed if it is another segment's."""
        place = f"key of segment {segment.id}"
        body = self.ring(segment).unseal("key", self._store.get(segment.key_object), place)
        wrapped = parse_document(WrappedKey, body, place)
        if wrapped.segment != segment.id:
            raise Failed(place, f"it is the key of segment {wrapped.segment}", _REMEDY)
        return wrapped

    def ring(self, segment: Segment) -> KeyRing:
        """The keys for `segment`. Raises UsageError for another archive's: a mistake of whoever gave them, and no damage."""
        ring = self._keys()
        if ring.key_id != segment.key_id:
            cause = f"segment {segment.id} was written with key {segment.key_id}, this key is {ring.key_id}"
            raise UsageError(
                "archive key", cause, "Put the archive's own key back, or its recovery key's text into TIERKEEPER_KEY"
            )
        return ring

    def manifest(self, segment: Segment) -> Manifest:
        """The signed manifest. Raises Failed if it is not the one that the catalog knows or says other things than it."""
        place = f"manifest of segment {segment.id}"
        sealed = self._store.get(segment.manifest_key)
        manifest = parse_document(Manifest, self.ring(segment).unseal("manifest", sealed, place), place)
        said = (
            manifest.segment,
            manifest.batch,
            manifest.position,
            manifest.previous,
            manifest.rows,
            manifest.sha256,
            manifest.bytes,
            manifest.source,
            manifest.created_at,
        )
        known = (
            segment.id,
            segment.batch,
            segment.position,
            segment.previous,
            segment.rows,
            segment.sha256,
            segment.bytes,
            segment.source,
            segment.created_at,
        )
        table = (
            manifest.schema_name,
            manifest.table_name,
            manifest.age,
            manifest.schema_hash,
            manifest.min_age,
            manifest.max_age,
        )
        row = (segment.table.schema, segment.table.name, segment.age, segment.schema_hash, segment.min_age, segment.max_age)
        if said != known or table != row:
            raise Failed(place, "it says other things than the catalog", _REMEDY)
        return manifest


def check_content(
    file: BinaryIO,
    segment_id: UUID,
    data_key: bytes,
    place: str,
    *,
    sha256: str,
    length_bytes: int,
    rows: int,
    digest: str,
) -> OpenSegment:
    """Reads `file` whole, twice: as ciphertext and decrypted. Raises Failed at `place` unless both are what was written."""
    with authenticated(place):
        found = sha256_of(file)
    if found != (sha256, length_bytes):
        raise Failed(place, f"its {found[1]} bytes in the store are not the {length_bytes} that were written", _REMEDY)
    with opened(file, segment_id, data_key, place) as content, Beside("digest") as counting:
        counted = ContentDigest(content.schema)
        for batch in content.batches():
            counting(counted.update, batch)
    if counted.rows != rows or counted.hexdigest() != digest:
        raise Failed(place, f"its {counted.rows} rows are not the {rows} that were written", _REMEDY)
    return content
