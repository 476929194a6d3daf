"""The archive's segments as `query` reads them, in snapshots that it holds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import UUID

import psycopg
import pyarrow as pa

from tierkeeper.archive.catalog import Catalog, scan_segments
from tierkeeper.archive.model import SegmentState
from tierkeeper.archive.reading import SegmentReader
from tierkeeper.archive.segment import OpenSegment
from tierkeeper.archive.service import unknown
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.ports import ScanSegment
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.objectstore.port import ObjectMissing

_LAST_INSTANT = datetime.max.replace(tzinfo=UTC)


class ArchiveScan:
    """Implements `kernel.ports.SegmentScan`: which segments count is decided by the caller's snapshots, never here."""

    def __init__(self, catalog: Catalog, reader: SegmentReader) -> None:
        self._catalog = catalog
        self._reader = reader

    def segments(self, catalog_cursor: psycopg.Cursor, table: TableName) -> list[ScanSegment]:
        """See `SegmentScan.segments`."""
        return scan_segments(catalog_cursor, table)

    @contextmanager
    def open(self, segment_id: str) -> Iterator["ScannedSegment"]:
        """See `SegmentScan.open`."""
        found = self._catalog.segments(segment_id=UUID(segment_id), states=get_args(SegmentState))
        if not found:
            raise unknown(segment_id)
        try:
            opened = self._reader.data_key(found[0])
        except ObjectMissing as error:
            if self._catalog.segments(segment_id=found[0].id, states=("removed",)):
                raise NotNow(error.place, "its segment was removed meanwhile", "Ask again") from error
            raise
        with self._reader.open(found[0], opened) as content:
            yield ScannedSegment(content)


@dataclass(frozen=True)
class ScannedSegment:
    """Implements `kernel.ports.SegmentContent`."""

    content: OpenSegment

    @property
    def shape(self) -> TableShape:
        return self.content.contents.shape

    def batches(self, columns: Sequence[str], min_age: datetime | None, max_age: datetime | None) -> Iterator[pa.RecordBatch]:
        """See `SegmentContent.batches`."""
        until = None if max_age is None or max_age >= _LAST_INSTANT else max_age + timedelta(microseconds=1)
        return self.content.batches(min_age, until, columns)

    def bounds(self, column: str) -> tuple[str, str] | None:
        """See `SegmentContent.bounds`."""
        return self.content.bounds(column)
