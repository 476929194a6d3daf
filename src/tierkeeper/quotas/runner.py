"""One run of the quota manager. It asks `plan` and drives the mover through a port; the mover itself guards the rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Final, Protocol

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.limits import NO_ROOM
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.ports import Audit, Stop
from tierkeeper.kernel.results import MovePlan, MoveResult, QuotaResult, QuotaTier
from tierkeeper.kernel.results.meaning import left_over
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import format_bytes
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import translated
from tierkeeper.quotas import full, plan
from tierkeeper.quotas.coldest import Choice, Pressure, pressure
from tierkeeper.quotas.early import Ahead, Bounds, EarlyMoves
from tierkeeper.quotas.partitions import PartitionDropper
from tierkeeper.quotas.parts import PartsReclaimer
from tierkeeper.quotas.reclaim import Reclaimer
from tierkeeper.quotas.report import Report, by_policy, telling
from tierkeeper.quotas.resting import has_older, rested
from tierkeeper.quotas.room import StoreRoom
from tierkeeper.tiers.ask import ask_all
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import measure, table_size

GROWN_SHARE: Final = 0.02  # of the quota: a tier that no run could bring down has its next one early once it grew by so much
REST_SECONDS = 10  # a longer rest between two hops is left for the next run
COUNTED: Final = {"server": "all databases of the server", "database": "this database"}
HOPS: Final[tuple[tuple[TierName, TierName], ...]] = (("main", "archive"), ("core", "main"))
"""What has rested goes first: new arrivals make a table rest again."""


class Moves(Protocol):
    """The mover, as the quota manager needs it."""

    def move(
        self,
        table: TableName,
        source: TierName,
        destination: TierName,
        *,
        before: datetime | None = None,
        limit: int | None = None,
    ) -> MoveResult:
        """Moves by policy, or what is older than `before`, oldest first, at most `limit` rows."""
        ...

    def plan(self, table: TableName, source: TierName, destination: TierName) -> MovePlan:
        """What `move` would do by policy."""
        ...


@dataclass(frozen=True)
class Thresholds:
    """Shares of the quota between which rows move before their time, and the time that rows rest between two hops.

    `may_rewrite`: the user allows methods that lock a table and use more than the quota for their moment.
    """

    start_at: float
    stop_at: float
    rest_seconds: float
    may_rewrite: bool = False


class QuotaManager:
    """Moves what is old, then what is too much, and returns the space. One table's error does not stop the others.

    I9: nothing moves into a tier that is full, before a rewrite its peak is weighed, and space that does not come back is never
    a reason to move more: a size that does not fall must not empty a table.
    """

    def __init__(
        self,
        tiers: Mapping[TierName, Tier],
        policies: Sequence[TablePolicy],
        moves: Moves,
        *,
        store: StoreRoom,
        ahead: Callable[[TierName], Ahead],
        thresholds: Thresholds,
        audit: Audit,
        clock: Clock,
        stop: Stop,
    ) -> None:
        self._tiers = tiers
        self._policies = [p for p in policies if p.mode == "move"]
        self._apart = frozenset(p.name for p in policies)
        self._moves = moves
        self._store = store
        self._ahead = cache(ahead)  # a forecast of a long history takes a tenth of a second
        self._thresholds = thresholds
        self._audit = audit
        self._clock = clock
        self._stop = stop
        self._unreturned: dict[tuple[TierName, TableName], int] = {}
        self._kept: dict[tuple[TierName, TableName], int] = {}
        self._in_vain: dict[TierName, int] = {}

    def run(self, *, dry_run: bool) -> QuotaResult:
        """Raises NotNow where the size of Core or Main cannot be read; everything later is in the result."""
        report = Report()
        before = self._used(report)
        if dry_run:
            with looking(sorted(self._apart)):
                self._plan(report, before)
        else:
            with self._audit.action("quota", "core", {"used_bytes": before, "may_rewrite": self._thresholds.may_rewrite}) as note:
                self._work(report)
                methods = sorted({f"{r.method} of {r.table} ({r.relation})" for r in report.reclaimed})
                rows = sum(m.rows for m in report.moves)
                note(rows=rows, errors=len(report.errors), why=report.why, reclaimed=methods, in_vain=self._in_vain)
        after = before if dry_run else self._used(report)
        tiers = {
            name: QuotaTier(
                used_bytes_before=before[name],
                used_bytes_after=after[name],
                quota_bytes=tier.quota_bytes,
                counted="the store's files" if name == "archive" else COUNTED[tier.profile.counts],
            )
            for name, tier in self._tiers.items()
        }
        for name, used in after.items():
            if not dry_run and used is not None and used >= self._thresholds.start_at * self._tiers[name].quota_bytes:
                leaving = self._leaving(name) if name != "archive" else []
                kept = {table: size for (tier, table), size in self._kept.items() if tier == name}
                seen = full.Seen(report.moves, report.errors, kept)
                follows = [p for p in self._policies if p.follows]
                report.stays_full.append(full.look(self._tiers[name], used, leaving, follows, seen))
        report.left = left_over(report.moves, report.left)
        return QuotaResult(dry_run=dry_run, tiers=tiers, stopped_because=None if dry_run else self._stop(), **report.shown)

    def pressed(self, in_vain: Mapping[str, int]) -> str | None:
        """Why a run should not wait for its time: Core or Main is too full, or will be before the next one.

        `in_vain`: the tiers that the last run could not bring down, as it noted, and what they used then. What did not help would
        not help now, and each run takes its share of every table.
        """
        least = {name: in_vain.get(name, 0) + int(GROWN_SHARE * tier.quota_bytes) for name, tier in self._tiers.items()}
        waits = {name for name in in_vain if name in least and self._used_by(name) < least[name]}
        found = {name: self._pressure(name) for name in ("core", "main") if name not in waits and self._leaving(name)}
        return next((f"{name}: {one.why}" for name, one in found.items() if one is not None), None)

    def _used(self, report: Report) -> dict[TierName, int | None]:
        """What each tier uses; None where the store does not answer, which is reported: what needs it waits, the rest goes on."""
        postgres = {name: tier for name, tier in self._tiers.items() if name != "archive"}
        links = {str(name): tier.link for name, tier in postgres.items()}
        answers, errors = ask_all(links, lambda name, conn: measure(conn, postgres[name].profile).used_bytes, "usage")  # type: ignore[index]
        for error in errors.values():
            raise error
        used: dict[TierName, int | None] = {name: answers.get(name) for name in self._tiers}
        with telling(report):
            used["archive"] = self._store.used()
        return used

    def _used_by(self, name: TierName) -> int:
        if name == "archive":
            return self._store.used()
        tier = self._tiers[name]
        with translated(f"tiers.{name}"), closing(tier.link.connect("usage")) as conn:
            return measure(conn, tier.profile).used_bytes

    def _leaving(self, source: TierName) -> list[TablePolicy]:
        """The tables whose rows may leave `source`; where a policy names no age they stay.

        Rows reach Main with the first move from Core: before it there is no such table, and nothing to do.
        """
        asked = [p for p in self._policies if getattr(p, source) is not None]
        if source == "core" or not asked:
            return asked
        tier = self._tiers[source]
        with translated(f"tiers.{source}"), closing(tier.link.connect("usage")) as conn:
            return [p for p in asked if p.core is None or table_size(conn, p.name) is not None]

    def _row_bytes(self, source: TierName, policies: Sequence[TablePolicy]) -> dict[TableName, float]:
        """What a row of each table takes in `source`, with its index entries and TOAST."""
        with translated(f"tiers.{source}"), closing(self._tiers[source].link.connect("usage")) as conn:
            sizes = {p.name: table_size(conn, p.name) for p in policies}
        return {n: s.total_bytes / s.rows_estimate for n, s in sizes.items() if s is not None and s.rows_estimate > 0}

    def _plan(self, report: Report, used: Mapping[TierName, int | None]) -> None:
        for source, destination in HOPS:
            with telling(report):
                row_bytes = self._row_bytes(source, leaving := self._leaving(source))
                for policy in leaving:
                    with telling(report):
                        planned = self._moves.plan(policy.name, source, destination)
                        report.plans.append(planned)
                        report.choices += by_policy(policy, source, destination, planned.rows, row_bytes.get(policy.name, 0))
                self._plan_partitions(report, source)
        for source, destination in HOPS:
            with telling(report):
                gone = {
                    p.name: plan_.rows
                    for p in self._policies
                    for plan_ in report.plans
                    if plan_.table == str(p.name) and plan_.from_ == source
                }
                early = self._early_moves(source)
                choices = early.plan(gone)
                report.choices += choices
                report.notes += early.kept() if choices else []
            with telling(report):
                self._weigh_plans(report, destination, used[destination])

    def _weigh_plans(self, report: Report, name: TierName, used: int | None) -> None:
        """Says early that a tier has no room for what is planned. Raises Failed where it is full already."""
        if used is None or not any(p.to == name and p.rows for p in report.plans):
            return
        self._refuse_full(name, used)
        coming, quota = report.coming_bytes(name), self._tiers[name].quota_bytes
        if used + coming >= self._thresholds.start_at * quota:
            report.notes.append(
                f"{name} uses {format_bytes(used)} of its quota of {format_bytes(quota)}, and about {format_bytes(coming)}"
                " would come: as much as there is room for moves, the rest waits"
            )

    def _work(self, report: Report) -> None:
        for source, destination in HOPS:
            self._hop(report, source, destination)
            self._make_room(report, source)
        arrived = any(m.to == "main" and m.rows for m in report.moves)
        if arrived and self._thresholds.rest_seconds <= REST_SECONDS:
            with telling(report):
                self._go_on(report)

    def _go_on(self, report: Report) -> None:
        """Takes on what was too old for Main, too, when it has rested there. Without such rows there is nothing to wait for."""
        old = has_older(self._tiers["main"], self._leaving("main"), self._clock)
        if old and rested(self._clock, self._stop, self._thresholds.rest_seconds):
            self._hop(report, "main", "archive")

    def _hop(self, report: Report, source: TierName, destination: TierName) -> None:
        """Table by table. Those that a run which must end does not come to are named, and not looked at."""
        if self._stop() is not None:
            report.missed(source, destination, [p for p in self._policies if getattr(p, source) is not None])
            return
        with telling(report):
            with looking(sorted(self._apart)):
                row_bytes = self._row_bytes(source, leaving := self._leaving(source))
            for number, policy in enumerate(leaving):
                if self._stop() is not None:
                    report.missed(source, destination, leaving[number:])
                    return
                with telling(report):
                    self._refuse_full(destination, self._used_by(destination))
                    result = self._moves.move(policy.name, source, destination)
                    report.choices += by_policy(policy, source, destination, result.rows, row_bytes.get(policy.name, 0))
                    if result.rows or result.recovered or result.stopped_because != "complete":
                        report.moves.append(result)

    def _refuse_full(self, name: TierName, used: int) -> None:
        """Raises Failed where a tier is full: nothing is moved into it, and nothing there is deleted to make room."""
        quota = self._tiers[name].quota_bytes
        full = self._store.full(used) if name == "archive" else None
        if name != "archive" and used >= quota:
            cause = f"it uses {format_bytes(used)} of its quota of {format_bytes(quota)}, {NO_ROOM}"
            remedy = "Give it more room and raise its quota; nothing in it is deleted to make room"
            full = Failed(f"tiers.{name}", cause, remedy)
        if full is not None:
            raise full

    def _make_room(self, report: Report, source: TierName) -> None:
        """Returns the space of rows that left `source` (Main keeps it for new rows until it is short), then moves early ones."""
        if self._stop() is not None:
            return
        with telling(report):
            self._drop_partitions(report, source)
            if source == "core" or self._pressure(source) is not None:
                for policy in self._policies:
                    self._reclaim(report, source, policy.name)
                if not report.leaves_to_another(source):
                    self._early(report, source)

    def _drop_partitions(self, report: Report, source: TierName) -> None:
        """Of the tables whose policy asks for it, those that are older than it and empty."""
        for policy in self._leaving(source):
            if policy.drop_partitions:
                with telling(report), self._dropper(source, policy) as (dropper, cutoff):
                    done = dropper.run(cutoff, self._apart - {policy.name})
                    report.reclaimed += done.figures
                    report.notes += [f"{source}: {note}" for note in done.notes]

    @contextmanager
    def _dropper(self, source: TierName, policy: TablePolicy) -> Iterator[tuple[PartitionDropper, datetime]]:
        """What drops a table's old partitions, and from when on they are not old."""
        age, kept = policy.age, policy.core if source == "core" else policy.main
        assert age is not None and kept is not None  # noqa: S101 - `_leaving` gives no others
        with translated(str(policy.name)), closing(self._tiers[source].link.connect("partitions")) as conn:
            dropper = PartitionDropper(conn, source, policy.name, age, audit=self._audit, clock=self._clock, stop=self._stop)
            yield dropper, kept.before(self._clock.now(dropper.now))

    def _plan_partitions(self, report: Report, source: TierName) -> None:
        for policy in self._leaving(source):
            with telling(report), self._dropper(source, policy) as (dropper, cutoff):
                note = plan.old_partitions(policy, dropper.old(cutoff, self._apart - {policy.name}), fed=source == "main")
                if note is not None:
                    report.notes.append(f"{source}: {note}")

    def _pressure(self, name: TierName) -> Pressure | None:
        coming, quota, bounds = self._ahead(name).coming_bytes, self._tiers[name].quota_bytes, self._thresholds
        used = self._used_by(name)
        return pressure(used, quota, start_at=bounds.start_at, stop_at=bounds.stop_at, coming_bytes=coming)

    def _early_moves(self, source: TierName) -> EarlyMoves:
        ahead, bounds = self._ahead(source), Bounds(self._thresholds.start_at, self._thresholds.stop_at)
        return EarlyMoves(
            source,
            self._tiers[source],
            self._leaving(source),
            bounds,
            ahead,
            named=self._policies,
            clock=self._clock,
            used=partial(self._used_by, source),
        )

    def _early(self, report: Report, source: TierName) -> None:
        """Rows younger than the policy asks leave a tier that is too full, or soon will be: the coldest first.

        Delete, reclaim, measure, and again: I9, a size that does not follow the rows that left ends the loop.
        """
        early, failed, ended = self._early_moves(source), [p.name for p in self._policies if report.was_not_now(p.name)], None
        unreturned: dict[TableName, int] = {}
        while self._stop() is None:
            unreturned = {table: size for (tier, table), size in self._unreturned.items() if tier == source}
            wanted = early.next(unreturned, failed)
            if wanted is None:
                break
            (choice, why), used = wanted, self._used_by(source)
            moved = self._leave_early(report, choice, early)
            if not moved:
                failed.append(choice.policy.name)
                continue
            report.choices.append(early.told(choice, why, moved))
            for table in early.leaving_with(choice.policy.name):
                self._reclaim(report, source, table)
            ended = early.follows(choice, moved, used)
            if ended is not None:
                report.notes.append(ended)
                break
        if self._stop() is None and early.pressure() is not None:
            report.notes += early.kept()
            used = self._used_by(source)
            through = not (failed or report.errors or any(unreturned.values())) and used < self._tiers[source].quota_bytes
            if ended is not None or through:
                self._in_vain[source] = used

    def _leave_early(self, report: Report, choice: Choice, early: EarlyMoves) -> int:
        """Moves the rows of a choice, oldest first; how many left."""
        table, result = choice.policy.name, None
        with telling(report):
            self._refuse_full(early.destination, self._used_by(early.destination))
            result = self._moves.move(table, early.source, early.destination, before=early.least(table), limit=choice.rows)
            report.moves.append(result)
        return result.rows if result is not None else 0

    def _reclaim(self, report: Report, name: TierName, table: TableName) -> None:
        if self._stop() is not None or report.was_not_now(table):
            return
        tier = self._tiers[name]
        with telling(report), translated(str(table)), closing(tier.link.connect("vacuum")) as conn:

            def one(part: TableName) -> Reclaimer:
                return Reclaimer(
                    conn,
                    tier,
                    part,
                    may_rewrite=self._thresholds.may_rewrite,
                    longest_reader_seconds=self._thresholds.rest_seconds,
                    clock=self._clock,
                    stop=self._stop,
                    whole=table,
                )

            done = PartsReclaimer(conn, name, table, one, clock=self._clock, stop=self._stop).run(self._apart - {table})
            if done is not None:
                self._unreturned[name, table] = done.unreturned_bytes
                self._kept[name, table] = done.kept_bytes
                report.reclaimed += done.figures
                report.notes += [note for note in done.notes if note not in report.notes]
