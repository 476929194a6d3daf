"""Makes one segment: an encrypted file, put into the store and read back from it, with its key and its manifest."""

import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import pyarrow as pa

from tierkeeper.archive import segment as format_
from tierkeeper.archive import summary
from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.model import Contents, Manifest, WrappedKey, Wrapping
from tierkeeper.archive.reading import check_content
from tierkeeper.archive.segment import DATA_KEY_BYTES, Written
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, TierkeeperError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.tables import TableName
from tierkeeper.objectstore.port import Kind, Store, put_object


@dataclass(frozen=True)
class Made:
    """A segment's file, and the key that it is encrypted with."""

    contents: Contents
    data_key: bytes
    written: Written


@dataclass(frozen=True)
class Origin:
    """Where a segment's rows come from, as its manifest says it."""

    batch: UUID
    source: str
    table: TableName
    age: str
    cutoff: datetime
    min_age: datetime | None
    max_age: datetime | None


class SegmentWriter:
    """Keeps I6: what leaves memory is ciphertext. What it has put counts for nothing until the catalog says so."""

    def __init__(self, store: Store, keys: Callable[[], KeyRing], clock: Clock, scratch: Path | None = None) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._scratch = scratch

    def write(self, contents: Contents, batches: Iterable[pa.RecordBatch], scratch: BinaryIO) -> Made:
        """The encrypted file of `batches`, in `scratch`, under a fresh data key."""
        data_key = secrets.token_bytes(DATA_KEY_BYTES)
        return Made(contents, data_key, format_.write(contents, batches, data_key, scratch))

    def put(self, made: Made, scratch: BinaryIO, put: list[str]) -> None:
        """Puts the file; `put` gets the name of each object as it is there."""
        key = f"segment/{made.written.sha256}"
        scratch.seek(0)
        self._store.put(key, scratch, length_bytes=made.written.bytes)
        put.append(key)
        reach(Point.SEGMENT_PUT)

    def proven(self, made: Made, put: list[str]) -> Wrapping:
        """I3: what the store gives back, decrypted whole, is what the source gave. Then puts its key."""
        segment, written = made.contents.segment, made.written
        with self._store.open(f"segment/{written.sha256}") as file:
            check_content(
                file,
                segment,
                made.data_key,
                f"segment {segment}",
                sha256=written.sha256,
                length_bytes=written.bytes,
                rows=written.rows,
                digest=written.digest,
            )
        ring = self._keys()
        wrapped = WrappedKey(segment=segment, data_key=made.data_key.hex(), recipient=ring.recipient_id)
        put.append(self.sealed("key", wrapped.body()))
        return Wrapping(put[-1], ring.recipient_id)

    def manifest(self, made: Made, head: tuple[int, str | None], origin: Origin) -> Manifest:
        """The segment's manifest, which follows the one at `head`."""
        position, previous = head
        contents, written = made.contents, made.written
        return Manifest(
            segment=contents.segment,
            position=position + 1,
            previous=previous,
            batch=origin.batch,
            source=origin.source,
            schema_name=origin.table.schema,
            table_name=origin.table.name,
            age=origin.age,
            cutoff=origin.cutoff,
            min_age=origin.min_age,
            max_age=origin.max_age,
            rows=written.rows,
            columns=list(written.columns),
            summary=summary.sealed(written.summary, made.data_key, contents.segment),
            schema_hash=contents.schema_hash,
            digest=written.digest,
            sha256=written.sha256,
            bytes=written.bytes,
            key_id=self._keys().key_id,
            created_at=self._clock.now(),
        )

    def sealed(self, kind: Kind, body: dict[str, object]) -> str:
        """Puts a sealed document under the hash of its ciphertext; its key."""
        return put_object(self._store, kind, self._keys().seal(kind, body))

    def discard(self, objects: Sequence[str], catalog: Catalog) -> None:
        """Frees the store of what nothing points to. What cannot be deleted counts for nothing: it has no commit object.

        The catalog notes it: a writer's token deletes nothing, and whoever may comes later. But not of a key, which opens nothing
        then: one that is noted was replaced by a rotation.
        """
        kept = list[str]()
        for key in objects:
            try:
                self._store.delete(key)
            except TierkeeperError:
                kept += [] if key.startswith("key/") else [key]
        if kept:
            with suppress(TierkeeperError), catalog.transaction() as cur:
                catalog.outlive(cur, kept)

    @contextmanager
    def scratch_file(self) -> Iterator[BinaryIO]:
        try:
            with tempfile.TemporaryFile(dir=self._scratch) as file:
                yield file
        except OSError as error:
            place = str(self._scratch or tempfile.gettempdir())
            remedy = "Make room there or point TMPDIR to a larger disk, then run again; nothing was moved"
            raise Failed(place, f"the segment's scratch file cannot be written ({error.strerror or error})", remedy) from error
