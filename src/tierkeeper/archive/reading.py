"""Reading segments back: from a catalog row to authenticated record batches.

It needs a store, a key and the row; it changes nothing anywhere.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO
from uuid import UUID

import pyarrow as pa

from tierkeeper.archive.digest import ContentDigest
from tierkeeper.archive.layout import shares
from tierkeeper.archive.model import Manifest, Segment, WrappedKey, parse_document
from tierkeeper.archive.segment import OpenSegment, authenticated, opened, sha256_of
from tierkeeper.archive.window import native
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
    """Reads `file` whole, twice: as ciphertext and decrypted. Raises Failed at `place` unless both are what was written.

    A file of this machine is read at three places at once: its bytes, and one half of its columns and the other. Of one that is
    wrong its bytes are told, whatever else is found sooner.
    """
    is_here = _is_here(file)
    with Beside("sha256") as hashing:
        hashing(_require_bytes, file, place, (sha256, length_bytes))
        if not is_here:
            hashing.settle()
        try:
            content, parts = _digested(file, 2 if is_here else 1, segment_id, data_key, place)
        except Exception:
            hashing.settle()
            raise
    wrong = next((part.rows for part in parts if part.rows != rows), None)
    if wrong is not None or ContentDigest.joined(content.schema, parts).hexdigest() != digest:
        raise Failed(place, f"its {rows if wrong is None else wrong} rows are not the {rows} that were written", _REMEDY)
    return content


def _require_bytes(file: BinaryIO, place: str, written: tuple[str, int]) -> None:
    with authenticated(place):
        found = sha256_of(file)
    if found != written:
        raise Failed(place, f"its {found[1]} bytes in the store are not the {written[1]} that were written", _REMEDY)


def _is_here(file: BinaryIO) -> bool:
    own = native(file)
    if own is not None:
        own.close()
    return own is not None


def _digested(
    file: BinaryIO, at_once: int, segment_id: UUID, data_key: bytes, place: str
) -> tuple[OpenSegment, list[ContentDigest]]:
    """What lies in `file`, and digests of its columns, which readers share, so many at once."""
    with ExitStack() as stack:
        contents = [stack.enter_context(opened(file, segment_id, data_key, place)) for _ in range(at_once)]
        first = contents[0]
        columns = shares(first.parquet.metadata, first.parquet.schema_arrow, first.schema.names, at_once)
        digests = [ContentDigest(pa.schema([first.schema.field(name) for name in some])) for some in columns]
        for content, digest in list(zip(contents, digests, strict=False))[1:]:
            stack.enter_context(Beside("digest"))(_digest, content, digest)
        if len(digests) > 1:
            _digest(first, digests[0])
        else:
            _digest_behind(first, digests[0])
    return first, digests


def _digest(content: OpenSegment, digest: ContentDigest) -> None:
    """By one thread: where two are at work, Arrow's own would only be in their way."""
    for batch in content.batches(columns=digest.schema.names, threads=False):
        digest.update(batch)
        del batch  # a large one must not stay while the next is decoded


def _digest_behind(content: OpenSegment, digest: ContentDigest) -> None:
    with Beside("digest") as counting:
        for batch in content.batches(columns=digest.schema.names):
            counting(digest.update, batch)
