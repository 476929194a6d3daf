"""Puts one segment in the place of another, whose rows it has, or those of them that are to stay."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.checkpoint import Watch
from tierkeeper.archive.model import Removal, Replacement, Segment, WrappedKey, Wrapping, parse_document
from tierkeeper.archive.reading import SegmentReader
from tierkeeper.archive.writing import Made, Origin, SegmentWriter
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, Fenced, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import WAIT_EXTRA_SECONDS
from tierkeeper.kernel.tables import TableName
from tierkeeper.objectstore.port import ObjectLocked, ObjectMissing, Store
from tierkeeper.postgres.statements import load

_SQL: Final = load("tierkeeper.archive", "replacing.sql")
_LOOK_SECONDS: Final = 0.2
_COUNTING: Final = ("copied", "sealed", "unsure")

Choose = Callable[[int, pa.RecordBatch], pa.Array]
"""Of a batch of a segment's rows, the number of the first given: which of them stay, as booleans."""


def all_stay(first: int, batch: pa.RecordBatch) -> pa.Array:
    """A `Choose` that leaves nothing out."""
    del first
    return pa.repeat(pa.scalar(True), batch.num_rows)


def chosen_by(goes: bytes) -> Choose:
    """A `Choose` that leaves out the rows whose byte in `goes` is 1, one a row."""

    def stays(first: int, batch: pa.RecordBatch) -> pa.Array:
        marks = pa.py_buffer(goes[first : first + batch.num_rows])
        return pc.equal(pa.Array.from_buffers(pa.uint8(), batch.num_rows, [None, marks]), 0)

    return stays


_Written = tuple[Made, Origin, Wrapping]


class Replacer:
    """I1 and I2: the new segment was read back and compared before one transaction of the catalog makes it count and the old
    one not. I8: then one signed word in the store says both, and only then the old one's objects may go; a catalog that is lost
    before is made again with the old one. Killed at any step, the next run goes on.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        keys: Callable[[], KeyRing],
        clock: Clock,
        *,
        watch: Watch,
        scratch: Path | None = None,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._keys = keys
        self._clock = clock
        self._watch = watch
        self._reader = SegmentReader(store, keys)
        self._writer = SegmentWriter(store, keys, clock, scratch)

    def replace(self, old: Segment, stays: Choose, erased: int) -> UUID:
        """Writes the rows of `old` that stay, all but `erased`, as a segment that counts instead of it; its id.

        Raises Failed where others stay than were said, Fenced where another run has changed the old one; then nothing counts
        that did not before.
        """
        self._watch.require(self._catalog.place, self._watch.look())
        self.say()
        put: list[str] = []
        try:
            written = self._written(old, stays, erased, put)
        except TierkeeperError:
            self._writer.discard(put, self._catalog)
            raise
        try:
            self._exchange(old, written, put, erased)
        except Fenced:
            self._writer.discard(put, self._catalog)
            raise
        # After another error the outcome may be unknown (connection lost at COMMIT): what was put stays, and counts for nothing.
        reach(Point.REPLACED)
        self.say()
        self._watch.look()  # remembers how far the chain has come
        return written[0].contents.segment

    def _written(self, old: Segment, stays: Choose, erased: int, put: list[str]) -> _Written:
        """The new segment in the store, read back and compared, with its key."""
        manifest = self._reader.manifest(old)
        with self._writer.scratch_file() as scratch, self._reader.open(old) as content:
            native = content.contents.age_is_native
            contents = replace(content.contents, segment=uuid4())
            kept = _Kept(content.batches(), stays, old.age if native else "")
            made = self._writer.write(contents, kept, scratch)
            if made.written.rows != old.rows - erased:
                cause = f"{made.written.rows} of its {old.rows} rows stay, where {old.rows - erased} were to"
                raise Failed(f"segment {old.id}", cause, "Run the same command again")
            reach(Point.SEGMENT_WRITTEN)
            self._writer.put(made, scratch, put)
        origin = Origin(uuid4(), "archive", old.table, old.age, manifest.cutoff, kept.least, kept.greatest)
        return made, origin, self._writer.proven(made, put)

    def _exchange(self, old: Segment, written: _Written, put: list[str], erased: int) -> None:
        made, origin, key = written
        bundle = self._catalog.bundle(old.batch)
        with self._catalog.transaction() as cur:
            head = self._catalog.chain_head(cur)
            if not self._catalog.left(cur, old.id):
                raise Fenced(f"segment {old.id}", "another run has changed it", "Run the same command again")
            said = self._writer.manifest(made, head, origin)
            put.append(self._writer.sealed("manifest", said.body()))
            reach(Point.MANIFEST_PUT)
            if self._store.head(key.object) is None:
                raise Fenced(
                    f"segment {old.id}", "an erase has taken the key of what was to replace it", "Run the same command again"
                )
            sha256 = put[-1].partition("/")[2]
            self._catalog.reenter(cur, said, sha256, key, ("forgotten", "sealed"), said=(None, None))
            self._catalog.set_chain(cur, said.position, sha256)
            enter(cur, old.id, made.contents.segment, erased)
            if bundle is not None:
                self._catalog.tie(cur, origin.batch, bundle)
            reach(Point.REPLACE_BEFORE_COMMIT)

    def rest(self, segments: Sequence[UUID], longest_reader_seconds: float) -> None:
        """Waits until no reader can mistake those that came to the archive a moment ago: one that saw their rows at Main must not
        count what is put in their places. Raises NotNow for one in flight.
        """
        until = self._clock.monotonic() + longest_reader_seconds + WAIT_EXTRA_SECONDS
        while True:
            self._catalog.forget(longest_reader_seconds, [])
            with self._catalog.transaction(read_only=True) as cur:
                young = cur.execute(_SQL["young"], {"segments": list(segments)}).fetchone()
            if young is None:
                return
            if self._clock.monotonic() > until:
                raise NotNow(f"segment {young[0]}", "it is on its way to the archive", "Run `archive run`, then this again")
            self._clock.sleep(_LOOK_SECONDS)

    def say(self) -> None:
        """Puts what the store has to know of replacements and removals, where a run was killed before it could."""
        with self._catalog.transaction(read_only=True) as cur:
            unsaid = cur.execute(_SQL["replaced_unsaid"]).fetchall()
            removed = cur.execute(_SQL["removed_unsaid"]).fetchall()
        for old, old_manifest, new, new_manifest, erased in unsaid:
            word = Replacement(
                segment=new, manifest=new_manifest, replaces=old_manifest, erased=erased, replaced_at=self._clock.now()
            )
            said = self._writer.sealed("commit", word.body())
            reach(Point.REPLACEMENT_SAID)
            with self._catalog.transaction() as cur:
                self._catalog.note_committed(cur, new, said)
                self._catalog.left_said(cur, old, said)
        for segment, manifest in removed:
            self._say_removed(segment, manifest, "its time was over")

    def _say_removed(self, segment: UUID, manifest: str, reason: str) -> None:
        over = Removal(segment=segment, manifest=manifest, reason=reason, removed_at=self._clock.now())
        said = self._writer.sealed("commit", over.body())
        reach(Point.REMOVAL_PUT)
        with self._catalog.transaction() as cur:
            self._catalog.left_said(cur, segment, said)

    def remove(self, segment: Segment, reason: str) -> bool:
        """Takes a segment out of the archive for good; whether it counted until now, and nothing about it was in flight."""
        with self._catalog.transaction() as cur:
            counted = self._catalog.left(cur, segment.id)
        reach(Point.SEGMENT_REMOVED)
        if counted:
            self._say_removed(segment.id, segment.manifest, reason)
        return counted

    def destroy_keys(self, table: TableName) -> tuple[int, int, str | None]:
        """Deletes every wrapped key of the table's segments that count no more, at once: no copy of such a file opens again.

        I8: but for those of which the store has no word yet: a catalog that is made again counts them.
        Also those that the catalog does not know: a rotation that was killed leaves such, and a run to the archive, whose segment
        may be of any table. Readers that are under way in one are told to ask again. How many keys went, how many stay, and why.
        """
        self.say()
        lying = {info.key for info in self._store.list("key")}
        chain, _ = self._catalog.chain()
        counting = {s.key_object for s in chain if s.state in _COUNTING}
        own = [s for s in chain if s.table == table and (s.state == "undone" or (s.state == "removed" and s.removal_object))]
        ids, known, every = {s.id for s in own}, {s.key_object for s in own}, {s.id for s in chain}
        whose = {key: self._segment_of(key) for key in lying - counting - known}
        gone, left, refused = self._destroyed((lying - counting) & known | {key for key, of in whose.items() if of in ids})
        strays = {key: of for key, of in whose.items() if of is not None and of not in every}
        if not strays:
            return gone, left, refused
        if (why := self._spoken_for(set(strays.values()))) is not None:
            return gone, left + len(strays), why
        with self._catalog.transaction() as cur:
            length, _ = self._catalog.chain_head(cur)  # nobody enters a segment meanwhile, nor puts one in another's place
            whole = length == len(chain) and all(s.state != "unsure" for s in chain)
            if (why := self._needed(cur, whole=whole)) is not None:
                return gone, left + len(strays), why
            more, stay, refused_more = self._destroyed(set(strays))
        return gone + more, left + stay, refused or refused_more

    def _destroyed(self, keys: AbstractSet[str]) -> tuple[int, int, str | None]:
        gone, refused = 0, None
        for key in sorted(keys):
            try:
                self._store.delete(key)
            except (UsageError, ObjectLocked) as error:
                refused = error.cause
                continue
            reach(Point.KEY_DESTROYED)
            self._catalog.gone(key)
            gone += 1
        return gone, len(keys) - gone, refused

    def _needed(self, cur: psycopg.Cursor, *, whole: bool) -> str | None:
        """Why keys of segments that the catalog does not know may be needed. They were listed before.

        I1: a batch is open before its key is put, and until its segment is entered. A catalog that was made again lacks segments
        whose manifests were lost, and of those for which nothing speaks it has only some.
        """
        if cur.execute(_SQL["under_way"]).fetchone() == (True,):
            return "a run to the archive is under way, or was cut short: run `tierkeeper archive run`, then this again"
        if not whole:
            cause = "keys lie there of segments that the catalog does not know, and it may lack some"
            return f"{cause}: run this again, or see `tierkeeper archive verify`"
        return None

    def _spoken_for(self, segments: AbstractSet[UUID]) -> str | None:
        """Which commit object says that one of `segments` counts, or cannot be read, if one does."""
        for info in self._store.list("commit"):
            try:
                said = self._keys().unseal("commit", self._store.get(info.key), info.key)
            except Failed as error:
                return f"{info.key}: {error.cause}"
            if UUID(str(said.get("segment", UUID(int=0)))) in segments:
                return f"{info.key} says that a segment counts which the catalog does not know: see `tierkeeper archive verify`"
        return None

    def _segment_of(self, key: str) -> UUID | None:
        """Whose data key it is; None where it is gone already, or nothing that this archive has written."""
        try:
            body = self._keys().unseal("key", self._store.get(key), key)
        except ObjectMissing:
            self._catalog.gone(key)
            return None
        except Failed:
            return None
        return parse_document(WrappedKey, body, key).segment


class _Kept:
    """The rows that stay, as they are read; when all were, their least and greatest age."""

    def __init__(self, batches: Iterator[pa.RecordBatch], stays: Choose, age: str) -> None:
        self._batches = batches
        self._stays = stays
        self._age = age
        self.least: datetime | None = None
        self.greatest: datetime | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in self._batches:
            kept = batch.filter(self._stays(first, batch))
            first += batch.num_rows
            if kept.num_rows:
                self._count(kept)
                yield kept

    def _count(self, kept: pa.RecordBatch) -> None:
        if not self._age:
            return
        found = pc.min_max(kept.column(self._age).cast(pa.timestamp("us")))
        if found["min"].is_valid:
            least, greatest = (found[end].as_py().replace(tzinfo=UTC) for end in ("min", "max"))
            self.least = least if self.least is None else min(self.least, least)
            self.greatest = greatest if self.greatest is None else max(self.greatest, greatest)


def enter(cur: psycopg.Cursor, old: UUID, new: UUID, erased: int) -> None:
    """Notes in the catalog that one segment is in the place of another."""
    cur.execute(_SQL["replaced"], {"segment": old, "by": new, "erased": erased})
