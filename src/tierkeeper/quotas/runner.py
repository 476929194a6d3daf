"""One run of the quota manager. It asks `plan` and drives the mover through a port; the mover itself guards the rows."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, TierkeeperError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.ports import Audit, Stop
from tierkeeper.kernel.results import ErrorResult, MovePlan, MoveResult, QuotaResult, QuotaTier, Reclaim, told
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import format_bytes
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import translated
from tierkeeper.quotas import plan
from tierkeeper.quotas.look import largest_tables
from tierkeeper.quotas.partitions import PartitionDropper
from tierkeeper.quotas.parts import PartsReclaimer
from tierkeeper.quotas.reclaim import Reclaimer
from tierkeeper.tiers.ask import ask_all
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import measure, table_size

REST_SECONDS = 10  # a longer rest between two hops is left for the next run
EARLY_ROUNDS = 3  # deleting, reclaiming and measuring again; more in one run would chase a size that does not fall
EARLY_SHARE = 0.75  # of a table's rows at the run's begin: no figure, however wrong, empties a table in one run
FALL_SHARE = 0.25  # of what the rows that left should have given: a size that falls by less does not follow them
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


@dataclass
class _Report:
    moves: list[MoveResult] = field(default_factory=list)
    plans: list[MovePlan] = field(default_factory=list)
    reclaimed: list[Reclaim] = field(default_factory=list)
    errors: list[ErrorResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
        store_bytes: Callable[[], int],
        thresholds: Thresholds,
        audit: Audit,
        clock: Clock,
        stop: Stop,
    ) -> None:
        self._tiers = tiers
        self._policies = [p for p in policies if p.mode == "move"]
        self._apart = frozenset(p.name for p in policies)
        self._moves = moves
        self._store_bytes = store_bytes
        self._thresholds = thresholds
        self._audit = audit
        self._clock = clock
        self._stop = stop
        self._unreturned: dict[tuple[TierName, TableName], int] = {}

    def run(self, *, dry_run: bool) -> QuotaResult:
        """Raises NotNow where a tier's size cannot be read; everything later is in the result."""
        before = self._used()
        report = _Report()
        if dry_run:
            with looking(sorted(self._apart)):
                self._plan(report, before)
        else:
            with self._audit.action("quota", "core", {"used_bytes": before, "may_rewrite": self._thresholds.may_rewrite}) as note:
                self._work(report)
                methods = sorted({f"{r.method} of {r.table} ({r.relation})" for r in report.reclaimed})
                note(rows=sum(m.rows for m in report.moves), errors=len(report.errors), reclaimed=methods)
        after = before if dry_run else self._used()
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
            if not dry_run and used >= self._thresholds.start_at * self._tiers[name].quota_bytes:
                report.notes.append(self._stays_full(name, used))
        return QuotaResult(dry_run=dry_run, tiers=tiers, **vars(report))

    def _used(self) -> dict[TierName, int]:
        postgres = {name: tier for name, tier in self._tiers.items() if name != "archive"}
        links = {str(name): tier.link for name, tier in postgres.items()}
        answers, errors = ask_all(links, lambda name, conn: measure(conn, postgres[name].profile).used_bytes, "usage")  # type: ignore[index]
        for error in errors.values():
            raise error
        return {name: self._store_bytes() if name == "archive" else answers[name] for name in self._tiers}

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

    def _plan(self, report: _Report, used: Mapping[TierName, int]) -> None:
        for source, destination in HOPS:
            with _told(report):
                for policy in self._leaving(source):
                    with _told(report):
                        report.plans.append(self._moves.plan(policy.name, source, destination))
                self._plan_partitions(report, source)
        for source, destination in HOPS:
            with _told(report):
                planned = {p.table: p.rows for p in report.plans if p.from_ == source}
                sizes = self._sizes(source)
                freed = sum(size.row_bytes * planned.get(str(size.policy.name), 0) for size in sizes)
                wanted = self._wanted(source, int(used[source] - freed), sizes)
                if wanted is not None:
                    policy, rows = wanted
                    report.notes.append(
                        f"{source} would stay above {self._thresholds.start_at:.0%} of its quota:"
                        f" about {rows:,} more rows of {policy.name} would leave it for {destination}, early"
                    )

    def _work(self, report: _Report) -> None:
        for source, destination in HOPS:
            self._hop(report, source, destination)
            self._make_room(report, source, destination)
        arrived = any(m.to == "main" and m.rows for m in report.moves) and any(p.main is not None for p in self._policies)
        if arrived and self._thresholds.rest_seconds <= REST_SECONDS and self._stop() is None:
            self._clock.sleep(self._thresholds.rest_seconds + 0.1)
            self._hop(report, "main", "archive")

    def _hop(self, report: _Report, source: TierName, destination: TierName) -> None:
        with _told(report):
            for policy in self._leaving(source):
                with _told(report):
                    self._has_room(destination)
                    result = self._moves.move(policy.name, source, destination)
                    if result.rows or result.recovered or result.stopped_because != "complete":
                        report.moves.append(result)

    def _has_room(self, name: TierName) -> None:
        """Raises Failed where a tier is full: nothing is moved into it, and nothing there is deleted to make room."""
        used, quota = self._used()[name], self._tiers[name].quota_bytes
        if used >= quota:
            cause = f"it uses {format_bytes(used)} of its quota of {format_bytes(quota)}, so that no row was moved there"
            remedy = "Give it more room and raise its quota; nothing in it is deleted to make room"
            raise Failed(f"tiers.{name}", cause, remedy)

    def _make_room(self, report: _Report, source: TierName, destination: TierName) -> None:
        """Returns the space of rows that left `source` (Main keeps it for new rows until it is short), then moves early ones."""
        with _told(report):
            self._drop_partitions(report, source)
            if source == "core" or self._short(source, self._used()[source]):
                for policy in self._policies:
                    self._reclaim(report, source, policy.name)
                self._early(report, source, destination)

    def _drop_partitions(self, report: _Report, source: TierName) -> None:
        """Of the tables whose policy asks for it, those that are older than it and empty."""
        for policy in self._leaving(source):
            if policy.drop_partitions:
                with _told(report), self._dropper(source, policy) as (dropper, cutoff):
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

    def _plan_partitions(self, report: _Report, source: TierName) -> None:
        for policy in self._leaving(source):
            with _told(report), self._dropper(source, policy) as (dropper, cutoff):
                note = plan.old_partitions(policy, dropper.old(cutoff, self._apart - {policy.name}), fed=source == "main")
                if note is not None:
                    report.notes.append(f"{source}: {note}")

    def _short(self, name: TierName, used: int) -> bool:
        return used >= self._thresholds.start_at * self._tiers[name].quota_bytes

    def _early(self, report: _Report, source: TierName, destination: TierName) -> None:
        """Rows younger than the policy asks leave a tier that is too full, the largest table's oldest first.

        Delete, reclaim, measure, and again: I9, a size that does not follow the rows that left ends the loop.
        """
        begin = {size.policy.name: size for size in self._sizes(source)}
        may_leave = {name: int(size.rows * EARLY_SHARE) for name, size in begin.items()}
        at_once = {name: math.ceil(rows / EARLY_ROUNDS) for name, rows in may_leave.items()}
        for _ in range(EARLY_ROUNDS):
            if self._stop() is not None:
                return
            used = self._used()[source]
            held = sum(size for (tier, _), size in self._unreturned.items() if tier == source)
            # A table that keeps its deleted rows' space has room for new ones: more that leave it would lower nothing.
            giving = [name for name, rows in may_leave.items() if rows and not self._unreturned.get((source, name))]
            sizes = [size for size in self._sizes(source) if size.policy.name in giving]
            moved = 0
            while not moved and (wanted := self._wanted(source, used - held, sizes)) is not None:
                policy, rows = wanted
                moved = self._leave_early(
                    report, policy, source, destination, min(rows, may_leave[policy.name], at_once[policy.name])
                )
                sizes = [size for size in sizes if size.policy.name != policy.name]
            if not moved or wanted is None:
                return
            may_leave[policy.name] -= moved
            self._reclaim(report, source, policy.name)
            fell = used - self._used()[source]
            if fell < FALL_SHARE * moved * begin[policy.name].row_bytes:
                report.notes.append(
                    f"{source}: {moved:,} rows left early and its size fell by {format_bytes(max(0, fell))} only:"
                    " no more rows leave it in this run, since they do not seem to be what fills it"
                )
                return

    def _leave_early(self, report: _Report, policy: TablePolicy, source: TierName, destination: TierName, limit: int) -> int:
        """Moves up to `limit` of a table's oldest rows, whatever their age; how many left."""
        moved = 0
        with _told(report):
            self._has_room(destination)
            result = self._moves.move(policy.name, source, destination, before=self._clock.now(), limit=limit)
            report.moves.append(result)
            moved = result.rows
        if moved:
            share = f"{self._thresholds.start_at:.0%}"
            report.notes.append(f"{source} was above {share} of its quota: {moved:,} rows of {policy.name} left it early")
        return moved

    def _sizes(self, source: TierName) -> list["_Size"]:
        policies = self._leaving(source)
        with translated(f"tiers.{source}"), closing(self._tiers[source].link.connect("usage")) as conn:
            return [_Size(p, s.total_bytes, s.rows_estimate) for p in policies if (s := table_size(conn, p.name)) is not None]

    def _wanted(self, source: TierName, used: int, sizes: Sequence["_Size"]) -> tuple[TablePolicy, int] | None:
        """The table that should give rows early, and how many; None where none should or can."""
        for size in sorted(sizes, key=lambda s: s.total_bytes, reverse=True):
            rows = plan.early_rows(
                used,
                self._tiers[source].quota_bytes,
                start_at=self._thresholds.start_at,
                stop_at=self._thresholds.stop_at,
                table_bytes=size.total_bytes,
                table_rows=size.rows,
            )
            if rows:
                return size.policy, rows
        return None

    def _reclaim(self, report: _Report, name: TierName, table: TableName) -> None:
        if self._stop() is not None:
            return
        tier = self._tiers[name]
        with _told(report), translated(str(table)), closing(tier.link.connect("vacuum")) as conn:

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
                report.reclaimed += done.figures
                report.notes += [note for note in done.notes if note not in report.notes]

    def _stays_full(self, name: TierName, used: int) -> str:
        """What to tell about a tier that is still too full, with what fills it."""
        quota = self._tiers[name].quota_bytes
        said = f"{name} stays at {used / quota:.0%} of its quota"
        if name == "archive":
            return said
        moving = {p.name for p in self._leaving(name)}
        with translated(f"tiers.{name}"), closing(self._tiers[name].link.connect("usage")) as conn:
            found = largest_tables(conn)
        staying = [f"{table} ({format_bytes(size)})" for table, size in found if table not in moving and size >= plan.WORTH_BYTES]
        return f"{said}; no policy lets rows leave {', '.join(staying[:3])}" if staying else said


@dataclass(frozen=True)
class _Size:
    policy: TablePolicy
    total_bytes: int
    rows: int

    @property
    def row_bytes(self) -> float:
        return self.total_bytes / self.rows if self.rows > 0 else 0.0


@contextmanager
def _told(report: _Report) -> Iterator[None]:
    """Keeps an error for the report, so that the next table has its turn."""
    try:
        yield
    except TierkeeperError as error:
        report.errors += [one for one in told([error]) if one not in report.errors]
