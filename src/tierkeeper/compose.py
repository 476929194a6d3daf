"""The only place that wires objects together: from settings to a keeper. It decides nothing and opens nothing by itself."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tierkeeper.config import Settings
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import Faults, NotNow, TierkeeperError, UsageError, each
from tierkeeper.kernel.limits import BATCH_ROWS, SEGMENT_ROWS
from tierkeeper.kernel.policy import TablePolicy, Tier
from tierkeeper.kernel.ports import Destination, Progress, Stop
from tierkeeper.kernel.results import (
    ArchiveRunResult,
    CheckResult,
    HealthItem,
    MovePlan,
    MoveResult,
    QuotaResult,
    RestoreResult,
    SegmentDetail,
    SegmentResult,
    SetupResult,
    StatusResult,
    VerifyResult,
    told,
)
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.mover.request import Bounds, Request
from tierkeeper.mover.service import MoveService
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.postgres.link import Link, translated
from tierkeeper.quotas.room import Room
from tierkeeper.quotas.runner import QuotaManager, Thresholds
from tierkeeper.security.audit import PostgresAudit
from tierkeeper.setup import checks, runner, status
from tierkeeper.tiers import profile, usage
from tierkeeper.tiers.tier import Tier as TierFacts

if TYPE_CHECKING:
    import pyarrow as pa

    from tierkeeper.archive.service import Archive


def open_keeper(
    settings: Settings,
    *,
    clock: Clock | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    environment: Mapping[str, str] | None = None,
    batch_rows: int = BATCH_ROWS,
    segment_rows: int = SEGMENT_ROWS,
) -> "Keeper":
    """A keeper of the configured tiers. No connection is made before it is asked for something."""
    return Keeper(
        settings,
        clock=clock or SystemClock(),
        progress=progress or _silent,
        stop=stop or _never,
        environment=os.environ if environment is None else environment,
        bounds=Bounds(settings.query.timeout.seconds, batch_rows, segment_rows),
    )


class Keeper:
    """Everything a user can ask for, on the configured tiers. Each call opens what it needs and closes it again."""

    def __init__(
        self, settings: Settings, *, clock: Clock, progress: Progress, stop: Stop, environment: Mapping[str, str], bounds: Bounds
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._progress = progress
        self._stop = stop
        self._environment = environment
        self._bounds = bounds
        self._policies = settings.policies()
        self.links = cast("dict[Tier, Link]", settings.links())
        self._audit = PostgresAudit(self.links["main"])

    def check(self) -> CheckResult:
        """Looks at everything. Raises Faults, all at once, each with its remedy."""
        report = checks.check(cast("dict[str, TierFacts]", self._tiers), self._policies, self._probe_store)
        if report.errors:
            raise Faults(report.errors)
        notes = report.notes if self._key_present else [*report.notes, "the archive has no key yet: setup --apply makes one"]
        return CheckResult(ok=True, checks=report.checks, notes=notes)

    def setup(self, apply: bool) -> SetupResult:
        """What is missing, made if `apply`. Raises what keeps it from being made."""
        return self._set_up(self._policies, frozenset(("core", "main", "archive")), apply=apply)

    def status(self) -> StatusResult:
        """Tiers and tables as they are; a tier that is away is a line of it."""
        return status.status(
            cast("dict[str, TierFacts]", self._tiers),
            self._policies,
            store_bytes=self._store_bytes,
            archive_rows=self.archive.rows_by_table,
            start_at=self._settings.quotas.start_at,
        )

    def health(self) -> list[HealthItem]:
        """The tiers and the store, asked once."""
        found = self.status().tiers
        return [HealthItem(name=n, healthy=t.healthy, cause=t.cause, remedy=t.remedy) for n, t in found.items()]

    def move(
        self,
        table: TableName,
        from_: Tier,
        to: Tier,
        *,
        before: datetime | None = None,
        older_than: Age | None = None,
        where: str | None = None,
        limit: int | None = None,
    ) -> MoveResult:
        """Moves rows, after making what is missing at the destination."""
        return self._mover.move(Request(table, from_, to, before, older_than, where, limit))

    def plan_move(
        self,
        table: TableName,
        from_: Tier,
        to: Tier,
        *,
        before: datetime | None = None,
        older_than: Age | None = None,
        where: str | None = None,
        limit: int | None = None,
        explain: bool = False,
    ) -> MovePlan:
        """What `move` would do; `explain` says which rows it would leave, and why. Changes nothing."""
        return self._mover.plan(Request(table, from_, to, before, older_than, where, limit), explain=explain)

    def quota(self, dry_run: bool = False, *, allow_rewrite: bool = False) -> QuotaResult:
        """The quota manager's run. Raises UsageError, before anything moves, where the tiers are not who they should be.

        `allow_rewrite` (else `[quotas] allow_rewrite`): VACUUM FULL may lock a table, and scratch space may exceed the quota.
        """
        quotas = self._settings.quotas
        self._set_up((), frozenset(("core", "main")), apply=not dry_run)
        manager = QuotaManager(
            self._tiers,
            self._policies,
            _Moves(self._mover),
            store_bytes=self._store_bytes,
            thresholds=Thresholds(
                quotas.start_at,
                quotas.stop_at,
                self._bounds.longest_reader_seconds,
                may_rewrite=allow_rewrite or quotas.allow_rewrite,
            ),
            audit=self._audit,
            clock=self._clock,
            stop=self._stop,
        )
        return manager.run(dry_run=dry_run)

    def archive_run(self, table: TableName | None = None, before: datetime | None = None) -> ArchiveRunResult:
        """Main -> Archive, by policy or up to `before`; every table of the policy unless one is named.

        A table that must wait does not keep the others; raises its error where no other went on.
        """
        runs: list[MoveResult] = []
        waiting: list[TierkeeperError] = []
        for name in self._archived(table, before):
            try:
                runs.append(self.move(name, "main", "archive", before=before))
            except TierkeeperError as error:
                waiting.append(error)
        if waiting and not runs:
            raise waiting[0] if len(waiting) == 1 else Faults(each(waiting))
        batches = [b for run in runs for b in run.batch_ids]
        segments = self.archive.segments_of(batches) if batches else []
        return ArchiveRunResult(runs=runs, segments=segments, errors=told(waiting))

    def plan_archive(self, table: TableName | None = None, before: datetime | None = None) -> list[MovePlan]:
        """What `archive_run` would do. Changes nothing."""
        return [self.plan_move(name, "main", "archive", before=before) for name in self._archived(table, before)]

    def archive_list(self, table: TableName | None = None) -> list[SegmentResult]:
        """The segments, oldest rows first."""
        return self.archive.list(table)

    def archive_show(self, segment: str) -> SegmentDetail:
        """One segment with what its signed manifest says."""
        return self.archive.show(segment)

    def archive_verify(self, segment: str | None = None) -> VerifyResult:
        """Reads every segment, or one, whole from the store and compares it with its signed manifest."""
        return self.archive.verify(segment)

    def archive_restore(
        self,
        table: TableName,
        *,
        to: str,
        since: datetime | None = None,
        until: datetime | None = None,
        segment: str | None = None,
        tier: Tier = "main",
    ) -> RestoreResult:
        """Rows of the archive as a new table in `tier`, or as a file, which changes no tier and needs none but the archive."""
        from tierkeeper.archive.restore import names_a_file

        if not names_a_file(to):
            self._check_writable(tier)
        detail = {"to": to, "since": since, "until": until, "segment": segment}
        with ExitStack() as stack:
            note = None
            try:
                note = stack.enter_context(self._audit.action("restore", str(table), detail))
            except NotNow:
                if not names_a_file(to):
                    raise
            result = self.archive.restore(table, since=since, until=until, segment=segment, to=to, target=self.links[tier])
            if note is not None:
                note(rows=result.rows)
        return result

    def query(self, sql: str) -> "pa.Table":
        """The answer over every tier, each row once (I2)."""
        from tierkeeper.query.runner import FastDoor

        door = FastDoor(
            self.links["core"],
            self.links["main"],
            self.links["archive"],
            self._policies,
            timeout_seconds=self._bounds.longest_reader_seconds,
            archive=self.archive.scan(),
        )
        return door.query(sql)

    @cached_property
    def _mover(self) -> MoveService:
        return MoveService(
            self._tiers,
            self._policies,
            bounds=self._bounds,
            audit=self._audit,
            clock=self._clock,
            progress=self._progress,
            stop=self._stop,
            prepare=self._prepare,
            archive=self._archive_destination,
            room=Room(self._tiers["core"], self._settings.quotas.start_at),
        )

    def _archive_destination(self) -> AbstractContextManager[Destination]:
        """Asked for by a run that needs it: the archive's libraries take most of a second to load."""
        return self.archive.destination()

    @cached_property
    def archive(self) -> "Archive":
        from tierkeeper.archive.service import Archive

        return Archive(
            DirectoryStore(self._settings.store_path, self._clock),
            self.links["archive"],
            lambda: KeyRing.open(self._config_dir, self._environment),
            self._clock,
            source_marker=lambda batch_id: self._mover.marker("main", batch_id),
        )

    @cached_property
    def _tiers(self) -> dict[Tier, TierFacts]:
        quotas, configured = self._settings.quotas_bytes(), self._settings.tiers
        names = {"core": configured.core.profile, "main": configured.main.profile, "archive": None}
        return {tier: TierFacts(tier, link, quotas[tier], _profile(names[tier], tier)) for tier, link in self.links.items()}

    @property
    def _config_dir(self) -> Path:
        """The user's configuration folder (XDG), where the archive's key lies."""
        home = self._environment.get("XDG_CONFIG_HOME") or Path(self._environment.get("HOME") or Path.home()) / ".config"
        return Path(home) / "tierkeeper"

    @property
    def _key_present(self) -> bool:
        return KeyRing.present(self._config_dir, self._environment)

    def _make_key(self) -> str:
        written = self.archive.written_with()
        if written is not None:
            cause = f"it is missing, and the archive was written with key {written}, which no new one can replace"
            remedy = "Put archive.key back, or the text of the recovery key into TIERKEEPER_KEY to read the archive"
            raise UsageError("archive key", cause, remedy)
        return KeyRing.create(self._config_dir, self._environment)[1]

    def _prepare(self, policies: Sequence[TablePolicy], source: Tier, destination: Tier, *, apply: bool) -> SetupResult:
        mirrors = tuple(p for p in self._policies if p.mode == "mirror")
        upward = (source, destination) == ("main", "core")
        needed = [p.name for p in policies]
        names = frozenset((source, destination))
        return self._set_up((*mirrors, *policies), names, apply=apply, upward=upward, needed=needed)

    def _set_up(
        self,
        policies: tuple[TablePolicy, ...],
        names: frozenset[Tier],
        *,
        apply: bool,
        upward: bool = False,
        needed: Collection[TableName] = (),
    ) -> SetupResult:
        """Raises where every table must wait, or a `needed` one; else those that wait are told in the result.

        On the way up each is needed: those that get a guard besides refer to rows that come.
        """
        links = {str(n): link for n, link in self.links.items() if n in names}
        key_present = self._key_present if "archive" in names else True
        schema = self.archive.schema if "archive" in names else {}
        planned = runner.plan(links, policies, schema, key_present=key_present, upward=upward, facts=self._tiers)
        _refuse_waiting(planned.waiting, needed, len(policies))
        if apply:
            done = runner.apply(planned, links, self._audit, self._make_key)
        else:
            shown = SetupResult(applied=False, steps=list(planned.steps), notes=list(planned.notes))
            done = runner.Applied(shown, planned.waiting)
        _refuse_waiting(done.waiting, done.waiting if upward else needed, len(policies))
        return done.result.model_copy(update={"waiting": [str(t) for t in done.waiting], "errors": told(done.waiting.values())})

    def _archived(self, table: TableName | None, before: datetime | None) -> list[TableName]:
        """The tables to archive: the one that is named, else those of the policy that have reached Main and lead others."""
        if table is not None:
            return [table]
        leading = [p for p in self._policies if p.mode == "move" and not p.follows]
        asked = [p.name for p in leading if p.main is not None or before is not None]
        with translated("tiers.main"), closing(self.links["main"].connect("archive")) as conn:
            return [name for name in asked if usage.table_size(conn, name) is not None]

    def _store_bytes(self) -> int:
        """Raises UsageError where the store is no directory."""
        path = self._settings.store_path
        if path.exists() and not path.is_dir():
            raise UsageError(f"store {path}", "this is a file, not a directory", "Set ARCHIVE_PATH to a directory")
        return usage.directory_bytes(path)

    def _probe_store(self) -> str:
        self._store_bytes()
        return self.archive.probe()

    def _check_writable(self, tier: Tier) -> None:
        """Raises UsageError or NotNow where nothing may be written to `tier`."""
        with translated(f"tiers.{tier}"), closing(self.links[tier].connect("restore")) as conn:
            refused = usage.refusal(usage.measure(conn, profile.SELF_HOSTED), f"tiers.{tier}", gives_only=False)
        if refused is not None:
            raise refused


class _Moves:
    """The mover as the quota manager's port."""

    def __init__(self, service: MoveService) -> None:
        self._service = service

    def move(
        self, table: TableName, source: Tier, destination: Tier, *, before: datetime | None = None, limit: int | None = None
    ) -> MoveResult:
        return self._service.move(Request(table, source, destination, before, limit=limit, as_room_allows=True))

    def plan(self, table: TableName, source: Tier, destination: Tier) -> MovePlan:
        return self._service.plan(Request(table, source, destination, as_room_allows=True))


def _refuse_waiting(waiting: Mapping[TableName, TierkeeperError], needed: Collection[TableName], tables: int) -> None:
    for table in needed:
        if table in waiting:
            raise waiting[table]
    if waiting and len(waiting) == tables:
        errors = each(waiting.values())
        raise errors[0] if len(errors) == 1 else Faults(errors)


def _profile(name: str | None, tier: Tier) -> profile.Profile:
    return profile.SELF_HOSTED if name is None else profile.named(name, f"tiers.{tier}.profile")


def _silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


def _never() -> str | None:
    """A run that nothing asks to end."""
    return None
