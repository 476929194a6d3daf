"""The archive as the rest of the house uses it: list, show, verify, restore, and the tier that rows move to."""

import builtins
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from tierkeeper.archive.catalog import SCHEMA, Catalog, reading, rows_by_table
from tierkeeper.archive.checkpoint import Checkpoints, Watch
from tierkeeper.archive.destination import ArchiveDestination, require_same
from tierkeeper.archive.model import Segment
from tierkeeper.archive.outlived import sweep
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.policy import OnConflict
from tierkeeper.kernel.ports import Frozen, Stop
from tierkeeper.kernel.results import (
    DrillResult,
    ReadingStatus,
    RebuildResult,
    RestoreResult,
    SegmentDetail,
    SegmentResult,
    VerifyResult,
)
from tierkeeper.kernel.tables import TableName
from tierkeeper.objectstore.port import Store
from tierkeeper.postgres.link import Connection, Link

if TYPE_CHECKING:
    from tierkeeper.archive import restore as restoring
    from tierkeeper.archive.keyed import Keys
    from tierkeeper.archive.reading import SegmentReader
    from tierkeeper.archive.rebuild import Markers
    from tierkeeper.archive.replacing import Replacer
    from tierkeeper.archive.retention import Clocks, Retention
    from tierkeeper.archive.rotation import Rotation
    from tierkeeper.archive.scan import ArchiveScan
    from tierkeeper.archive.thaw import SegmentVault
    from tierkeeper.archive.verify import Bounds


class Archive:
    """Store, catalog and keys together. Constructing it reaches none of them; `keys` is asked when a key is needed.

    `source_marker` gives the marker of a batch in the tier that its rows came from: it alone says whether a segment counts
    that an interrupted run left `copied`. `checkpoints`: where this machine remembers how far the archive had come.
    What reads or writes segments is loaded by the method that needs it: Arrow takes longer than to ask the catalog.
    """

    def __init__(
        self,
        store: Store,
        catalog: Link,
        keys: Callable[[], KeyRing],
        clock: Clock,
        *,
        source_marker: Callable[[UUID], str | None],
        checkpoints: Checkpoints | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._source_marker = source_marker
        self._store = store
        self._link = catalog
        self._catalog = Catalog(catalog)
        self._keys = keys
        self.watch = Watch(self._catalog, clock, checkpoints)
        self._clock = clock
        self._scratch = scratch

    @property
    def reader(self) -> "SegmentReader":
        """Opens segments of `segments`."""
        from tierkeeper.archive.reading import SegmentReader

        return SegmentReader(self._store, self._keys)

    @property
    def schema(self) -> Mapping[str, str]:
        """What the catalog needs in its schema `tierkeeper`: relation -> the statement that makes it."""
        return SCHEMA

    @contextmanager
    def destination(self, weigh: Callable[[int], None] = lambda _: None) -> Iterator[ArchiveDestination]:
        """The archive's side of a move; see `ArchiveDestination` for `weigh`."""
        parts = self._store, self._link, self._keys, self._clock
        yield ArchiveDestination(*parts, watch=self.watch, scratch=self._scratch, weigh=weigh)

    def scan(self) -> "ArchiveScan":
        """The archive as `query` reads it."""
        from tierkeeper.archive.scan import ArchiveScan

        return ArchiveScan(self._catalog, self.reader)

    def probe(self) -> str:
        """Proves that the store can be written; what was found. Raises as the store does.

        Failed where the catalog knows segments and the store does not: its disk may not be mounted.
        """
        newest = None
        with suppress(TierkeeperError):  # what is wrong with the catalog is told of the catalog
            newest = self._catalog.newest()
        if newest is not None:
            require_same(self._store, newest[1])
        return self._store.probe()

    def written_with(self) -> str | None:
        """Id of the key that the newest segment was written with; None while there is no segment. Raises as the catalog does."""
        newest = self._catalog.newest()
        return newest[0] if newest else None

    def rows_by_table(self, conn: Connection) -> dict[TableName, int]:
        """How many rows count in the archive, read from its catalog through `conn`."""
        return rows_by_table(conn)

    def tables(self) -> set[TableName]:
        """Those of which rows count in the archive."""
        with self._catalog.connected() as conn:
            return set(rows_by_table(conn))

    def reading(self, conn: Connection) -> ReadingStatus:
        """How far the segments were read back whole, from the archive's catalog through `conn`."""
        return reading(conn)

    def segments_of(self, batch_ids: Sequence[str]) -> builtins.list[str]:
        """Ids of the segments that the batches became."""
        return self._catalog.segments_of(batch_ids)

    def segments(self, table: TableName | None = None) -> builtins.list[Segment]:
        """The catalog's rows, in the order of their chain; those `copied` still count in the tier above."""
        return self._catalog.segments(table)

    def list(self, table: TableName | None = None) -> builtins.list[SegmentResult]:
        """What `archive list` shows, oldest rows first."""
        names: dict[tuple[str, str], str] = {}  # quoting them takes longer than all the rest
        listed = []
        for segment, schema, name, rows, size_bytes, least, greatest, state, read_at in self._catalog.listed(table):
            shown = names.get((schema, name)) or names.setdefault((schema, name), str(TableName(schema, name)))
            listed.append(
                SegmentResult(
                    segment=segment, table=shown, rows=rows, bytes=size_bytes, min_age=least, max_age=greatest, state=state,
                    verified_at=read_at,
                )
            )  # fmt: skip
        return listed

    def show(self, segment: str) -> SegmentDetail:
        """A segment with what its signed manifest says. Raises UsageError for an unknown one."""
        found = self._catalog.segments(segment_id=_id(segment))
        if not found:
            raise unknown(segment)
        manifest = self.reader.manifest(found[0])
        return SegmentDetail(
            **_shown(found[0]),
            sha256=manifest.sha256,
            key_id=manifest.key_id,
            schema_hash=manifest.schema_hash,
            columns={c.name: c.type for c in manifest.columns},
            source=manifest.source,
            batch=str(manifest.batch),
            created_at=manifest.created_at,
        )

    def verify(self, segment: str | None = None, sample: str | None = None, **bounds: "Unpack[Bounds]") -> VerifyResult:
        """Reads every segment, one, or a share `n/t` of them, back from the store whole; see `verify.verify`."""
        from tierkeeper.archive import verify as verifying

        chosen = verifying.Sample.parse(sample) if sample is not None else None
        parts = self._store, self._catalog, self._keys, self.watch
        return verifying.verify(*parts, segment_id=_id(segment), sample=chosen, **bounds)

    def rebuild(self, markers: "Markers") -> RebuildResult:
        """Makes the catalog again from the store; see `rebuild.Rebuilder`."""
        from tierkeeper.archive.rebuild import Rebuilder

        result = Rebuilder(self._store, self._catalog, self._keys(), self.watch, markers).run()
        if result.ok:
            with self.destination() as destination:
                destination.unsettled()  # puts the commit objects of those that a marker has spoken for
        return result

    def drill(self, ring: KeyRing, scratch: Link, stop: Stop, sample: str | None = None) -> DrillResult:
        """Opens the archive on `scratch`, an empty database, with `ring` and the store alone; see `drill.Drill`.

        The catalog, if it answers, has to know as many segments, and keeps how it went.
        """
        from tierkeeper.archive.drill import Drill
        from tierkeeper.archive.verify import Sample

        share = Sample.parse(sample) if sample is not None else None
        before = self._sealed()

        def listed(found: int) -> str | None:
            after = self._sealed()
            if before is None or after is None or before <= found <= after:
                return None
            return f"the store gives {found} segments, and the catalog knows {after}"

        result = Drill(self._store, ring, scratch, self._clock, stop).run(share, listed)
        if before is not None and (result.stopped_because is None or result.wrong):  # one that was cut short proves nothing
            self._catalog.drilled(result)
        return result

    def _sealed(self) -> int | None:
        """How many segments count; None where the catalog is gone."""
        try:
            return self._catalog.sealed()
        except (NotNow, UsageError):
            return None

    def is_new(self) -> bool:
        """Whether nothing was ever archived: neither the store nor, where it answers, the catalog knows a segment."""
        if next(iter(self._store.list("commit")), None) is not None:
            return False
        try:
            return self._catalog.newest() is None
        except UsageError:  # it was not set up yet
            return True

    def keys_used(self) -> dict[str, int]:
        """Segments by the id of the key that they were written with."""
        return self._catalog.keys_used()

    def chosen(
        self,
        table: TableName,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        segment: str | None = None,
    ) -> builtins.list[builtins.list[Frozen]]:
        """The segments that a thaw is for; see `SegmentVault.chosen`."""
        return self.vault.chosen(table, since=since, until=until, segment_id=_id(segment))

    def now(self) -> datetime:
        """By the catalog server's clock."""
        return self._catalog.now()

    def retention(self, clocks: "Clocks") -> "Retention":
        """Removes segments whose time is over, by this archive's clocks and by those of other servers, `clocks`."""
        from tierkeeper.archive.retention import Retention

        return Retention(self._store, self._catalog, self._clock, clocks)

    def sweep(self, longest_reader_seconds: float) -> str | None:
        """Deletes what nothing points to any more; see `outlived.sweep`."""
        return sweep(self._store, self._catalog, longest_reader_seconds)

    @property
    def vault(self) -> "SegmentVault":
        """The archive as a source of whole segments."""
        from tierkeeper.archive.thaw import SegmentVault

        return SegmentVault(self._store, self._catalog, self._keys, self._clock, self.replacer)

    @property
    def replacer(self) -> "Replacer":
        """Puts segments in the places of others."""
        from tierkeeper.archive.replacing import Replacer

        return Replacer(self._store, self._catalog, self._keys, self._clock, watch=self.watch, scratch=self._scratch)

    def waiting_files(self) -> int:
        """How many files of segments that count no more lie in the store still."""
        return sum(key.startswith("segment/") for key, _ in self._catalog.outlived(0))

    def rotation(self, ring: KeyRing) -> "Rotation":
        """Wraps the segments' data keys to `ring`'s operational key."""
        from tierkeeper.archive.rotation import Rotation

        return Rotation(self._store, self._catalog, ring, self._clock, self.replacer)

    def newest(self) -> tuple[int, str] | None:
        """Number and hash of the chain's last manifest; None while there is none."""
        length, _, last, _ = self._catalog.chain_at(1)
        return (length, last) if last is not None else None

    def selected(
        self,
        table: TableName,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        segment: str | None = None,
        keys: "Keys | None" = None,
    ) -> "restoring.Selection":
        """`table`'s archived rows with age in [since, until), of one segment and with `keys` if they are given; none read yet.

        Raises UsageError if the table was never archived, Failed if a segment is damaged.
        """
        from tierkeeper.archive import restore as restoring

        found = self._catalog.segments(table, segment_id=_id(segment))
        named = (
            "unsure" if segment is not None else None
        )  # one that nothing says of whether it counts comes back where it is named
        segments = [
            s for s in found if s.state in ("sealed", named) or (s.state == "copied" and self._source_marker(s.batch) == "moved")
        ]
        if not segments:
            cause = "no segment of it counts in the archive" if segment is None else f"it has no segment {segment} that counts"
            raise UsageError(f"table {table}", cause, "See `tierkeeper archive list` for what the archive holds")
        return restoring.select(self.reader, segments, since, until, keys)

    def restore(
        self,
        table: TableName,
        *,
        to: str,
        target: Link,
        since: datetime | None = None,
        until: datetime | None = None,
        segment: str | None = None,
        on_conflict: OnConflict | None = None,
        managed: Callable[[], Collection[TableName]] = tuple,
        selected: "Callable[[], restoring.Selection] | None" = None,
    ) -> RestoreResult:
        """Restores what `selected` gives, or else would give.

        `to` is a table at `target`, or a new file if it has a slash or ends with .csv or .parquet. A table that exists takes rows
        only where `on_conflict` says what becomes of those whose key it has, and one of `managed` never does. Raises UsageError
        if `table` was never archived or `to` cannot be restored into, Failed if a segment is damaged; nothing was changed then.
        """
        from tierkeeper.archive import restore as restoring
        from tierkeeper.archive.merging import Merged, into

        began = time.monotonic()
        selection = selected() if selected else self.selected(table, since=since, until=until, segment=segment)
        if restoring.names_a_file(to):
            merged = Merged(restoring.to_file(selection, Path(to)))
        else:
            merged = into(selection, target, TableName.parse(to, "--to"), on_conflict, managed())
        return RestoreResult(
            table=str(table),
            to=to,
            rows=merged.rows,
            inserted=merged.inserted,
            skipped=merged.skipped,
            replaced=merged.replaced,
            segments=len(selection.segments),
            seconds=round(time.monotonic() - began, 3),
            notes=list(merged.notes),
        )


def _id(segment: str | None) -> UUID | None:
    """A segment's id as the user wrote it. Raises UsageError if it is none."""
    try:
        return UUID(segment) if segment is not None else None
    except ValueError:
        raise unknown(str(segment)) from None


def unknown(segment: str) -> UsageError:
    """What a segment's id that the catalog does not know is answered with."""
    return UsageError(f"segment {segment[:80]}", "the archive has no such segment", "See `tierkeeper archive list`")


def _shown(segment: Segment) -> dict[str, Any]:
    return {
        "segment": str(segment.id),
        "table": str(segment.table),
        "rows": segment.rows,
        "bytes": segment.bytes,
        "min_age": segment.min_age,
        "max_age": segment.max_age,
        "state": segment.state,
        "verified_at": segment.verified_at,
    }
