"""A restore drill: the whole archive, or a share of it, is opened with nothing but the store and the recovery key.

What it makes lies in a scratch database and is dropped; it changes neither the archive nor its catalog.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from psycopg import sql

from tierkeeper.archive.catalog import SCHEMA, Catalog
from tierkeeper.archive.checkpoint import Watch
from tierkeeper.archive.model import Segment
from tierkeeper.archive.reading import SegmentReader
from tierkeeper.archive.rebuild import NoMarkers, Rebuilder
from tierkeeper.archive.restore import select, to_table
from tierkeeper.archive.verify import Sample, check
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import NotNow, TierkeeperError
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import DrillResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.objectstore.port import Store
from tierkeeper.postgres.link import Link, translated
from tierkeeper.postgres.statements import load

_BACK = TableName("public", "drill")


@dataclass(frozen=True)
class Drill:
    """Does on a scratch database what a new machine would: makes the catalog again, verifies, restores each segment, compares.

    I8: neither Core, Main nor the archive's own catalog is asked. I9: one segment is there at a time.
    """

    store: Store
    ring: KeyRing
    scratch: Link
    clock: Clock
    stop: Stop

    def run(self, sample: Sample | None, listed: Callable[[int], str | None]) -> DrillResult:
        """`listed` says what is wrong with how many segments were found, by what is known of the archive elsewhere."""
        began = self.clock.monotonic()
        catalog = Catalog(self.scratch)
        self._set_up()
        rebuilt = Rebuilder(self.store, catalog, self.ring, Watch(catalog, self.clock, None), NoMarkers()).run()
        rebuild_seconds = self.clock.monotonic() - began
        wrong = [*rebuilt.damaged, *rebuilt.missing, *rebuilt.unsure]
        if (said := listed(rebuilt.segments)) is not None:
            wrong.append(said)
        segments = catalog.segments(states=("sealed",))
        turn = sample.of(segments) if sample is not None else {s.id for s in segments}
        rows = size_bytes = done = 0
        stopped = None
        for segment in (s for s in segments if s.id in turn):
            if (stopped := self.stop()) is not None:
                break
            try:
                rows += self._restore(segment)
            except NotNow:
                raise
            except TierkeeperError as error:
                wrong.append(f"{segment.id}: {error.place}: {error.cause}")
            else:
                size_bytes += segment.bytes
                done += 1
        return DrillResult(
            segments=len(segments),
            restored=done,
            rows=rows,
            bytes=size_bytes,
            key_id=self.ring.key_id,
            rebuild_seconds=round(rebuild_seconds, 3),
            seconds=round(self.clock.monotonic() - began, 3),
            wrong=wrong,
            at=self.clock.now(),
            stopped_because=stopped,
            ok=not wrong,
        )

    def _restore(self, segment: Segment) -> int:
        """The segment as a table, read back and compared, then dropped; its rows."""
        check(self.store, lambda: self.ring, segment)
        rows = to_table(select(SegmentReader(self.store, lambda: self.ring), [segment], None, None), self.scratch, _BACK)
        with translated("scratch"), closing(self.scratch.connect("drill")) as conn:
            conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(_BACK.schema, _BACK.name)))
        return rows

    def _set_up(self) -> None:
        own = {name: statement.as_string(None) for name, statement in load("tierkeeper.postgres", "schema.sql").items()}
        with translated("scratch"), closing(self.scratch.connect("drill")) as conn:
            for statement in {**own, **SCHEMA}.values():
                conn.execute(statement.encode())
