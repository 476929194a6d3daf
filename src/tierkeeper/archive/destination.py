"""The archive as a tier that rows arrive in: a batch becomes a segment, by the same protocol as a batch between servers.

It writes and proves; what a segment looks like is `segment`'s to say, what the catalog keeps is `catalog`'s.
"""

import hashlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID, uuid4

import pyarrow as pa

from tierkeeper.archive import segment as format_
from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.lossless import arrow_schema
from tierkeeper.archive.model import Commit, Contents, Manifest, Segment, WrappedKey
from tierkeeper.archive.reading import check_content
from tierkeeper.archive.segment import DATA_KEY_BYTES, Written
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, Fenced, TierkeeperError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Batch, LedgerRow, LedgerState, SourceSnapshot
from tierkeeper.kernel.tables import TableName
from tierkeeper.objectstore.port import ObjectExists, Store, put_bytes
from tierkeeper.postgres.arrow import stream_error
from tierkeeper.postgres.link import PINNED, Link

_REMEDY_SOURCE: Final = "Nothing was moved: run the same command again, and `tierkeeper check` if it fails again"


class ArchiveDestination:
    """Implements `kernel.ports.Destination` for the archive.

    Keeps I1, I3 and I5: a batch is `copied` only after its segment was read back from the store, decrypted to the last byte and
    found equal to what the source gave, and after key and manifest were acknowledged. Keeps I6: what leaves memory is ciphertext.
    Nothing in the store counts before its commit object, and a commit object that a crash left out is put by the next call.
    """

    tier: Tier = "archive"

    def __init__(
        self, store: Store, catalog: Link, keys: Callable[[], KeyRing], clock: Clock, scratch: Path | None = None
    ) -> None:
        self._store = store
        self._catalog = Catalog(catalog)
        self._keys = keys
        self._clock = clock
        self._scratch = scratch

    def open(self, batch: Batch) -> LedgerRow:
        """See `Destination.open`. Raises UsageError if the archive was last written with another key, Failed in another store."""
        newest = self._catalog.newest()
        if newest is not None:
            self._same_store(newest[1])
        return self._catalog.open(batch, self._keys().key_id)

    def copy(self, batch: Batch, snapshot: SourceSnapshot) -> LedgerRow:
        """See `Destination.copy`."""
        row = self._catalog.ledger_row(batch.id)
        if row is not None and row.state == "copied":
            return row  # an earlier call's commit, whose answer was lost
        if row is None or row.state != "open":
            raise Fenced(self._catalog.place, f"another run has settled batch {batch.id}", "Run the same command again")
        ring, data_key = self._keys(), secrets.token_bytes(DATA_KEY_BYTES)
        contents = Contents(uuid4(), snapshot.shape, batch.age, _age_is_native(snapshot), dict(PINNED))
        put: list[str] = []
        try:
            written = self._put_segment(contents, snapshot, data_key, put)
            self._prove(contents, written, data_key)
            put.append(self._put_sealed(ring, "key", WrappedKey(segment=contents.segment, data_key=data_key.hex()).body()))
        except TierkeeperError:
            self._discard(put)
            raise
        try:
            copied = self._enter(batch, snapshot, contents, written, put)
        except Fenced:
            self._discard(put)
            raise
        # After another error the outcome may be unknown (connection lost at COMMIT): what was put stays, and counts for nothing.
        reach(Point.COPIED)
        return copied

    def _enter(
        self, batch: Batch, snapshot: SourceSnapshot, contents: Contents, written: Written, put: Sequence[str]
    ) -> LedgerRow:
        """Manifest, ledger row, segment row and chain head, in one transaction. `put`: the segment, then its key."""
        ring = self._keys()
        with self._catalog.transaction() as cur:
            manifest = self._manifest(batch, snapshot, contents, written, self._catalog.chain_head(cur))
            try:
                manifest_key = self._put_sealed(ring, "manifest", manifest.body())
            except TierkeeperError:
                self._discard(put)  # nothing was entered, and on a full disk what is left behind makes it worse (I9)
                raise
            reach(Point.MANIFEST_PUT)
            copied = self._catalog.copied(cur, manifest, manifest_key.partition("/")[2], put[-1], snapshot.extent)
            reach(Point.COPY_BEFORE_COMMIT)
        return copied

    def settled_for_readers(self, batch_ids: Sequence[UUID]) -> str | None:
        """Always None: readers take the catalog's snapshot last, and the marker they saw before decides (design section 4)."""
        del batch_ids
        return None

    def finish(self, batch_id: UUID) -> None:
        """See `Destination.finish`; the signed commit object follows."""
        if not self._catalog.done(batch_id) and self._catalog.state(batch_id) not in ("done", "forgotten"):
            cause = f"batch {batch_id} was moved, but its ledger row does not say that it was copied"
            remedy = "Stop archiving and run `tierkeeper archive verify`: the catalog may have been put back from a backup"
            raise Failed(self._catalog.place, cause, remedy)
        reach(Point.DONE)
        self._put_missing_commits()

    def undo(self, batch_id: UUID) -> None:
        """See `Destination.undo`. The manifest stays: those after it are chained to it."""
        objects = self._catalog.undone(batch_id)
        if objects is None:
            if self._catalog.state(batch_id) in ("done", "forgotten"):
                raise Fenced(self._catalog.place, f"batch {batch_id} is done and cannot be undone", "Run the same command again")
            return
        reach(Point.UNDONE)
        self._discard(objects)

    def unsettled(self, table: TableName | None = None) -> list[LedgerRow]:
        """See `Destination.unsettled`. Puts the commit objects that a crash after `done` has left out."""
        self._put_missing_commits()
        return self._catalog.unsettled(table)

    def forget(self, older_than_seconds: float, settled: Sequence[UUID]) -> list[UUID]:
        """See `Destination.forget`."""
        droppable = self._catalog.forget(older_than_seconds, settled)
        reach(Point.FORGOTTEN)
        return droppable

    def rests(self, table: TableName, longest_reader_seconds: float) -> str | None:
        """See `Destination.rests`."""
        self._catalog.forget(longest_reader_seconds, [])
        states = self._catalog.resting(table)
        if not states:
            return None
        return "resting: " + ", ".join(f"{n} {'batch' if n == 1 else 'batches'} {s}" for s, n in states) + " in archive"

    def knows(self, batch_id: UUID) -> LedgerState | None:
        """See `Destination.knows`."""
        return self._catalog.state(batch_id)

    def _put_segment(self, contents: Contents, snapshot: SourceSnapshot, data_key: bytes, put: list[str]) -> Written:
        """Source -> encrypted scratch file -> store. The scratch file has no name: no crash can leave it behind."""
        carried = contents.carried
        projection = [(c.column.name, c.expression) for c in carried]
        order = list(dict.fromkeys([contents.age, *contents.shape.key]))
        place = f"{contents.shape.name} (archive)"
        with self._scratch_file() as scratch:
            with snapshot.arrow(projection, order) as reader:
                written = format_.write(contents, _read(reader, arrow_schema(carried), place), data_key, scratch)
            snapshot.close()
            if written.rows != snapshot.extent.rows:
                cause = f"{written.rows} rows were read where the same snapshot counted {snapshot.extent.rows}"
                raise Failed(place, cause, _REMEDY_SOURCE)
            reach(Point.SEGMENT_WRITTEN)
            scratch.seek(0)
            self._store.put(f"segment/{written.sha256}", scratch, length_bytes=written.bytes, sha256=written.sha256)
        put.append(f"segment/{written.sha256}")
        reach(Point.SEGMENT_PUT)
        return written

    def _prove(self, contents: Contents, written: Written, data_key: bytes) -> None:
        """I3: what the store gives back, decrypted whole, is what the source gave."""
        place = f"segment {contents.segment}"
        with self._store.open(f"segment/{written.sha256}") as file:
            check_content(
                file,
                contents.segment,
                data_key,
                place,
                sha256=written.sha256,
                length_bytes=written.bytes,
                rows=written.rows,
                digest=written.digest,
            )

    def _manifest(
        self, batch: Batch, snapshot: SourceSnapshot, contents: Contents, written: Written, head: tuple[int, str | None]
    ) -> Manifest:
        position, previous = head
        return Manifest(
            segment=contents.segment,
            position=position + 1,
            previous=previous,
            batch=batch.id,
            source=batch.source,
            schema_name=batch.table.schema,
            table_name=batch.table.name,
            age=batch.age,
            cutoff=batch.cutoff,
            min_age=snapshot.extent.min_age,
            max_age=snapshot.extent.max_age,
            first_key=list(written.first_key),
            last_key=list(written.last_key),
            rows=written.rows,
            columns=list(written.columns),
            schema_hash=contents.schema_hash,
            digest=written.digest,
            sha256=written.sha256,
            bytes=written.bytes,
            key_id=self._keys().key_id,
            created_at=self._clock.now(),
        )

    def _put_sealed(self, ring: KeyRing, kind: str, body: dict[str, object]) -> str:
        """Puts a sealed document under the hash of its ciphertext; its key."""
        sealed = ring.seal(kind, body)
        key = f"{kind}/{hashlib.sha256(sealed).hexdigest()}"
        put_bytes(self._store, key, sealed)
        return key

    def _put_missing_commits(self) -> None:
        for segment in self._catalog.uncommitted():
            self._put_commit(segment)
            self._catalog.committed(segment.id)

    def _put_commit(self, segment: Segment) -> None:
        """The commit object lies under its manifest's hash, so that one look tells whether a manifest counts."""
        if self._store.head(segment.commit_key) is None:
            self._same_store(segment.manifest)
            body = Commit(segment=segment.id, batch=segment.batch, manifest=segment.manifest).body()
            with suppress(ObjectExists):  # another run put it meanwhile: it says the same
                put_bytes(self._store, segment.commit_key, self._keys().seal("commit", body))
        reach(Point.COMMIT_PUT)

    def _same_store(self, manifest: str) -> None:
        """A folder without its disk looks like an empty store: what is written there is lost when the disk is mounted over it."""
        if self._store.head(f"manifest/{manifest}") is None:
            cause = f"it does not hold the archive's manifest {manifest}"
            remedy = "Check that its disk is mounted and that this is the archive's own store, then run again"
            raise Failed(self._store.name, cause, remedy)

    def _discard(self, objects: Sequence[str]) -> None:
        """Frees the store of what nothing points to. What cannot be deleted counts for nothing: it has no commit object."""
        for key in objects:
            with suppress(TierkeeperError):
                self._store.delete(key)

    @contextmanager
    def _scratch_file(self) -> Iterator[BinaryIO]:
        try:
            with tempfile.TemporaryFile(dir=self._scratch) as file:
                yield file
        except OSError as error:
            place = str(self._scratch or tempfile.gettempdir())
            remedy = "Make room there or point TMPDIR to a larger disk, then run again; nothing was moved"
            raise Failed(place, f"the segment's scratch file cannot be written ({error.strerror or error})", remedy) from error


def _age_is_native(snapshot: SourceSnapshot) -> bool:
    """Ages before the year 1 have no least age in `extent`: they go as text, as all that lies outside Python's years."""
    extent = snapshot.extent
    return not extent.rows or (extent.min_age is not None and extent.max_age is not None)


def _read(reader: pa.RecordBatchReader, schema: pa.Schema, place: str) -> Iterator[pa.RecordBatch]:
    """The source's batches under `schema`. Raises NotNow where the stream breaks, Failed for other types."""
    if reader.schema.names != schema.names or reader.schema.types != schema.types:
        difference = next(
            (f"{a} for {b}" for a, b in zip(reader.schema, schema, strict=False) if a.type != b.type), "other columns"
        )
        raise Failed(place, f"the source gave {difference}", _REMEDY_SOURCE)
    while True:
        try:
            columns = reader.read_next_batch().columns
        except StopIteration:
            return
        except OSError as error:
            raise stream_error(place, str(error)) from error
        except pa.ArrowException as error:
            raise Failed(place, f"the source's rows stopped coming ({str(error).splitlines()[0]})", _REMEDY_SOURCE) from error
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        del columns
        yield batch
        del batch
