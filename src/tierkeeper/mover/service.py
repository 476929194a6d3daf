"""One table, one hop: turns a request and a policy into a run, or into a plan that changes nothing."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import InFlight, UsageError
from tierkeeper.kernel.policy import TablePolicy, Tier
from tierkeeper.kernel.ports import Audit, Destination, Held, Progress, Room, Sharing, Stop, Thaws, Throttle
from tierkeeper.kernel.results import MovePlan, MoveResult, SetupResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import budget, conflicts, family, fitness, mirror, plan, recovery, returning, width
from tierkeeper.mover.bundle import Survey, survey
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.ends import Ends, Pairs, opened, pair
from tierkeeper.mover.explain import stays as explain_stays
from tierkeeper.mover.lease import Lease
from tierkeeper.mover.model import Selection
from tierkeeper.mover.outcome import Outcome
from tierkeeper.mover.pacing import Pacer, Weighed, kept_of, look_at
from tierkeeper.mover.references import Explorer
from tierkeeper.mover.request import Bounds, Request
from tierkeeper.mover.runner import Mover
from tierkeeper.mover.sharing import share_of
from tierkeeper.mover.source import Source
from tierkeeper.mover.weighing import weigh_all
from tierkeeper.mover.worker import Pace
from tierkeeper.postgres import references, shapes
from tierkeeper.postgres.keeping import beside, looking
from tierkeeper.postgres.link import Connection, translated
from tierkeeper.postgres.references import Reference
from tierkeeper.tiers.tier import Tier as TierFacts


class Prepare(Protocol):
    """The setup, as the mover needs it."""

    def __call__(self, policies: Sequence[TablePolicy], source: Tier, destination: Tier, *, apply: bool) -> SetupResult:
        """What the two tiers lack for moving the tables of `policies` from one to the other; with `apply` it is made."""
        ...


@dataclass(frozen=True)
class _Case:
    """A request, its connections, the rows that it means, and what hangs on them."""

    request: Request
    ends: Ends
    source: Source
    selection: Selection
    explorer: Explorer | None

    @property
    def tables(self) -> tuple[TableName, ...]:
        """The request's own and those that go with it."""
        return family.tables_of(self.request.table, self.explorer)


class _Looked(NamedTuple):
    """A case, what its rows weigh, and what the destination lacks for them."""

    case: _Case
    weighed: Weighed
    missing: Callable[[], SetupResult]


OpenDestination = Callable[[], AbstractContextManager[Destination]]
"""The archive as a destination, opened for one run."""


class MoveService:
    """Moves rows on request. I7: under an audit record; I9, I10: every check that can refuse comes before the first change."""

    def __init__(
        self,
        tiers: Mapping[Tier, TierFacts],
        policies: tuple[TablePolicy, ...],
        *,
        bounds: Bounds,
        audit: Audit,
        clock: Clock,
        progress: Progress,
        stop: Stop,
        prepare: Prepare,
        archive: OpenDestination,
        room: Room,
        thaws: Thaws,
        sharing: Sharing | None = None,
    ) -> None:
        self._tiers = tiers
        self._links = {name: tier.link for name, tier in tiers.items()}
        self._policies = policies
        self._places = {p.name: at for at, p in enumerate(policies)}
        self._bounds = bounds
        self._audit = audit
        self._clock = clock
        self._progress = progress
        self._stop = stop
        self._prepare = prepare
        self._archive = archive
        self._room = room
        self._thaws = thaws
        self._sharing = sharing

    def plan(self, request: Request, *, explain: bool = False) -> MovePlan:
        """What `move` would do now; `explain` says which rows it would leave, and why. Changes nothing."""
        with looking([request.table, *(p.name for p in self._policies if p.mode == "mirror")]):
            return self._plan(request, explain=explain)

    def _plan(self, request: Request, *, explain: bool) -> MovePlan:
        policy = self._policy(request)
        with self._looked(request, policy) as (case, weighed, missing):
            ends, source, selection, tables = case.ends, case.source, case.selection, case.tables
            notes = [note for table in tables for note in fitness.around(ends.source, ends.destination, request, table)]
            rows = conflicts.without(ends.main(request.source), source.holdings, selection, weighed.rows)
            surveyed = self._survey(case, weighed)
            if surveyed is not None:
                rows = len(surveyed.rows)
                notes += [f"rows of {', '.join(map(str, tables))} go together where foreign keys join them", *surveyed.notes]
            notes += [f"rows of {h.min_age} to {h.max_age} were thawed, and stay until {h.until}" for h in selection.held]
            if request.upward:
                notes += returning.notes(self._room, policy, returning.arrivals(request, source, selection, surveyed))
            steps, stays = missing().steps, None
            if explain:
                with closing(self._links["main"].connect("mover")) as main:
                    stays = explain_stays(source, main, selection, self._bounds.longest_reader_seconds)
        if weighed.refusal is not None:
            notes.append(f"it would be refused now: {weighed.refusal}")
        source_cost, destination_cost = weighed.costs[0], weighed.costs[1] if len(weighed.costs) > 1 else None
        return MovePlan(
            table=str(request.table),
            from_=request.source,
            to=request.destination,
            cutoff=selection.cutoff,
            rows=rows,
            batches=weighed.batches,
            bytes=weighed.bytes,
            wal_bytes=source_cost.wal_bytes,
            scratch_bytes=source_cost.scratch_bytes,
            destination_bytes=destination_cost and destination_cost.growth_bytes,
            destination_wal_bytes=destination_cost and destination_cost.wal_bytes,
            seconds=budget.seconds(weighed.rows, weighed.bytes, self._bounds.longest_reader_seconds),
            locks=plan.locks(tables, request.source, request.destination) if weighed.rows else [],
            setup=steps,
            notes=notes,
            stays=stays,
        )

    def move(self, request: Request) -> MoveResult:
        """Moves, after making what is missing at the destination. Raises the errors of every part, translated."""
        policy = self._policy(request)
        began = self._clock.monotonic()
        with self._looked(request, policy, moves=True) as (case, weighed, missing):
            selection, notes = case.selection, []
            if request.upward:
                arrivals = returning.arrivals(request, case.source, selection, self._survey(case, weighed))
                notes += returning.notes(self._room, policy, arrivals)
            if weighed.refusal is not None:
                raise weighed.refusal
            detail = {"from": request.source, "to": request.destination, "cutoff": selection.cutoff, "where": request.where}
            if case.explorer is not None:
                detail["with"] = ", ".join(str(t) for t in case.tables if t != request.table)
            prepared = self._prepared(case, weighed, missing)
            notes += [*prepared.notes, *(f"{e.place}: {e.cause}. {e.remedy}" for e in prepared.errors)]
            with self._audit.action("move", str(request.table), detail) as note:
                outcome = self._run(case, weighed, prepared.waiting)
                if weighed.limit != request.limit and outcome.stopped_because == "row limit":
                    outcome.stopped_because = f"no room at {request.destination} for more"
                note(rows=outcome.rows, batches=outcome.moved, stopped_because=outcome.stopped_because)
        return outcome.told(request, selection.cutoff, self._clock.monotonic() - began, notes)

    @contextmanager
    def _looked(self, request: Request, policy: TablePolicy, *, moves: bool = False) -> Iterator[_Looked]:
        """What plan and move begin with, asked side by side. Raises where rows cannot move."""
        set_up, table = partial(self._set_up, request, apply=False), request.table
        with (
            translated(str(table)),
            beside(partial(set_up, [table])) as of_it_alone,
            opened(self._tiers, request) as ends,
        ):
            around = ends.here.ask(lambda conn: fitness.look(conn, table))
            toasted = ends.here.ask(lambda conn: width.toasted(conn, table))
            found = ends.here.ask(references.read)
            kept = ends.here.ask(lambda conn: kept_of(conn, table))
            arrives = None if ends.there is None else ends.there.ask(lambda conn: self._there(request, conn).refuse_unfit(table))
            with beside(partial(look_at, ends.looking, kept)) as looked_at:
                source = Source(self._links[request.source], ends.source, request.source)
                selection = self._selection(request, policy, source)
                explorer = self._explorer(request, source, selection, ends, found())
                source.learn(table, around(), toasted())
                case = _Case(request, ends, source, selection, explorer)
                with nullcontext(of_it_alone) if explorer is None else beside(partial(set_up, case.tables)) as missing:
                    self._refuse_unfit(case, arrives)
                    pace, selections = self._pace(request, explorer), [selection, *family.others(selection, explorer)]
                    cuts, conn = moves and explorer is None, ends.looking[0][1]
                    weighed = weigh_all(source, request, pace, selections, conn=conn, looked_at=looked_at, cuts=cuts)
                    yield _Looked(case, weighed, missing)

    def _prepared(self, case: _Case, weighed: Weighed, missing: Callable[[], SetupResult]) -> SetupResult:
        """The setup, made where anything is `missing`.

        Where copies in flight keep the table from being altered they are settled, and no new ones made.
        """
        request, tables = case.request, case.tables
        try:
            found = missing()
            return self._set_up(request, tables, apply=True) if found.steps else found
        except InFlight:
            with self._audit.action("settle", str(request.table), {"from": request.source, "to": request.destination}) as note:
                outcome = self._run(case, replace(weighed, limit=0), [str(p.name) for p in self._policies])
                note(recovered=outcome.recovered)
            return self._set_up(request, tables, apply=True)

    def _set_up(self, request: Request, tables: Sequence[TableName], *, apply: bool) -> SetupResult:
        return self._prepare(self._of(tables), request.source, request.destination, apply=apply)

    def refresh_mirrors(self, waiting: Collection[str] = ()) -> None:
        """Brings the mirrored tables at Main up to date with Core, but for those `waiting`, which Main does not follow."""
        tables = [p.name for p in self._policies if p.mode == "mirror" and str(p.name) not in waiting]
        if not tables:
            return
        with (
            translated("mirror tables"),
            self._audit.action("mirror", ", ".join(map(str, tables)), {}) as note,
            closing(self._links["core"].connect("mover")) as core,
            closing(self._links["main"].connect("mover")) as main,
        ):
            note(rows=mirror.refresh(core, main, tables))

    def _run(self, case: _Case, weighed: Weighed, waiting: Collection[str]) -> Outcome:
        request, source, ends, tables = case.request, case.source, case.ends, case.tables
        longest, pace = self._bounds.longest_reader_seconds, self._pace(request, case.explorer)
        throttle = Pacer.of(ends.looking, weighed, pace, clock=self._clock, stop=self._stop)
        if request.source == "main":
            self._thaws.settle(tables)
        if ends.destination is None:
            recovery.refuse_put_back(source, self._links["archive"])
            came = PostgresDestination(source.conn, "main", "core", longest)
            lease = Lease(source.conn, f"{min(tables)} main -> archive")
            rest = partial(recovery.lately_come, came, tables, longest)
            with self._archive() as destination:
                return self._mover(case, destination, lease, rest, weighed=weighed, throttle=throttle).run(case.selection)
        if not request.upward:
            self.refresh_mirrors(waiting)
        conn = ends.destination
        there = self._there(request, conn)
        core, main = (conn, source.conn) if request.upward else (source.conn, conn)
        lease = Lease(main, family.lease_of(request, tables, core, self._policies))
        back = Source(self._links[request.destination], conn, request.destination)
        came = PostgresDestination(source.conn, request.source, request.destination, longest)
        rest = partial(recovery.arrivals_rest, back, came, tables, longest)
        ahead = 0 if case.explorer is not None else max(min(pace.workers, plan.workers_of(weighed.batches)) - 1, 0)
        with Pairs(lambda: pair(self._links, request, there, ends.here.take()), ahead) as pairs:
            mover = self._mover(
                case, there, lease, rest, weighed=weighed, throttle=throttle, waiting=waiting, pairs=pairs, spare=ends.spare
            )
            return mover.run(case.selection)

    def _refuse_unfit(self, case: _Case, arrives: Callable[[], fitness.Surroundings | None] | None) -> None:
        """`arrives` tells what is around the request's own table at the destination, or raises why its rows must not come."""
        request, ends, explorer = case.request, case.ends, case.explorer
        selections = [case.selection] if explorer is None else explorer.selections.values()
        leaves = {one.shape.name: case.source.refuse_unfit(one) for one in selections}
        if ends.destination is not None:
            there = self._there(request, ends.destination)
            for table in case.tables:
                reached = arrives() if arrives is not None and table == request.table else there.refuse_unfit(table)
                fitness.refuse_loop(leaves.get(table), request.source, reached, request.destination)
            if explorer is not None:
                family.refuse_rigid(explorer.family, ends.destination, request.destination)

    def _there(self, request: Request, conn: Connection) -> PostgresDestination:
        return PostgresDestination(conn, request.destination, request.source, self._bounds.longest_reader_seconds)

    def _explorer(
        self, request: Request, source: Source, selection: Selection, ends: Ends, references: Sequence[Reference]
    ) -> Explorer | None:
        hop = (request.source, request.destination)
        now = lambda: self._clock.now(source.now)  # noqa: E731 - asked only where something depends on it
        return family.explorer(
            source, selection, self._policies, hop, references,
            now=now, held=partial(self._held, request), destination=ends.destination,
        )  # fmt: skip

    def _held(self, request: Request, table: TableName) -> tuple[Held, ...]:
        """What a run by policy leaves where it is; whoever names a time means that."""
        by_policy = request.destination == "archive" and request.before is None and request.older_than is None
        return tuple(self._thaws.held(table)) if by_policy else ()

    def _of(self, tables: Sequence[TableName]) -> list[TablePolicy]:
        """The policies of `tables`, in the configuration's order."""
        return [self._policies[at] for at in sorted(self._places[t] for t in tables)]

    def _survey(self, case: _Case, weighed: Weighed) -> Survey | None:
        """What goes together; None where nothing hangs on the rows."""
        request, explorer = case.request, case.explorer
        if explorer is None:
            return None
        limit, main = request.limit if request.upward else None, case.ends.main(request.source)
        return survey(case.source, explorer, weighed.batch_rows, main, limit=limit, weighed=request.upward)

    def _mover(
        self,
        case: _Case,
        destination: Destination,
        lease: Lease,
        rests: Callable[[Collection[TableName]], str | None],
        *,
        weighed: Weighed,
        throttle: Throttle,
        waiting: Collection[str] = (),
        pairs: Pairs | None = None,
        spare: tuple[Connection, Connection] | None = None,
    ) -> Mover:
        request, explorer = case.request, case.explorer
        return Mover(
            case.source,
            destination,
            lease,
            pace=replace(self._pace(request, explorer), batch_rows=weighed.batch_rows, limit=weighed.limit),
            clock=self._clock,
            progress=self._progress,
            stop=self._stop,
            # What rows refer to is at home where they go up to.
            refresh_parents=lambda: None if request.upward else self.refresh_mirrors(waiting),
            rests=rests,
            pairs=pairs,
            spare=spare,
            throttle=throttle,
            explorer=explorer,
            pieces=weighed.pieces,
            share=share_of(self._sharing, request, weighed, self._pace(request, None), alone=explorer is None),
        )

    def _pace(self, request: Request, explorer: Explorer | None) -> Pace:
        """A bundle is no larger on its way to the archive: its rows are named one by one, and one statement deletes them all."""
        longest, rows = self._bounds.longest_reader_seconds, self._bounds.batch_rows
        if request.destination == "archive":
            most = self._bounds.segment_rows
            return Pace(most if explorer is None else min(most, rows), longest, request.limit, group=1, workers=1)
        return Pace(rows, longest, request.limit)

    def _policy(self, request: Request) -> TablePolicy:
        """The table's policy. Raises UsageError for a hop, a table or a condition that cannot be."""
        plan.check_hop(request.source, request.destination)
        plan.check_condition(request.where)
        chosen = (request.where, request.before, request.older_than) != (None, None, None)
        plan.check_chosen(request.source, request.destination, chosen=chosen)
        if request.table not in self._places:
            raise UsageError(
                str(request.table),
                "no [[tables]] entry names this table",
                'Add one to tierkeeper.toml with its name and its age column, such as age = "created_at"',
            )
        policy = self._policies[self._places[request.table]]
        if policy.mode == "mirror":
            raise UsageError(
                str(request.table), "a mirrored table stays whole where it is", 'Give it mode = "move" and an age column'
            )
        return policy

    def _selection(self, request: Request, policy: TablePolicy, source: Source) -> Selection:
        """The rows that are meant, with the cutoff frozen. Raises UsageError where the table cannot be moved."""
        family.refuse_following(source, policy, self._policies)
        shape = shapes.read(source.conn, request.table, tier=request.source)
        age = family.age_of(policy, shape)
        by_policy = {"core": policy.core, "main": policy.main}.get(request.source) if not request.upward else None
        older_than = request.older_than or by_policy
        cutoff = request.before or (self._clock.now(source.now) if request.upward and older_than is None else None)
        if cutoff is None and older_than is not None:
            cutoff = older_than.before(self._clock.now(source.now))
        if cutoff is None:
            raise UsageError(
                f"tables.{request.table}.{request.source}",
                f"nothing says when rows leave {request.source}",
                f'Write {request.source} = "30 days", or give --older-than or --before',
            )
        apart = family.apart(shape, self._policies)
        selection = Selection(shape, age, cutoff, request.where, apart=apart, held=self._held(request, shape.name))
        if request.where is not None:
            family.try_condition(source, selection)
        return selection
