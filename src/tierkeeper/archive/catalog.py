"""The archive's catalog in Postgres: the ledger's rows for it, and an index over the segments that the store holds.

It runs statements and changes states by compare-and-set; it opens no object and holds no key.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, Final, cast, get_args
from uuid import UUID

import psycopg
from psycopg import errors

from tierkeeper.archive.model import Manifest, Segment, SegmentState, Wrapping
from tierkeeper.kernel.errors import Failed, Fenced, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.ports import Batch, Extent, LedgerRow, LedgerState, ScanSegment
from tierkeeper.kernel.results import DrillResult, DrillStatus, ReadingStatus
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, Isolation, Link, transaction, translated
from tierkeeper.postgres.statements import load

SCHEMA: Final[Mapping[str, str]] = {n: s.as_string(None) for n, s in load("tierkeeper.archive", "schema.sql").items()}
"""Relations of the catalog's schema `tierkeeper`, in the order of their making, after those that every Postgres tier has."""

_SQL = load("tierkeeper.archive", "catalog.sql")
_ALL: Final[tuple[SegmentState, ...]] = get_args(SegmentState)
_LISTED: Final[tuple[SegmentState, ...]] = ("copied", "sealed", "unsure")


class Catalog:
    """Ledger rows and segment rows change together, in one transaction, and only from the state that was expected.

    So do those of a bundle: whichever of its batches is named, all of them are settled.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def place(self) -> str:
        return f"tiers.{self._link.tier}"

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection for a question about what may not be set up yet, which within `looking` is one of those that are kept."""
        with translated(self.place), closing(self._link.connect("archive")) as conn:
            yield conn

    @contextmanager
    def transaction(self, *, read_only: bool = False, isolation: Isolation = "read committed") -> Iterator[psycopg.Cursor]:
        """One transaction on a connection of its own. Raises UsageError where `setup` was never run."""
        with self.connected() as conn:
            try:
                with transaction(conn, isolation=isolation, read_only=read_only) as cur:
                    yield cur
            except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
                raise UsageError(self.place, "the archive's catalog is not set up", "Run `tierkeeper setup --apply`") from error

    def open(self, batches: Sequence[Batch], key_id: str) -> list[LedgerRow]:
        """Ledger rows `open`, of a bundle all of them or none; opening them again changes nothing.

        Raises Fenced if one is past that, UsageError if the newest segment was written with another key than `key_id`.
        """
        with self.transaction() as cur:
            last = cur.execute(_SQL["newest"]).fetchone()
            if last is not None and last[0] != key_id:
                remedy = "Put the archive's own key back, or give this archive another catalog and store"
                raise UsageError("archive key", f"the archive was written with key {last[0]}, this key is {key_id}", remedy)
            return [self._open(cur, batch) for batch in batches]

    def _open(self, cur: psycopg.Cursor, batch: Batch) -> LedgerRow:
        cur.execute(_SQL["ledger_open"], {
            "batch": batch.id, "source": batch.source, "origin": batch.origin, "schema": batch.table.schema,
            "table": batch.table.name, "age": batch.age, "cutoff": batch.cutoff, "predicate": batch.predicate,
            "part_schema": batch.part and batch.part.schema, "part_name": batch.part and batch.part.name,
        })  # fmt: skip
        if batch.bundle is not None:
            cur.execute(_SQL["bundle_note"], {"batch": batch.id, "bundle": batch.bundle})
        row = cur.execute(_SQL["ledger_row"], {"batch": batch.id}).fetchone()
        if row is None or (found := _ledger_row(row)).state != "open":
            raise Fenced(self.place, f"another run has settled batch {batch.id}", "Run the same command again")
        return found

    def newest(self) -> tuple[str, str] | None:
        """Key id and manifest of the newest segment; None while there is none."""
        with self.transaction(read_only=True) as cur:
            row = cur.execute(_SQL["newest"]).fetchone()
        return (str(row[0]), str(row[1])) if row else None

    def ledger_row(self, batch_id: UUID) -> LedgerRow | None:
        with self.transaction(read_only=True) as cur:
            row = cur.execute(_SQL["ledger_row"], {"batch": batch_id}).fetchone()
        return _ledger_row(row) if row else None

    def state(self, batch_id: UUID) -> LedgerState | None:
        row = self.ledger_row(batch_id)
        return row.state if row else None

    def unsettled(self, table: TableName | None) -> list[LedgerRow]:
        with self.transaction(read_only=True) as cur:
            return [_ledger_row(r) for r in cur.execute(_SQL["ledger_unsettled"], _named(table))]

    def chain_head(self, cur: psycopg.Cursor) -> tuple[int, str | None]:
        """Position and hash of the newest manifest; its row stays locked until the transaction ends, so that no two follow it."""
        cur.execute(_SQL["chain_start"])
        row = cur.execute(_SQL["chain_head"]).fetchone()
        if row is None:
            raise Failed(self.place, "the chain of manifests has no head", _COMPARE)
        return int(row[0]), row[1]

    def copied(self, cur: psycopg.Cursor, manifest: Manifest, manifest_sha256: str, key: Wrapping, extent: Extent) -> LedgerRow:
        """Ledger open -> copied, the segment's row, and the chain's new head. Raises Fenced if the batch is no longer open."""
        changed = cur.execute(_SQL["ledger_copied"], {
            "batch": manifest.batch, "rows": manifest.rows, "bytes": manifest.bytes, "fingerprint": extent.fingerprint,
            "digest": manifest.digest, "min_age": extent.min_age, "max_age": extent.max_age,
        }).rowcount  # fmt: skip
        if changed != 1:
            raise Fenced(self.place, f"another run has settled batch {manifest.batch}", "Run the same command again")
        for statement in ("segment_insert", "wrapping_insert"):
            cur.execute(_SQL[statement], _entered(manifest, manifest_sha256, key))
        head = {"position": manifest.position, "manifest": manifest_sha256}
        if cur.execute(_SQL["chain_advance"], head).rowcount != 1:
            raise Failed(self.place, "the chain of manifests has another head than its lock showed", "Run the same command again")
        row = cur.execute(_SQL["ledger_row"], {"batch": manifest.batch}).fetchone()
        if row is None:
            raise Failed(self.place, f"batch {manifest.batch} has no ledger row", _COMPARE)
        return _ledger_row(row)

    def require_empty(self) -> None:
        """Raises UsageError where it knows a batch or a segment."""
        with self.transaction(read_only=True) as cur:
            if cur.execute(_SQL["is_known"]).fetchone() == (True,):
                cause = "it knows segments or batches already, and is compared with the store, not made again"
                raise UsageError(
                    self.place, cause, "Run `tierkeeper archive verify`; to rebuild, give the archive an empty database"
                )

    def reenter(
        self,
        cur: psycopg.Cursor,
        manifest: Manifest,
        manifest_sha256: str,
        key: Wrapping,
        states: tuple[LedgerState, SegmentState],
        *,
        said: tuple[str | None, str | None],
    ) -> None:
        """A segment that was once there, with its batch's ledger row; what a removed one may have left is to go.

        `said`: its commit object, and the object of its removal.
        """
        ledger, state = states
        values = {**_entered(manifest, manifest_sha256, key), "ledger": ledger, "state": state}
        values |= {"commit_object": said[0], "removal_object": said[1]}
        for statement in ("ledger_reenter", "segment_insert", "segment_reenter", "wrapping_insert"):
            cur.execute(_SQL[statement], values)
        if state == "removed":
            self.outlive(cur, [f"segment/{manifest.sha256}", key.object])

    def set_chain(self, cur: psycopg.Cursor, position: int, manifest_sha256: str) -> None:
        """Makes a manifest the chain's end."""
        cur.execute(_SQL["chain_set"], {"position": position, "manifest": manifest_sha256})

    def done(self, batch_id: UUID) -> bool:
        """Ledger copied -> done and the segment sealed, of a bundle all; False if the ledger did not say `copied`."""
        with self.transaction() as cur:
            tied = {"batches": self._tied(cur, batch_id)}
            done = cur.execute(_SQL["ledger_done"], tied).rowcount
            if not done:
                return False
            if done != len(tied["batches"]):
                raise Failed(self.place, f"batch {batch_id} was copied, but not all that are tied to it", _COMPARE)
            if cur.execute(_SQL["segment_sealed"], tied).rowcount != done:
                raise Failed(self.place, f"batch {batch_id} was copied, but the catalog has no segment of it", _COMPARE)
        return True

    def undone(self, batch_id: UUID, states: Sequence[LedgerState] = ("open", "copied")) -> list[str] | None:
        """Ledger in one of `states` -> undone, the segment's row with it, of a bundle all; the objects that nothing needs now.

        None if it was neither.
        """
        with self.transaction() as cur:
            tied = {"batches": self._tied(cur, batch_id), "states": list(states)}
            if not cur.execute(_SQL["ledger_undone"], tied).rowcount:
                return None
            rows = cur.execute(_SQL["segment_undone"], tied).fetchall()
            reach(Point.UNDO_BEFORE_COMMIT)
        return [key for sha256, key_object in rows for key in (f"segment/{sha256}", str(key_object))]

    def _tied(self, cur: psycopg.Cursor, batch_id: UUID) -> list[UUID]:
        """The batch with those that it is tied to, their ledger rows locked until the transaction ends."""
        return [r[0] for r in cur.execute(_SQL["ledger_tied"], {"batch": batch_id}).fetchall()]

    def chain(self) -> tuple[list[Segment], str | None]:
        """Every segment ever, those undone too, in the order of their chain; and the manifest that the next one will follow."""
        everything = {**_named(None), "segment": None, "states": list(_ALL)}
        with self.transaction(read_only=True, isolation="repeatable read") as cur:
            segments = [_segment(r) for r in cur.execute(_SQL["segments"], everything).fetchall()]
            end = cur.execute(_SQL["chain_end"]).fetchone()
        return segments, end[0] if end else None

    def chain_at(self, position: int) -> tuple[int, str | None, str | None, str | None]:
        """The chain's length, its first and its last manifest, and the one at `position`; None where there is none."""
        with self.transaction(read_only=True) as cur:
            row = cur.execute(_SQL["chain_at"], {"position": position}).fetchone()
        return (int(row[0]), row[1], row[2], row[3]) if row else (0, None, None, None)

    def bundle(self, batch_id: UUID) -> UUID | None:
        """What ties the batch to others; None where nothing does."""
        with self.transaction(read_only=True) as cur:
            row = cur.execute(_SQL["bundle"], {"batch": batch_id}).fetchone()
        return row[0] if row else None

    def tie(self, cur: psycopg.Cursor, batch_id: UUID, bundle: UUID) -> None:
        cur.execute(_SQL["bundle_note"], {"batch": batch_id, "bundle": bundle})

    def uncommitted(self) -> list[Segment]:
        """Sealed segments whose commit object may be missing from the store."""
        with self.transaction(read_only=True) as cur:
            return [_segment(r) for r in cur.execute(_SQL["uncommitted"]).fetchall()]

    def committed(self, segment_id: UUID, commit_object: str) -> None:
        with self.transaction() as cur:
            self.note_committed(cur, segment_id, commit_object)

    def note_committed(self, cur: psycopg.Cursor, segment_id: UUID, commit_object: str) -> None:
        """The store says by `commit_object` that the segment counts."""
        cur.execute(_SQL["segment_committed"], {"segment": segment_id, "commit_object": commit_object})

    def wrapped_for_others(self, recipient: str) -> list[Segment]:
        """Segments whose data key is wrapped to another operational key than this one."""
        with self.transaction(read_only=True) as cur:
            return [_segment(r) for r in cur.execute(_SQL["wrapped_for_others"], {"recipient": recipient}).fetchall()]

    def rewrapped(self, segment: Segment, new: Wrapping) -> bool:
        """Points a segment to another wrapping of its data key; whether it still pointed to the one that `segment` says."""
        values = {"segment": segment.id, "old": segment.key_object, "new": new.object}
        with self.transaction() as cur:
            if cur.execute(_SQL["rewrapped"], values).rowcount != 1:
                return False
            cur.execute(_SQL["wrapping_replaced"], values)
            self.outlive(cur, [segment.key_object])
            names = {"key_object": new.object, "id": segment.id, "recipient": new.recipient}
            cur.execute(_SQL["wrapping_insert"], names)
            return True

    def outlived(self, longest_reader_seconds: float) -> list[tuple[str, bool]]:
        """Objects that nothing points to any more, and whether every reader that could know them has ended."""
        with self.transaction(read_only=True) as cur:
            return [(str(r[0]), bool(r[1])) for r in cur.execute(_SQL["outlived"], {"seconds": longest_reader_seconds})]

    def old_wrappings(self) -> int:
        """How many wrapped keys a rotation has replaced that were not deleted yet."""
        with self.transaction(read_only=True) as cur:
            (count,) = cur.execute(_SQL["old_wrappings"], {}).fetchone() or (0,)
        return int(count)

    def gone(self, key: str) -> None:
        """An object that was outlived is deleted."""
        with self.transaction() as cur:
            cur.execute(_SQL["gone"], {"object": key})

    def outlive(self, cur: psycopg.Cursor, objects: Sequence[str]) -> None:
        """Nothing points to these any more: they go when every reader that may know them has ended."""
        cur.execute(_SQL["outlive"], {"objects": list(objects)})

    def now(self) -> datetime:
        """By the server's clock."""
        with self.transaction(read_only=True) as cur:
            row = cur.execute(_SQL["now"]).fetchone()
        if row is None:
            raise Failed(self.place, "its clock says nothing", _COMPARE)
        return cast("datetime", row[0])

    def older_than(self, table: TableName, cutoff: datetime) -> list[Segment]:
        """The table's segments that count, are settled, and whose youngest row is older than `cutoff`."""
        values = {"schema": table.schema, "table": table.name, "cutoff": cutoff}
        with self.transaction(read_only=True) as cur:
            return [_segment(r) for r in cur.execute(_SQL["older_than"], values).fetchall()]

    def left(self, cur: psycopg.Cursor, segment_id: UUID) -> bool:
        """A segment counts no more: its rows are elsewhere from here on. Whether it did, and nothing about it was in flight."""
        return cur.execute(_SQL["segment_left"], {"segment": segment_id}).rowcount == 1

    def left_said(self, cur: psycopg.Cursor, segment_id: UUID, said: str) -> None:
        """The store knows by the object `said` where they are; from here on its file and key outlive the readers that know it."""
        found = cur.execute(_SQL["left_said"], {"segment": segment_id, "said": said}).fetchone()
        if found is not None:
            self.outlive(cur, [f"segment/{found[0]}", str(found[1])])

    def verified(self, segment_ids: Sequence[UUID]) -> None:
        with self.transaction() as cur:
            cur.execute(_SQL["segment_verified"], {"segments": list(segment_ids)})

    def sealed(self) -> int:
        """How many segments count."""
        with self.transaction(read_only=True) as cur:
            (count,) = cur.execute(_SQL["sealed"]).fetchone() or (0,)
        return int(count)

    def keys_used(self) -> dict[str, int]:
        """Segments by the id of the key that they were written with."""
        with self.transaction(read_only=True) as cur:
            return {str(key): int(n) for key, n in cur.execute(_SQL["keys_used"])}

    def drilled(self, result: DrillResult) -> None:
        """Keeps how a drill went."""
        with self.transaction() as cur:
            cur.execute(_SQL["drill_note"], result.model_dump())

    def forget(self, older_than_seconds: float, settled: Sequence[UUID]) -> list[UUID]:
        """See `Destination.forget`."""
        bounds = {"seconds": older_than_seconds, "settled": list(settled)}
        with self.transaction() as cur:
            cur.execute(_SQL["ledger_forget"], bounds)
            return [r[0] for r in cur.execute(_SQL["ledger_droppable"], bounds)]

    def resting(self, table: TableName) -> list[tuple[str, int]]:
        """How many of the table's batches have not been forgotten yet, by state."""
        with self.transaction(read_only=True) as cur:
            return [(str(s), int(n)) for s, n in cur.execute(_SQL["ledger_resting"], _named(table))]

    def segments(
        self,
        table: TableName | None = None,
        *,
        segment_id: UUID | None = None,
        states: Sequence[SegmentState] = _LISTED,
    ) -> list[Segment]:
        """Segments in the order of their chain."""
        with self.transaction(read_only=True) as cur:
            rows = cur.execute(_SQL["segments"], {**_named(table), "segment": segment_id, "states": list(states)}).fetchall()
        return [_segment(r) for r in rows]

    def listed(self, table: TableName | None) -> list[tuple[Any, ...]]:
        """What a list of segments shows, oldest rows first: the columns of `listed` in catalog.sql."""
        with self.transaction(read_only=True) as cur:
            return cur.execute(_SQL["listed"], _named(table)).fetchall()

    def segments_of(self, batch_ids: Sequence[str]) -> list[str]:
        """Ids of the segments that the batches became."""
        with self.transaction(read_only=True) as cur:
            return [str(r[0]) for r in cur.execute(_SQL["segments_of"], {"batches": list(batch_ids)})]


def scan_segments(cur: psycopg.Cursor, table: TableName) -> list[ScanSegment]:
    """The table's segments in the snapshot of the transaction that `cur` is in, each with its ledger row's state."""
    return [ScanSegment(*row) for row in cur.execute(_SQL["scan_segments"], _named(table)).fetchall()]


def rows_by_table(conn: Connection) -> dict[TableName, int]:
    """Rows of sealed segments, by table; through a connection that is open already."""
    with transaction(conn, read_only=True) as cur:
        return {TableName(str(s), str(t)): int(n) for s, t, n in cur.execute(_SQL["rows_by_table"])}


def reading(conn: Connection) -> ReadingStatus:
    """How far the segments were read back; through a connection that is open already."""
    with transaction(conn, read_only=True) as cur:
        segments, unread, oldest, stalest, first = cur.execute(_SQL["reading"]).fetchone() or (0, 0, None, None, None)
        last = cur.execute(_SQL["drill_last"]).fetchone()
    drill = DrillStatus(at=last[0], ok=last[1], segments=last[2], restored=last[3], wrong=last[4]) if last else None
    return ReadingStatus(
        segments=segments, unread=unread, oldest_read_at=oldest, stalest_at=stalest, first_written_at=first, drill=drill
    )


_COMPARE: Final = "Stop archiving and run `tierkeeper archive verify`: the catalog may have been put back from a backup"


def _entered(manifest: Manifest, sha256: str, key: Wrapping) -> dict[str, Any]:
    names = {"id": manifest.segment, "manifest": sha256, "key_object": key.object, "recipient": key.recipient}
    return {**manifest.model_dump(), **names}


def _named(table: TableName | None) -> Mapping[str, str | None]:
    return {"schema": table.schema if table else None, "table": table.name if table else None}


def _ledger_row(row: tuple[Any, ...]) -> LedgerRow:
    batch, source, schema, table, age, cutoff, predicate, *part, seq, state, rows, fingerprint, min_age, max_age, size, bundle = (
        row
    )
    where = None if part[1] is None else TableName(*part)
    return LedgerRow(
        Batch(batch, source, TableName(schema, table), age, cutoff, predicate, where, bundle),
        int(seq),
        cast("LedgerState", state),
        Extent(rows, fingerprint, min_age, max_age) if fingerprint is not None else None,
        int(size),
    )


def _segment(row: tuple[Any, ...]) -> Segment:
    id_, batch, source, schema, table, *rest = row
    return Segment(id_, batch, source, TableName(schema, table), *rest)
