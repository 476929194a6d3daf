"""Archives old data to the home server; weekly."""

from datetime import datetime
from typing import Literal

from tierkeeper.functions.base import Function
from tierkeeper.kernel.results import ArchiveRunResult, MovePlan, RestoreResult, SegmentResult, VerifyResult
from tierkeeper.kernel.tables import TableName


class HomeServerArchiver(Function):
    """Moves rows from Main into the encrypted archive, proves them and brings them back (I3: verified before deleted)."""

    def run(self, table: str | None = None, before: datetime | None = None) -> ArchiveRunResult:
        """Archives by policy, or up to `before`. Raises TierkeeperError."""
        name = _name(table)
        with self._keeper() as keeper:
            return keeper.archive_run(name, before)

    def plan(self, table: str | None = None, before: datetime | None = None) -> list[MovePlan]:
        """What `run` would archive; changes nothing. Raises TierkeeperError."""
        name = _name(table)
        with self._keeper() as keeper:
            return keeper.plan_archive(name, before)

    def segments(self, table: str | None = None) -> list[SegmentResult]:
        """The segments. Raises TierkeeperError."""
        name = _name(table)
        with self._keeper() as keeper:
            return keeper.archive_list(name)

    def verify(self, segment: str | None = None) -> VerifyResult:
        """Reads every segment (or one) back and compares it. Raises TierkeeperError."""
        with self._keeper() as keeper:
            return keeper.archive_verify(segment)

    def restore(
        self,
        table: str,
        to: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        segment: str | None = None,
        tier: Literal["core", "main"] = "main",
    ) -> RestoreResult:
        """Brings rows back into a new table or file `to`; `since` includes, `until` excludes. Raises TierkeeperError."""
        name = TableName.parse(table, "table")
        with self._keeper() as keeper:
            return keeper.archive_restore(name, to=to, since=since, until=until, segment=segment, tier=tier)


def _name(table: str | None) -> TableName | None:
    return None if table is None else TableName.parse(table, "table")
