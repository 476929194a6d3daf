"""Plans a setup from what the tiers have, and applies a plan. Deciding is `plan`'s; this connects, reads and executes.

It creates and never drops or empties; every step is recorded in the audit before it runs, but for those that make the
audit itself.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from uuid import UUID

from tierkeeper.kernel.errors import Faults, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import TablePolicy, Tier
from tierkeeper.kernel.ports import Audit
from tierkeeper.kernel.results import SetupResult, SetupStep
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import references, shapes
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import beside, looking
from tierkeeper.postgres.link import Connection, Link, transaction, translated
from tierkeeper.setup import drift, observe, queue
from tierkeeper.setup import plan as decide
from tierkeeper.setup.model import OwnSchema, SetupPlan, SourceTable
from tierkeeper.tiers import identity, memory
from tierkeeper.tiers.ask import ask_all
from tierkeeper.tiers.profile import SELF_HOSTED
from tierkeeper.tiers.tier import Tier as TierFacts
from tierkeeper.tiers.usage import measure, refusal


@dataclass(frozen=True)
class Applied:
    """What was done, and why which tables wait."""

    result: SetupResult
    waiting: Mapping[TableName, TierkeeperError]


def plan(
    tiers: Mapping[str, Link],
    policies: Collection[TablePolicy],
    archive_schema: Mapping[str, str],
    *,
    key_present: bool,
    upward: bool = False,
    facts: Mapping[Tier, TierFacts] = MappingProxyType({}),
    jobs: bool = False,
) -> SetupPlan:
    """What is missing at `tiers` (core, main, archive: the catalog; the uppermost first) for `policies`.

    The first of `tiers` only gives rows away, unless rows are to go `upward` to it; the others must take writes.
    `facts` has the tiers' quotas: what would write a table anew where there is no room for that waits (I9). With `jobs` Main gets
    the queue of jobs.
    `archive_schema` maps a relation of the catalog's schema `tierkeeper` to the statement that makes it. A table that cannot be
    set up, or must wait, is in the plan's `waiting`. Raises NotNow for a tier that is away or read-only, UsageError for addresses
    that are mixed up; several faults: Faults.
    """
    with looking((p.name for p in policies), patient=True):
        return _plan(tiers, policies, archive_schema, key_present=key_present, upward=upward, facts=facts, jobs=jobs)


def _plan(
    tiers: Mapping[str, Link],
    policies: Collection[TablePolicy],
    archive_schema: Mapping[str, str],
    *,
    key_present: bool,
    upward: bool,
    facts: Mapping[Tier, TierFacts],
    jobs: bool,
) -> SetupPlan:
    uppermost = next(iter(tiers), None)

    def look(tier: str, conn: Connection) -> tuple[identity.Identity, OwnSchema, Mapping[TableName, UUID]]:
        with catalog(conn):
            refused = refusal(measure(conn, SELF_HOSTED), f"tiers.{tier}", gives_only=tier == uppermost and not upward)
            if refused is not None:
                raise refused
            own, above = observe.own_schema(conn), _above(tier, tiers)
            known = memory.origins(conn, above) if above is not None and "ledger" in own.relations else {}
            return identity.read(conn), own, known

    with beside(partial(_of_tables, tiers, policies, upward=upward, main_facts=facts.get("main"))) as of_tables:
        seen, away = ask_all(tiers, look, "setup")
    faults = [*away.values(), *identity.faults({tier: who for tier, (who, *_) in seen.items()})]
    faults += [lacking for tier, (_, own, *_) in seen.items() if (lacking := decide.may_not_begin(tier, own)) is not None]
    if faults:
        raise Faults(faults)
    steps: list[SetupStep] = []
    for tier, (_, own, _) in seen.items():
        more = archive_schema if tier == "archive" else decide.jobs_relations(tier) if jobs else {}
        steps += decide.own_steps(tier, own, more, upward=upward)
        if jobs and tier == "main":
            steps += queue.steps(own.has_queue, own.queue)
    table_steps, waiting = of_tables()
    for tier, (*_, known) in seen.items():
        above = _above(tier, tiers)
        now = seen[above][0].roles.get(above) if above is not None else None
        foreign = memory.strangers(above or "", now, known, [p.name for p in policies])
        table_steps = [s for s in table_steps if s.table not in set(map(str, foreign))]
        if now is not None:  # else its schema is made first, and then it says who it is
            waiting |= foreign
    steps += table_steps
    if not key_present:
        steps.append(SetupStep(tier="archive", action=decide.KEY_ACTION))
    return SetupPlan(decide.once(steps), waiting=waiting)


def _above(tier: str, tiers: Mapping[str, Link]) -> str | None:
    """The tier that rows come to `tier` from on their way down; None where it is not among `tiers`."""
    above = {"main": "core", "archive": "main"}.get(tier)
    return above if above in tiers else None


def apply(planned: SetupPlan, tiers: Mapping[str, Link], audit: Audit, make_key: Callable[[], str] | None = None) -> Applied:
    """Does what `planned` says, each table's steps in one transaction; `make_key` makes the archive's key and says where it lies.

    I7: the audit holds each statement before it runs. A table whose steps fail joins the waiting ones, and the others go on;
    a rerun of `plan` finds what is still missing. Raises as the servers do, translated, where tierkeeper's own parts fail.
    """
    result = SetupResult(applied=True, steps=list(planned.steps), notes=list(planned.notes))
    waiting = dict(planned.waiting)
    if not planned.steps:
        return Applied(result, waiting)
    own = [s for s in planned.steps if s.tier == "main" and decide.makes_own_relation(s)]
    with ExitStack() as open_now:
        conns = {t: open_now.enter_context(closing(tiers[t].connect("setup"))) for t in tiers}
        if own:
            apply_steps(conns["main"], own)
        detail = {"steps": [f"{s.tier}: {s.action}" for s in planned.steps], "sql": [s.sql for s in planned.steps if s.table]}
        with audit.action("setup", "tiers", detail) as outcome:
            for tier, conn in conns.items():
                mine = [s for s in planned.steps if s.tier == tier and s not in own]
                apply_steps(conn, [s for s in mine if not s.table and not queue.stands_alone(s)])
                for step in filter(queue.stands_alone, mine):
                    apply_steps(conn, [step])
                failed = _apply_tables(conn, mine, waiting)
                result.steps[:] = [s for s in result.steps if s not in failed]
            if any(s.action == decide.KEY_ACTION for s in planned.steps):
                if make_key is None:
                    cause = "it is missing and cannot be made here"
                    raise UsageError("archive key", cause, "Set TIERKEEPER_KEY to the archive's key")
                result.notes.append(make_key())
            outcome(steps=len(result.steps), waiting=sorted(map(str, waiting)))
    return Applied(result, waiting)


def _apply_tables(conn: Connection, steps: Iterable[SetupStep], waiting: dict[TableName, TierkeeperError]) -> list[SetupStep]:
    """Makes each table's steps, or none of them: then the table is `waiting` with the reason. Returns the steps not made.

    Foreign keys are steps by themselves, when every table is there.
    """
    tables: dict[tuple[str, bool], list[SetupStep]] = {}
    for step in steps:
        if step.table:
            tables.setdefault((step.table, decide.joins_tables(step)), []).append(step)
    failed: list[SetupStep] = []
    for (table, _), theirs in tables.items():
        if TableName.parse(table, "table") in waiting:
            failed += theirs
            continue
        try:
            apply_steps(conn, theirs)
            reach(Point.TABLE_SET_UP)
        except TierkeeperError as error:
            waiting[TableName.parse(table, "table")] = error
            failed += theirs
    return failed


def missing_for(
    source: Connection,
    destination: Connection,
    policy: TablePolicy,
    mirrors: Collection[TableName],
    *,
    along: Collection[TableName] = (),
    tier: str = "main",
    room_bytes: int | None = None,
) -> tuple[SetupStep, ...]:
    """What `tier`, which `destination` leads to, lacks of the table of `policy` as `source` has it.

    The mirrored tables among `mirrors` that it references come first; `along` are tables whose rows may go with its own. Raises
    UsageError (several: Faults) where the table is missing at the source, has no key or no such age, or differs at the
    destination.
    """
    table = _source_table(source, destination, policy.name, tier)
    if policy.age is not None:
        shapes.check_age_column(table.shape, policy.age)
    steps: list[SetupStep] = []
    parents = {}
    if policy.mode == "move":
        for parent in dict.fromkeys(fk.parent for fk in table.foreign_keys if fk.parent in mirrors):
            steps += missing_for(source, destination, TablePolicy(parent, "mirror"), mirrors, tier=tier, room_bytes=room_bytes)
            parents[parent] = observe.source_table(source, parent).shape
        for parent in {fk.parent for fk in table.foreign_keys}.intersection(along):
            parents[parent] = observe.source_table(source, parent).shape
    there = observe.destination_table(destination, policy.name, table.objects, tier=tier)
    there = replace(there, room_bytes=room_bytes)
    return decide.once([*steps, *decide.table_steps(tier, policy, table, there, parents, joined=along)])


def apply_steps(conn: Connection, steps: Iterable[SetupStep]) -> None:
    """Executes the SQL of `steps` on the tier that `conn` leads to, in one transaction: all of them or none."""
    statements = [s for s in steps if s.sql]
    if not statements:
        return
    place = f"tiers.{statements[0].tier}"
    with translated(place), transaction(conn) as cur:
        for step in statements:
            with translated(f"{place}: {step.action}"):
                # A step's SQL was composed by `plan`, identifiers quoted, before it was shown to the user.
                cur.execute(step.sql.encode())
        if statements[-1].table:
            reach(Point.TABLE_ALTERED)


def _of_tables(
    tiers: Mapping[str, Link], policies: Collection[TablePolicy], *, upward: bool, main_facts: TierFacts | None
) -> tuple[list[SetupStep], dict[TableName, TierkeeperError]]:
    """The steps of the tables of `policies`, and why others of them wait; on the hop between Main and the archive, only of those
    that rows come up to.
    """
    if not policies or "main" not in tiers:
        return [], {}
    if "core" not in tiers:
        return _thawing(tiers["main"], policies) if upward else [], {}
    with (
        closing(tiers["core"].connect("setup")) as core,
        closing(tiers["main"].connect("setup")) as main,
        catalog(core),  # one snapshot of each for all tables: a transaction costs more than a look
        catalog(main),
    ):
        if upward:
            return _returning(core, main, policies), {}
        room = None if main_facts is None else main_facts.quota_bytes - measure(main, main_facts.profile).used_bytes
        return _all_tables(core, main, policies, room)


def _thawing(link: Link, policies: Collection[TablePolicy]) -> list[SetupStep]:
    """What Main lacks to take segments back: a table that was replaced, or lost its triggers, has no guards."""
    with closing(link.connect("setup")) as main, catalog(main):
        names = [policy.name for policy in policies if policy.mode == "move"]
        tables = {name: observe.destination_table(main, name, tier="main") for name in names}
        there = {name: table for name, table in tables.items() if table.shape is not None}
        return [step for name, table in there.items() for step in decide.guard_steps("main", name, table)]


def _returning(core: Connection, main: Connection, policies: Collection[TablePolicy]) -> list[SetupStep]:
    """What Core lacks to take rows back: nothing but the guards. Its tables are the application's."""
    steps: list[SetupStep] = []
    for policy in policies:
        if policy.mode == "move":
            table = observe.source_table(core, policy.name)
            below = observe.destination_table(main, policy.name, table.objects, tier="main")
            renamed = [one for thing in table.objects if (one := decide.renamed_label("main", thing, below)) is not None]
            drift.refuse_behind(table, below, [*decide.type_differences("main", table, below), *renamed])
            shape = shapes.read(main, policy.name, tier="main")
            steps += decide.return_steps("core", shape, observe.destination_table(core, policy.name, tier="core"))
    moving = {p.name for p in policies if p.mode == "move"}
    return [*steps, *decide.reference_steps("core", references.read(core), moving, observe.guards(core))]


def _all_tables(
    core: Connection, main: Connection, policies: Collection[TablePolicy], room_bytes: int | None
) -> tuple[list[SetupStep], dict[TableName, TierkeeperError]]:
    """The steps of the tables that can be followed, and why the others wait."""
    mirrors = {p.name for p in policies if p.mode == "mirror"}
    along = {p.name for p in policies} - mirrors
    steps: list[SetupStep] = []
    waiting: dict[TableName, TierkeeperError] = {}
    for policy in sorted(policies, key=lambda p: p.mode != "mirror"):
        try:
            steps += missing_for(core, main, policy, mirrors, along=along, room_bytes=room_bytes)
        except TierkeeperError as error:
            waiting[policy.name] = error
    return steps, waiting


def _source_table(source: Connection, destination: Connection, name: TableName, tier: str) -> SourceTable:
    """The table at the source. Raises UsageError, which tells what became of it where `tier` followed it before."""
    try:
        return observe.source_table(source, name)
    except UsageError as error:
        known = None if shapes.exists(source, name) else observe.followed_table(destination, name)
        raise drift.gone(tier, name, known, observe.called_now(source, known.relation) if known else None, error) from error
