"""The archive as a source of whole segments, which go back to the tier above or are written anew; the mover drives it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import errors

from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.model import Thawing
from tierkeeper.archive.reading import SegmentReader
from tierkeeper.archive.replacing import Replacer, chosen_by
from tierkeeper.archive.restore import fill, select
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.ports import Frozen, Held
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.objectstore.port import Store, put_object
from tierkeeper.postgres.keeping import named, of_each
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL: Final = load("tierkeeper.archive", "thaw.sql")


class SegmentVault:
    """Implements `kernel.ports.Vault`.

    I1: a segment's file and key outlive the readers that may know them, and not even they go before the store has a signed word
    of where the rows went (I8): a catalog that is made again must not count them here, nor take them back there.
    """

    def __init__(self, store: Store, catalog: Catalog, keys: Callable[[], KeyRing], clock: Clock, replacer: Replacer) -> None:
        self._store = store
        self._catalog = catalog
        self._keys = keys
        self._clock = clock
        self._replacer = replacer

    def chosen(
        self,
        table: TableName,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        segment_id: UUID | None = None,
    ) -> list[list[Frozen]]:
        """The table's segments with ages in [since, until), or one of them, each with all that it is tied to by foreign keys.

        Raises UsageError where there is none.
        """
        asked = {"schema": table.schema, "table": table.name, "segment": segment_id, "since": since, "until": until}
        with self._catalog.transaction(read_only=True) as cur:
            rows = cur.execute(_SQL["frozen"], asked).fetchall()
        if not rows:
            cause = "no segment of it holds such rows" if segment_id is None else f"it has no segment {segment_id} that counts"
            raise UsageError(f"table {table}", cause, "See `tierkeeper archive list` for what the archive holds")
        return [[_frozen(*r[1:]) for r in tied] for _, tied in groupby(rows, key=lambda r: r[0])]

    def rest(self, segments: Sequence[Frozen], longest_reader_seconds: float) -> None:
        """See `Vault.rest`."""
        self._replacer.rest([one.id for one in segments], longest_reader_seconds)

    def stage(self, cursor: Any, segment: Frozen, name: TableName) -> TableShape:
        """See `Vault.stage`."""
        place = f"segment {segment.id}"
        found = self._catalog.segments(segment_id=segment.id, states=("sealed",))
        if not found:
            raise NotNow(place, "another run has changed it", "Run the same command again")
        selection = select(SegmentReader(self._store, self._keys), found, None, None)
        rows = fill(cursor, selection, name, place)
        if rows != segment.rows:
            raise Failed(place, f"it holds {rows} rows, and {segment.rows} were written", "Run `tierkeeper archive verify`")
        return selection.contents.shape

    def leave(self, catalog_cursor: Any, pairs: Sequence[tuple[UUID, UUID]], held_until: datetime) -> bool:
        """See `Vault.leave`."""
        cur: psycopg.Cursor = catalog_cursor
        for segment, batch in pairs:
            if not self._catalog.left(cur, segment):
                return False
            cur.execute(_SQL["thawed"], {"segment": segment, "batch": batch, "held_until": held_until})
        return True

    def counts(self, segments: Sequence[UUID]) -> bool:
        """See `Vault.counts`."""
        return all(self._catalog.segments(segment_id=one, states=("sealed",)) for one in segments)

    def say_left(self) -> None:
        """See `Vault.say_left`. Until then the catalog alone knows where the rows went."""
        with self._catalog.transaction(read_only=True) as cur:
            unsaid = cur.execute(_SQL["left_unsaid"]).fetchall()
        for segment, manifest, batch, held_until in unsaid:
            word = Thawing(segment=segment, manifest=manifest, batch=batch, held_until=held_until)
            said = put_object(self._store, "commit", self._keys().seal("commit", word.body()))
            reach(Point.THAW_SAID)
            with self._catalog.transaction() as cur:
                self._catalog.left_said(cur, segment, said)

    def erasable(self, table: TableName) -> list[Frozen]:
        """See `Vault.erasable`."""
        self._replacer.say()
        found = self._catalog.segments(table, states=("copied", "sealed"))
        if any(s.state == "copied" or s.commit_object is None for s in found):
            raise NotNow(f"table {table}", "a segment of it is on its way to the archive", "Run `archive run`, then this again")
        return [Frozen(s.id, s.table, s.age, s.rows, s.bytes, s.sha256, s.min_age, s.max_age, s.created_at) for s in found]

    def rewrite(self, segment: Frozen, goes: bytes) -> UUID:
        """See `Vault.rewrite`."""
        (old,) = self._catalog.segments(segment_id=segment.id, states=("sealed",)) or (None,)
        if old is None:
            raise NotNow(f"segment {segment.id}", "another run has changed it", "Run the same command again")
        return self._replacer.replace(old, chosen_by(goes), goes.count(1))

    def held(self, table: TableName) -> list[Held]:
        """See `Thaws.held`."""
        with self._catalog.connected() as conn:
            known = _held(conn, table)
        if known is None:
            return []
        found, by_server = known
        now = self._clock.now(lambda: by_server)
        return [one for one in found if one.until > now]


@of_each
def _held(conn: Connection, tables: Sequence[TableName]) -> dict[TableName, tuple[list[Held], datetime]]:
    """What was ever to be held of each table, with the server's time; nothing where `setup` has made no catalog yet."""
    found = dict[TableName, tuple[list[Held], datetime]]()
    with suppress(errors.UndefinedTable, errors.InvalidSchemaName), transaction(conn, read_only=True) as cur:
        for schema, name, now, *one in cur.execute(_SQL["held"], named(tables)):
            found.setdefault(TableName(schema, name), ([], now))[0].append(Held(*one))
    return found


def reenter(cur: psycopg.Cursor, said: Thawing) -> None:
    """Enters what the store says of a segment that went back, with the marker that tells the tier above so."""
    names = {"segment": said.segment, "batch": said.batch, "held_until": said.held_until}
    cur.execute(_SQL["thawed"], names)
    cur.execute(_SQL["marker_reenter"], names)


def _frozen(id_: UUID, schema: str, table: str, *rest: Any) -> Frozen:
    return Frozen(id_, TableName(schema, table), *rest)
