"""The archive as a tier that rows arrive in: a batch becomes a segment, by the same protocol as a batch between servers.

It writes and proves; what a segment looks like is `segment`'s to say, what the catalog keeps is `catalog`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal
from uuid import UUID, uuid4

from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.checkpoint import Watch
from tierkeeper.archive.lossless import arrow_schema
from tierkeeper.archive.model import Commit, Contents, Wrapping
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.ahead import preload
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, Fenced, TierkeeperError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import SEGMENT_BESIDE_BYTES
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Batch, LedgerRow, LedgerState, SourceSnapshot
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.objectstore.port import Store
from tierkeeper.postgres.arrow import stream_error
from tierkeeper.postgres.link import PINNED, Link
from tierkeeper.tiers import memory

if TYPE_CHECKING:
    import pyarrow as pa

    from tierkeeper.archive.writing import Made, Origin, SegmentWriter

_REMEDY_SOURCE: Final = "Nothing was moved: run the same command again, and `tierkeeper check` if it fails again"


class ArchiveDestination:
    """Implements `kernel.ports.Destination` for the archive.

    Keeps I1, I3 and I5: a batch is `copied` only after its segment was read back from the store, decrypted to the last byte and
    found equal to what the source gave, and after key and manifest were acknowledged; those of a bundle in one transaction of the
    catalog, which also says `done` or `undone` of all of them. Keeps I6: what leaves memory is ciphertext.
    Nothing in the store counts before its commit object, and a commit object that a crash left out is put by the next call.
    """

    tier: Tier = "archive"

    def __init__(
        self,
        store: Store,
        catalog: Link,
        keys: Callable[[], KeyRing],
        clock: Clock,
        *,
        watch: Watch | None = None,
        scratch: Path | None = None,
        weigh: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`weigh` is given the bytes of a segment before the first of them is put, and raises where there is no room for it."""
        self._store = store
        self._catalog = Catalog(catalog)
        self._keys = keys
        self._clock = clock
        self._weigh = weigh
        self._watch = watch or Watch(self._catalog, clock, None)
        self._scratch = scratch

    @cached_property
    def _writer(self) -> "SegmentWriter":
        from tierkeeper.archive.writing import SegmentWriter

        return SegmentWriter(self._store, self._keys, self._clock, self._scratch)

    def open(self, batch: Batch) -> LedgerRow:
        """See `Destination.open`. Raises as `open_all` does."""
        return self.open_all([batch])[0]

    def open_all(self, batches: Sequence[Batch]) -> list[LedgerRow]:
        """See `Destination.open_all`. Raises UsageError if the newest segment has another key, Failed in another store.

        Failed as well where the archive is older than this machine remembers it.
        """
        self._watch.require(self._catalog.place, self._watch.look())
        newest = self._catalog.newest()
        if newest is not None:
            require_same(self._store, newest[1])
        elif (known := next(iter(self._store.list("commit")), None)) is not None:
            cause = f"it holds segments ({known.key}), and the catalog knows none"
            remedy = "Run `tierkeeper archive rebuild`; a new archive needs a store of its own"
            raise Failed(self._store.name, cause, remedy)
        rows = self._catalog.open(batches, self._keys().key_id)
        preload("tierkeeper.archive.writing")  # it loads Arrow, while the source counts the rows and this side only waits
        return rows

    def reads(self, shape: TableShape) -> None:
        """Not by COPY."""

    def copy(self, batch: Batch, snapshot: SourceSnapshot) -> LedgerRow:
        """See `Destination.copy`."""
        del batch  # the snapshot has it
        return self.copy_all([snapshot])[0]

    def copy_all(self, snapshots: Sequence[SourceSnapshot]) -> list[LedgerRow]:
        """See `Destination.copy_all`. The source's transaction ends before the first byte goes to the store."""
        rows = [self._catalog.ledger_row(s.batch.id) for s in snapshots]
        known = [row for row in rows if row is not None and row.state == "copied"]
        if len(known) == len(snapshots):
            return known  # an earlier call's commit, whose answer was lost
        for row, snapshot in zip(rows, snapshots, strict=True):
            if row is None or row.state != "open":
                cause = f"another run has settled batch {snapshot.batch.id}"
                raise Fenced(self._catalog.place, cause, "Run the same command again")
        put: list[str] = []
        try:
            with ExitStack() as scratch:
                written = [self._written(s, scratch.enter_context(self._writer.scratch_file())) for s in snapshots]
                self._weigh(sum(made.written.bytes + SEGMENT_BESIDE_BYTES for made, _ in written))
                for made, file in written:
                    self._writer.put(made, file, put)
            proven = [(made, self._writer.proven(made, put)) for made, _ in written]
        except TierkeeperError:
            self._writer.discard(put, self._catalog)
            raise
        try:
            copied = self._enter(snapshots, proven, put)
        except Fenced:
            self._writer.discard(put, self._catalog)
            raise
        # After another error the outcome may be unknown (connection lost at COMMIT): what was put stays, and counts for nothing.
        reach(Point.COPIED)
        return copied

    def _enter(
        self, snapshots: Sequence[SourceSnapshot], proven: "Sequence[tuple[Made, Wrapping]]", put: list[str]
    ) -> list[LedgerRow]:
        """Manifests, ledger rows, segment rows and chain head, in one transaction. Each segment comes with its key's object."""
        copied = []
        with self._catalog.transaction() as cur:
            head = self._catalog.chain_head(cur)
            for snapshot, (made, key) in zip(snapshots, proven, strict=True):
                manifest = self._writer.manifest(made, head, _origin(snapshot))
                try:
                    put.append(self._writer.sealed("manifest", manifest.body()))
                except TierkeeperError:
                    # Nothing was entered, and on a full disk what is left behind makes it worse (I9).
                    self._writer.discard(put, self._catalog)
                    raise
                reach(Point.MANIFEST_PUT)
                head = (manifest.position, put[-1].partition("/")[2])
                copied.append(self._catalog.copied(cur, manifest, head[1], key, snapshot.extent))
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
        self._watch.look()  # remembers how far the chain has come

    def undo(self, batch_id: UUID) -> None:
        """See `Destination.undo`. The manifest stays: those after it are chained to it."""
        objects = self._catalog.undone(batch_id)
        if objects is None:
            if self._catalog.state(batch_id) in ("done", "forgotten"):
                raise Fenced(self._catalog.place, f"batch {batch_id} is done and cannot be undone", "Run the same command again")
            return
        reach(Point.UNDONE)
        self._writer.discard(objects, self._catalog)

    def withdraw(self, batch_id: UUID) -> bool:
        """See `Destination.withdraw`."""
        if self._catalog.undone(batch_id, ("open",)) is None:
            return False
        reach(Point.UNDONE)
        return True

    def source_keeps(self, batch_id: UUID) -> bool:  # noqa: ARG002 - rows come from a database, which is all that there is
        """See `Destination.source_keeps`."""
        return False

    def origin(self, table: TableName) -> UUID | None:
        """See `Destination.origin`."""
        with self._catalog.connected() as conn:
            return memory.origin(conn, "main", table)

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

    def _written(self, snapshot: SourceSnapshot, scratch: BinaryIO) -> "tuple[Made, BinaryIO]":
        """Source -> encrypted scratch file, which has no name: no crash can leave it behind."""
        contents = Contents(uuid4(), snapshot.shape, snapshot.batch.age, _age_is_native(snapshot), dict(PINNED))
        carried = contents.carried
        projection = [(c.column.name, c.expression) for c in carried]
        order = list(dict.fromkeys(c for c in (contents.age, *contents.shape.key) if c))
        place = f"{contents.shape.name} (archive)"
        with snapshot.arrow(projection, order) as reader:
            made = self._writer.write(contents, _read(reader, arrow_schema(carried), place), scratch)
        snapshot.close()
        if made.written.rows != snapshot.extent.rows:
            cause = f"{made.written.rows} rows were read where the same snapshot counted {snapshot.extent.rows}"
            raise Failed(place, cause, _REMEDY_SOURCE)
        reach(Point.SEGMENT_WRITTEN)
        return made, scratch

    def _put_missing_commits(self) -> None:
        for segment in self._catalog.uncommitted():
            require_same(self._store, segment.manifest)
            bundle = self._catalog.bundle(segment.batch)
            version: Literal[1, 2] = 1 if bundle is None else 2
            body = Commit(
                version=version, segment=segment.id, batch=segment.batch, manifest=segment.manifest, bundle=bundle
            ).body()
            commit = self._writer.sealed("commit", body)
            reach(Point.COMMIT_PUT)
            self._catalog.committed(segment.id, commit)


def require_same(store: Store, manifest: str) -> None:
    """A folder without its disk looks like an empty store: what is written there is lost when the disk is mounted over it."""
    if store.head(f"manifest/{manifest}") is None:
        cause = f"it does not hold the archive's manifest {manifest}"
        remedy = "Check that its disk is mounted and that this is the archive's own store, then run again"
        raise Failed(store.name, cause, remedy)


def _origin(snapshot: SourceSnapshot) -> "Origin":
    from tierkeeper.archive.writing import Origin

    batch, extent = snapshot.batch, snapshot.extent
    return Origin(batch.id, batch.source, batch.table, batch.age, batch.cutoff, extent.min_age, extent.max_age)


def _age_is_native(snapshot: SourceSnapshot) -> bool:
    """Ages before the year 1 have no least age in `extent`: they go as text, as all that lies outside Python's years."""
    extent = snapshot.extent
    return not extent.rows or (extent.min_age is not None and extent.max_age is not None)


def _read(reader: "pa.RecordBatchReader", schema: "pa.Schema", place: str) -> "Iterator[pa.RecordBatch]":
    """The source's batches under `schema`. Raises NotNow where the stream breaks, Failed for other types."""
    import pyarrow as pa

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
