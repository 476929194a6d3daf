"""The setup and the mover, wired to the tiers and the archive."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tierkeeper.compose.trusting import TrustingKeeper
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.errors import Faults, TierkeeperError, UsageError, each
from tierkeeper.kernel.policy import TablePolicy, Tier
from tierkeeper.kernel.ports import Audit, Destination, Held
from tierkeeper.kernel.results import MovePlan, MoveResult, SetupResult, told
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.mover import markers
from tierkeeper.mover.erasing import Eraser
from tierkeeper.mover.parts import PartService
from tierkeeper.mover.request import Request
from tierkeeper.mover.sharing import Part
from tierkeeper.mover.thawing import Thaw
from tierkeeper.quotas.coldest import Kept
from tierkeeper.quotas.room import Room, StoreRoom
from tierkeeper.setup import runner

if TYPE_CHECKING:
    from tierkeeper.archive.service import Archive


class MovingKeeper(TrustingKeeper):
    """Sets tiers up and moves rows between them."""

    def setup(self, apply: bool) -> SetupResult:
        """What is missing, made if `apply`. Raises what keeps it from being made."""
        with self._hints.asking_anew():
            return self._set_up(self._policies, frozenset(("core", "main", "archive")), apply=apply, jobs=True)

    def set_up_jobs(self) -> SetupResult:
        """Main's queue of jobs, made or brought up to date. Raises UsageError where it is too new for this machine."""
        return self._set_up((), frozenset(("main",)), apply=True, jobs=True)

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

    def move_part(self, document: Mapping[str, Any]) -> MoveResult:
        """Moves a part of a run that another process leads; `document` is what its `Sharing` offered."""
        return self._mover.move_part(Part.read(document))

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

    @cached_property
    def archive(self) -> "Archive":
        from tierkeeper.archive.checkpoint import FILE, Checkpoints
        from tierkeeper.archive.service import Archive

        return Archive(
            self._store,
            self.links["archive"],
            lambda: KeyRing.open(self._config_dir, self._environment),
            self._clock,
            source_marker=lambda batch_id: markers.marker(self.links["main"], "main", batch_id),
            checkpoints=Checkpoints(self._config_dir / FILE, self._store.name) if self._disk_lasts else None,
        )

    @cached_property
    def _mover(self) -> PartService:
        return PartService(
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
            thaws=_Thaws(self),
            sharing=self._sharing,
        )

    @cached_property
    def _eraser(self) -> Eraser:
        return Eraser(self.links, lambda: self.archive.vault, self._bounds.longest_reader_seconds, self._stop)

    @cached_property
    def thawing(self) -> Thaw:
        return Thaw(
            self.links["main"],
            self.links["archive"],
            lambda: self.archive.vault,
            longest_reader_seconds=self._bounds.longest_reader_seconds,
            clock=self._clock,
            stop=self._stop,
        )

    def _archive_destination(self) -> AbstractContextManager[Destination]:
        """Asked for by a run that needs it: the archive's libraries take most of a second to load."""
        return self.archive.destination(self._store_room().weigh)

    def _store_room(self) -> StoreRoom:
        """The archive's quota. It knows no older size of the store than its own."""
        quota = self._tiers["archive"].quota_bytes
        return StoreRoom(quota, self._store_bytes, self._segments_kept, self._clock)

    def _segments_kept(self) -> list[Kept]:
        """Those that count, of tables whose rows may be forgotten: retention removes no others."""
        named = {str(p.name): p for p in self._policies if p.mode == "move" and p.age is not None}
        listed = self.archive.list()
        return [Kept(named[s.table].name, s.max_age, s.bytes, named[s.table].main) for s in listed if s.table in named]

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
        audit: Audit | None = None,
        jobs: bool = False,
    ) -> SetupResult:
        """Raises where every table must wait, or a `needed` one; else those that wait are told in the result.

        On the way up each is needed: those that get a guard besides refer to rows that come.
        """
        links = {str(n): link for n, link in self.links.items() if n in names}
        key_present = self._key_present if "archive" in names else True
        schema = self.archive.schema if "archive" in names else {}
        planned = runner.plan(links, policies, schema, key_present=key_present, upward=upward, facts=self._tiers, jobs=jobs)
        _refuse_waiting(planned.waiting, needed, len(policies))
        if apply:
            done = runner.apply(planned, links, audit or self._audit, self._make_key)
        else:
            shown = SetupResult(applied=False, steps=list(planned.steps), notes=list(planned.notes))
            done = runner.Applied(shown, planned.waiting)
        _refuse_waiting(done.waiting, done.waiting if upward else needed, len(policies))
        return done.result.model_copy(update={"waiting": [str(t) for t in done.waiting], "errors": told(done.waiting.values())})

    def _make_key(self) -> str:
        written = self.archive.written_with()
        if written is not None:
            cause = f"it is missing, and the archive was written with key {written}, which no new one can replace"
            remedy = "Put archive.key back, or the text of the recovery key into TIERKEEPER_KEY to read the archive"
            raise UsageError("archive key", cause, remedy)
        return KeyRing.create(self._config_dir, self._environment)[1]


@dataclass(frozen=True)
class _Thaws:
    """Implements `kernel.ports.Thaws`; it reaches the archive only when asked."""

    keeper: MovingKeeper

    def held(self, table: TableName) -> Sequence[Held]:
        return self.keeper.archive.vault.held(table)

    def settle(self, tables: Sequence[TableName]) -> int:
        return self.keeper.thawing.settle(tables)


def _refuse_waiting(waiting: Mapping[TableName, TierkeeperError], needed: Collection[TableName], tables: int) -> None:
    for table in needed:
        if table in waiting:
            raise waiting[table]
    if waiting and len(waiting) == tables:
        errors = each(waiting.values())
        raise errors[0] if len(errors) == 1 else Faults(errors)
