"""Main and an archive on fresh tiers, and the move protocol's steps as a test drives them by hand."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from support import Tiers
from tierkeeper.archive.destination import ArchiveDestination
from tierkeeper.archive.service import Archive
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.ports import Batch, LedgerRow
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.snapshot import Snapshot
from tierkeeper.mover.source import Source
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection

CUTOFF = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bench:
    """Main with `main`, the application's connection; nothing is ever deleted there, so that what comes back can be compared."""

    tiers: Tiers
    main: Connection
    archive: Archive
    store: DirectoryStore
    keys: KeyRing

    @property
    def destination(self) -> ArchiveDestination:
        return ArchiveDestination(self.store, self.tiers.catalog, lambda: self.keys, SystemClock())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the application sees at Main."""
        return self.main.execute(query.encode()).fetchall()

    def batch(self, table: str, age: str, predicate: str = "true") -> Batch:
        return Batch(uuid4(), "main", TableName.parse(table, "test"), age, CUTOFF, predicate)

    @contextmanager
    def snapshot(self, batch: Batch) -> Iterator[Snapshot]:
        with closing(self.tiers.main.connect("mover")) as conn:
            shape = shapes.read(conn, batch.table)
            with Source(self.tiers.main, conn, "main").snapshot(batch, shape) as snapshot:
                yield snapshot

    def copy(self, batch: Batch) -> LedgerRow:
        """The batch up to `copied`."""
        self.destination.open(batch)
        with self.snapshot(batch) as snapshot:
            return self.destination.copy(batch, snapshot)

    def move(self, table: str, age: str, predicate: str = "true") -> UUID:
        """The batch up to `done`."""
        batch = self.batch(table, age, predicate)
        self.copy(batch)
        self.destination.finish(batch.id)
        return batch.id
