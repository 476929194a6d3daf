"""The archive's part of a keeper: what `tierkeeper archive` asks for, wired to the mover and the audit."""

import hashlib
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from tierkeeper.compose.restoring import RestoringKeeper
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.errors import Failed, Faults, TierkeeperError, UsageError, each
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.results import (
    ArchiveRunResult,
    CheckpointResult,
    EraseResult,
    Left,
    MovePlan,
    MoveResult,
    RebuildResult,
    SegmentDetail,
    SegmentResult,
    ThawResult,
    VerifyResult,
    told,
)
from tierkeeper.kernel.results.meaning import left_over
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.mover import markers
from tierkeeper.mover.thawing import Thawed
from tierkeeper.postgres.catalog import server_now
from tierkeeper.postgres.link import Link, transaction, translated
from tierkeeper.security.audit import LoggedAudit
from tierkeeper.tiers import memory, usage
from tierkeeper.tiers.ask import ask_all

if TYPE_CHECKING:
    from tierkeeper.archive.retention import Retention


class ArchiveKeeper(RestoringKeeper):
    """Writes, reads and proves the archive."""

    def archive_run(self, table: TableName | None = None, before: datetime | None = None) -> ArchiveRunResult:
        """Main -> Archive, by policy or up to `before`; every table of the policy unless one is named.

        By policy, it then removes the segments whose time is over. A table that must wait does not keep the others; raises its
        error where no other went on. Asked to end it looks at no further table, and names those.
        """
        runs: list[MoveResult] = []
        waiting: list[TierkeeperError] = []
        missed: list[Left] = []
        for name in self._archived(table, before):
            if self._stop() is not None:
                missed.append(Left(table=str(name), from_="main", to="archive"))
                continue
            try:
                runs.append(self.move(name, "main", "archive", before=before))
            except TierkeeperError as error:
                waiting.append(error)
        removed, notes = list[str](), list[str]()
        for policy in self._retired(table) if before is None else ():
            if self._stop() is not None:
                notes.append(f"{policy.name}: segments whose time is over were not looked for")
                continue
            try:
                gone, held = self._retire(policy)
                removed += gone
                notes += held
            except TierkeeperError as error:
                waiting.append(error)
        notes += self._swept()
        if waiting and not runs and not removed:
            raise waiting[0] if len(waiting) == 1 else Faults(each(waiting))
        batches = [b for run in runs for b in run.batch_ids]
        segments = self.archive.segments_of(batches) if batches else []
        return ArchiveRunResult(
            runs=runs,
            segments=segments,
            removed=removed,
            notes=notes,
            errors=told(waiting),
            left=left_over(runs, missed),
            stopped_because=self._stop(),
        )

    def plan_archive(self, table: TableName | None = None, before: datetime | None = None) -> list[MovePlan]:
        """What `archive_run` would do. Changes nothing."""
        plans = [self.plan_move(name, "main", "archive", before=before) for name in self._archived(table, before)]
        over = {str(p.name): self._over(p) for p in self._retired(table)} if before is None else {}
        planned = [plan.model_copy(update={"notes": [*plan.notes, *over.pop(plan.table, [])]}) for plan in plans]
        # A table of which no row leaves Main by the policy may have segments all the same.
        ends = {"from": "main", "to": "archive", "cutoff": self._clock.now(), "rows": 0, "batches": 0, "setup": []}
        return planned + [MovePlan(table=name, notes=notes, **ends) for name, notes in over.items() if notes]

    def _retired(self, table: TableName | None) -> list[TablePolicy]:
        """The policies that let rows leave the archive."""
        return [p for p in self._policies if p.archive is not None and table in (None, p.name)]

    def _retention(self) -> "Retention":
        return self.archive.retention(self._clocks)

    def _clocks(self) -> tuple[list[datetime], list[str]]:
        """The time at the tiers that answer, and which do not."""
        links = {str(name): link for name, link in self.links.items() if name != "archive"}
        answers, away = ask_all(links, lambda _, conn: self._clock.now(partial(server_now, conn)), "archive")
        return list(answers.values()), list(away)

    def _over(self, policy: TablePolicy) -> list[str]:
        """What a run would remove, in words."""
        assert policy.archive is not None  # noqa: S101 - `_retired` gives no others
        due = self._retention().due(policy.name, policy.archive)
        number, rows, age = len(due.segments), sum(s.rows for s in due.segments), policy.archive.text
        return [*([f"{number} segments with {rows} rows are older than {age} and would be removed"] if number else []), *due.held]

    def _retire(self, policy: TablePolicy) -> tuple[list[str], list[str]]:
        """Removes a table's segments whose time is over; their ids, and what kept others."""
        assert policy.archive is not None  # noqa: S101 - `_retired` gives no others
        removed = list[str]()
        self.archive.replacer.say()
        due = self._retention().due(policy.name, policy.archive)
        held = due.held
        if due.segments:
            reason = f"older than {policy.archive.text}"
            detail = {"older_than": policy.archive.text, "cutoff": due.cutoff, "segments": [str(s.id) for s in due.segments]}
            KeyRing.open(self._config_dir, self._environment)  # raises what is missing, before anything goes
            with self._audit.action("remove from archive", str(policy.name), detail) as note:
                for segment in due.segments:
                    if self._stop() is None and self.archive.replacer.remove(segment, reason):
                        removed.append(str(segment.id))
                note(removed=removed)
        return removed, held

    def _swept(self) -> list[str]:
        """Deletes what no reader can need any more: of segments that were removed or went up, and of runs that were cut short."""
        with suppress(TierkeeperError):  # the next run comes by
            refused = self.archive.sweep(self._bounds.longest_reader_seconds)
            return [f"files that nothing needs any more stay in the store: {refused}"] if refused is not None else []
        return []

    def archive_list(self, table: TableName | None = None) -> list[SegmentResult]:
        """The segments, oldest rows first."""
        return self.archive.list(table)

    def archive_show(self, segment: str) -> SegmentDetail:
        """One segment with what its signed manifest says."""
        return self.archive.show(segment)

    def archive_verify(
        self, segment: str | None = None, sample: str | None = None, *, read_before: datetime | None = None
    ) -> VerifyResult:
        """Reads every segment, one, or a share `n/t`, whole from the store and compares it with its signed manifest.

        With `read_before` only those of them that were not read since then. Asked to end it says how many are left.
        """
        return self.archive.verify(segment, sample, read_before=read_before, stop=self._stop)

    def archive_checkpoint(self) -> CheckpointResult:
        """Compares the archive's chain with what this machine remembers of it, and remembers its end.

        `ok` is false where store and catalog are of an earlier time than this machine has seen.
        """
        watch, found = self.archive.watch, list[TierkeeperError]()
        try:
            watch.require("tiers.archive", watch.look())
        except Failed as error:
            found.append(error)
        length, newest = self.archive.newest() or (0, None)
        return CheckpointResult(ok=not found, segments=length, newest=newest, errors=told(found))

    def archive_rebuild(self, *, without_main: bool = False) -> RebuildResult:
        """The archive's catalog, made again from the store alone in an empty database.

        Main's markers settle what no commit object speaks for; `without_main`, where Main is gone for good, leaves those unsure.
        """
        if not self._key_present:
            KeyRing.open(self._config_dir, self._environment)  # raises what is missing: a new key opens no archive
        audit = LoggedAudit() if without_main else self._audit
        self._set_up((), frozenset(("archive",)), apply=True, audit=audit)

        from tierkeeper.archive.rebuild import NoMarkers

        with audit.action("rebuild archive", "tiers.archive", {"without_main": without_main}) as note:
            result = self.archive.rebuild(NoMarkers() if without_main else MainsMarkers(self.links["main"]))
            note(segments=result.segments, unsure=result.unsure, missing=result.missing, damaged=result.damaged)
        return result

    def archive_thaw(
        self,
        table: TableName,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        segment: str | None = None,
        hold: Age,
        dry_run: bool = False,
    ) -> ThawResult:
        """Archive -> Main: the segments with ages in [since, until), or one, whole, with those that foreign keys tie them to.

        A run by policy leaves their rows in Main for as long as `hold`.
        """
        began = self._clock.monotonic()
        if table not in {p.name for p in self._policies}:
            raise UsageError(str(table), "no [[tables]] entry names this table", "Add one, or restore into a new table instead")
        bundles = self.archive.chosen(table, since=since, until=until, segment=segment)
        chosen = [one for bundle in bundles for one in bundle]
        held_until = hold.after(self._clock.now(self.archive.now))
        tables = sorted({one.table for one in chosen})
        done = Thawed([one.id for one in chosen], sum(one.rows for one in chosen))
        if not dry_run:
            policies = tuple(p for p in self._policies if p.name in tables)
            ages = {p.name: p.age or "" for p in policies}
            if lost := next((t for t in tables if t not in ages), None):
                raise UsageError(str(lost), "no [[tables]] entry names this table, and rows of it are tied to these", "Add one")
            self._set_up(policies, frozenset(("main", "archive")), apply=True, upward=True, needed=tables)
            detail = {"segments": [str(one.id) for one in chosen], "held_until": held_until}
            with self._audit.action("thaw", str(table), detail) as note:
                self.archive.vault.rest(chosen, self._bounds.longest_reader_seconds)
                done = self.thawing.run(table, bundles, ages, held_until)
                note(segments=[str(s) for s in done.segments], rows=done.rows, stopped_because=done.stopped_because)
        least, greatest = [one.min_age for one in chosen if one.min_age], [one.max_age for one in chosen if one.max_age]
        return ThawResult(
            table=str(table),
            segments=[str(s) for s in done.segments],
            tables=[str(t) for t in tables],
            rows=done.rows,
            bytes=sum(one.bytes for one in chosen),
            min_age=min(least, default=None),
            max_age=max(greatest, default=None),
            held_until=held_until,
            recovered=done.recovered,
            seconds=round(self._clock.monotonic() - began, 3),
            stopped_because=done.stopped_because,
            applied=not dry_run,
        )

    def archive_erase(self, table: TableName, *, where: str, dry_run: bool = False) -> EraseResult:
        """Removes the rows of `table` for which `where` holds from Core, Main and the archive, for good.

        Segments that hold such rows are replaced, and their keys destroyed at once. The audit keeps the condition's hash alone:
        the condition may say what is to be forgotten.
        """
        began = self._clock.monotonic()
        if next((p for p in self._policies if p.name == table and p.mode == "move"), None) is None:
            raise UsageError(
                str(table), "no [[tables]] entry moves this table", "Where it lies in Core alone, delete the rows there"
            )
        self._eraser.check(table, where)
        destroyed, kept, refused = 0, 0, None
        if dry_run:
            done = self._eraser.run(table, where, dry_run=True)
        else:
            detail = {"where_sha256": hashlib.sha256(where.encode()).hexdigest()}
            with self._audit.action("erase", str(table), detail) as note:
                try:
                    done = self._eraser.run(table, where, dry_run=False)
                finally:  # what was rewritten before an error is unreadable, too
                    destroyed, kept, refused = self.archive.replacer.destroy_keys(table)
                replaced = {str(old): str(new) for old, new in done.replaced.items()}
                note(
                    rows=done.rows,
                    segments=replaced,
                    keys_destroyed=destroyed,
                    keys_left=kept,
                    stopped_because=done.stopped_because,
                )
            held = self.archive.sweep(self._bounds.longest_reader_seconds)
            refused = refused or held
        return EraseResult(
            table=str(table),
            rows={str(tier): rows for tier, rows in done.rows.items()},
            segments={str(old): str(new) if new is not None else None for old, new in done.replaced.items()},
            keys_destroyed=destroyed,
            keys_left=kept,
            files_left=0 if dry_run else self.archive.waiting_files(),
            seconds=round(self._clock.monotonic() - began, 3),
            stopped_because=done.stopped_because,
            notes=[f"not all could be deleted in the store: {refused}"] if refused else [],
            applied=not dry_run,
            ok=not kept,
        )

    def _archived(self, table: TableName | None, before: datetime | None) -> list[TableName]:
        """The tables to archive: the one that is named, else those of the policy that have reached Main and lead others."""
        if table is not None:
            return [table]
        leading = [p for p in self._policies if p.mode == "move" and not p.follows]
        asked = [p.name for p in leading if p.main is not None or before is not None]
        with translated("tiers.main"), closing(self.links["main"].connect("archive")) as conn:
            return [name for name in asked if usage.table_size(conn, name) is not None]


@dataclass(frozen=True)
class MainsMarkers:
    """Implements the archive's `Markers` on Main."""

    main: Link

    def kept(self) -> dict[UUID, str]:
        return markers.known(self.main, "main", "archive")

    def settled(self, batch_id: UUID) -> str | None:
        return markers.settled(self.main, "main", batch_id)

    def newest(self) -> memory.Newest:
        with translated("tiers.main"), closing(self.main.connect("mover")) as conn, transaction(conn, read_only=True) as cur:
            return memory.newest(cur, "main", "archive")

    def bundles(self) -> dict[UUID, UUID]:
        with translated("tiers.main"), closing(self.main.connect("mover")) as conn, transaction(conn, read_only=True) as cur:
            return memory.bundles(cur)
