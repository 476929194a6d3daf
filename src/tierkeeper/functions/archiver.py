"""Archives old data to the home server; weekly."""

from datetime import datetime
from typing import Literal

from tierkeeper.functions.base import Function, environment
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.host import has_lasting_disk
from tierkeeper.kernel.policy import OnConflict
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

    def verify(self, segment: str | None = None, sample: str | None = None, *, before: datetime | None = None) -> VerifyResult:
        """Reads every segment, one, or a share `n/t`, back and compares it; those read longest ago first.

        With `before` only those that were not read since then. Raises TierkeeperError.
        """
        with self._keeper() as keeper:
            return keeper.archive_verify(segment, sample, read_before=before)

    def restore(
        self,
        table: str,
        to: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        segment: str | None = None,
        tier: Literal["core", "main"] | None = None,
        on_conflict: OnConflict | None = None,
    ) -> RestoreResult:
        """Brings rows back into a table or a new file `to`; `since` includes, `until` excludes. Raises TierkeeperError.

        A table is in Main unless `tier` says otherwise; one that exists takes rows only where `on_conflict` says what becomes of
        those whose key it has. I6: on a host without a lasting disk no file is written, for its rows would lie there in the open.
        """
        name = TableName.parse(table, "table")
        if _is_file(to) and not has_lasting_disk(environment()):
            cause = "this host has no lasting disk, so that a file would go with it"
            raise UsageError("to", cause, "Name a table, or run `tierkeeper archive restore` on a machine of yours")
        with self._keeper() as keeper:
            return keeper.archive_restore(
                name, to=to, since=since, until=until, segment=segment, tier=tier, on_conflict=on_conflict
            )


def _is_file(to: str) -> bool:
    """As the archive decides it, and the command line; a file of another kind is refused as such."""
    return "/" in to or to.endswith((".csv", ".parquet"))


def _name(table: str | None) -> TableName | None:
    return None if table is None else TableName.parse(table, "table")
