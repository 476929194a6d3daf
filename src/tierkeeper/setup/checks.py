"""Looks at every tier, table and the store, and finds all that would stand in the way of a move. It changes nothing.

All tiers are asked at the same time; what they say is judged by pure functions, one for each kind of place.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tierkeeper.kernel.errors import Faults, InFlight, TierkeeperError, UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.results import CheckItem
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import format_bytes
from tierkeeper.postgres import pins, references, replication, shapes
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.postgres.references import Reference
from tierkeeper.postgres.replication import End, Replicating
from tierkeeper.setup import drift, memories, observe, plan
from tierkeeper.setup.model import DestinationTable, OwnSchema, SourceTable
from tierkeeper.tiers import identity
from tierkeeper.tiers.ask import ask_all
from tierkeeper.tiers.identity import Identity
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import Usage, measure, refusal

_OLDEST: Final = 140000  # Postgres 14: multiranges, CREATE OR REPLACE TRIGGER
_ENDS: Final = ("core", "main")


@dataclass
class Report:
    """What a check found: good things, faults (each with its remedy), and what is worth knowing."""

    checks: list[CheckItem] = field(default_factory=list)
    errors: list[TierkeeperError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """What one tier says; a table that cannot be used there is its error."""

    usage: Usage
    who: Identity
    own: OwnSchema
    sources: Mapping[TableName, SourceTable | TierkeeperError]
    index_leads: Mapping[TableName, frozenset[str]]
    destinations: Mapping[TableName, DestinationTable | TierkeeperError]
    watchers: tuple[str, ...]
    replicating: Mapping[TableName, Sequence[Replicating]]
    references: tuple[Reference, ...]
    split: Mapping[TableName, TableName]
    """Partitioned tables of which a partition is to move by itself."""
    hidden: Sequence[TableName] = ()
    """Tables with rows here by moves, though by their entries none leave Core."""


def check(
    tiers: Mapping[str, Tier],
    policies: Collection[TablePolicy],
    store_probe: Callable[[], str] | None,
    archive_rows: Callable[[Connection], Mapping[TableName, int]] = lambda _: {},
) -> Report:
    """Everything at once. `store_probe` writes to the store, reads back, and says what it found; it raises a TierkeeperError.
    `archive_rows` reads the catalog.

    Raises nothing itself: faults are in the report.
    """
    report = Report()
    links = {name: tier.link for name, tier in tiers.items()}

    def look(name: str, conn: Connection) -> _Seen:
        with catalog(conn):  # one snapshot: a transaction costs more than the look at a table
            seen = _look(name, conn, tiers[name], policies)
        return replace(seen, hidden=memories.hidden_at(name, conn, policies, archive_rows))

    with looking(p.name for p in policies):
        seen, away = ask_all(links, look, "check")
        report.errors += memories.faults({name: links[name] for name in seen}, policies)
        _judge_hidden(report, memories.hidden({name: s.hidden for name, s in seen.items()}, policies), links)
    for name in tiers:
        if name in away:
            error = away[name]
            report.errors += error.errors if isinstance(error, Faults) else [error]
        else:
            _judge_tier(report, tiers[name], seen[name])
    report.errors += identity.faults({name: s.who for name, s in seen.items()})
    for policy in policies:
        if "core" in seen:
            _judge_source(report, policy, seen["core"], policies)
        if "core" in seen and "main" in seen:
            _judge_drift(report, policy, seen["core"], seen["main"])
        if policy.mode == "move":
            _judge_replication(report, policy.name, *(End(t, seen[t].replicating[policy.name]) for t in _ENDS if t in seen))
    if "core" in seen:
        report.notes += seen["core"].watchers
    if store_probe is not None:
        try:
            report.checks.append(CheckItem(place="tiers.archive store", finding=store_probe()))
        except TierkeeperError as error:
            report.errors.append(error)
    return report


def _look(name: str, conn: Connection, tier: Tier, policies: Collection[TablePolicy]) -> _Seen:
    sources: dict[TableName, SourceTable | TierkeeperError] = {}
    destinations: dict[TableName, DestinationTable | TierkeeperError] = {}
    for policy in policies:
        try:
            if name == "core":
                sources[policy.name] = observe.source_table(conn, policy.name)
            elif name == "main":
                destinations[policy.name] = observe.destination_table(conn, policy.name, tier=name)
        except TierkeeperError as error:
            (sources if name == "core" else destinations)[policy.name] = error
    moved = [p.name for p in policies if p.mode == "move" and isinstance(sources.get(p.name), SourceTable)]
    trees = [n for n in moved if isinstance(of := sources[n], SourceTable) and of.shape.is_partitioned]
    split = {n: part for n in trees if (part := shapes.partition_among(conn, n, [p.name for p in policies])) is not None}
    return _Seen(
        usage=measure(conn, tier.profile),
        who=identity.read(conn),
        own=observe.own_schema(conn),
        sources=sources,
        index_leads={n: observe.index_leads(conn, n) for n in moved},
        destinations=destinations,
        watchers=tuple(dict.fromkeys(note for n in moved for note in shapes.publications_and_slots(conn, n))),
        replicating={p.name: (replication.look(conn, p.name) or () if name in _ENDS else ()) for p in policies},
        references=references.read(conn),
        split=split,
    )


def _judge_hidden(report: Report, hidden: Mapping[TableName, UsageError], links: Mapping[str, Link]) -> None:
    """A fault where Core has such a table, which nobody can ask then; else it is history that somebody keeps."""
    found, _ = ask_all({t: links[t] for t in ("core",) if hidden and t in links}, _those(hidden), "check")
    for table, error in hidden.items():
        if table in found.get("core", ()):
            report.errors.append(error)
        else:
            report.notes.append(f"{error.place}: {error.cause}; Core has no such table")


def _those(tables: Collection[TableName]) -> Callable[[str, Connection], list[TableName]]:
    return lambda _, conn: [t for t in tables if shapes.exists(conn, t)]


def _judge_tier(report: Report, tier: Tier, seen: _Seen) -> None:
    place, usage = f"tiers.{tier.name}", seen.usage
    version = f"Postgres {usage.version // 10_000}"
    if usage.version < _OLDEST:
        remedy = f"Bring it to Postgres {_OLDEST // 10_000} or newer"
        report.errors.append(UsageError(place, f"{version} is older than what this version works with", remedy))
    elif (refused := refusal(usage, place, gives_only=tier.name == "core")) is not None:
        report.errors.append(refused)
    else:
        link = "over TLS" if usage.tls else "over a plain link to this machine" if not tier.link.insecure else "over a plain link"
        pinned = f", by the authority in {pin}" if (pin := pins.in_force(tier.link)) is not None else ""
        report.checks.append(CheckItem(place=place, finding=f"{version} answers {link} at {tier.link.shown}{pinned}"))
    if usage.read_only and tier.name == "core":
        report.notes.append(f"{place} is read-only, as a full hosted database is; moving rows out works all the same")
    if not usage.tls and tier.link.insecure:
        report.notes.append(f"{place}: insecure = true, and the link is plain: whoever is on the way can read the rows")
    if tier.name != "archive" and usage.used_bytes > tier.quota_bytes:
        report.notes.append(f"{place} uses {format_bytes(usage.used_bytes)} of {format_bytes(tier.quota_bytes)}")
    if (refused := plan.may_not_begin(tier.name, seen.own)) is not None:
        report.errors.append(refused)
    elif not seen.own.there:
        report.notes.append(f"{place} has no schema tierkeeper yet: tierkeeper setup --apply makes it")


def _judge_source(report: Report, policy: TablePolicy, core: _Seen, policies: Collection[TablePolicy]) -> None:
    source = core.sources[policy.name]
    place = f"table {policy.name}"
    if isinstance(source, TierkeeperError):
        report.errors.append(source)
        return
    finding = f"found in Core with key ({', '.join(source.shape.key)})"
    if policy.mode == "mirror":
        report.checks.append(CheckItem(place=place, finding=finding))
        return
    faults, notes, when = _when_rows_leave(policy, source, core, policies)
    try:
        if references.family(policy.name, core.references, policies) is not None and policy.name in core.split:
            faults.append(references.split(policy.name, core.split[policy.name], "core"))
    except UsageError as error:
        faults.append(error)
    report.notes += [f"{place}: {note}" for note in notes]
    report.notes += [f"{place}: {trigger} in Core fires on the mover's deletes, too" for trigger in source.shape.delete_triggers]
    told = {(e.place, e.cause) for e in report.errors}  # one that concerns several tables is found with each
    report.errors += {(f.place, f.cause): f for f in faults if (f.place, f.cause) not in told}.values()
    if not faults:
        report.checks.append(CheckItem(place=place, finding=f"{finding} and {when}"))


def _when_rows_leave(
    policy: TablePolicy, source: SourceTable, core: _Seen, policies: Collection[TablePolicy]
) -> tuple[list[TierkeeperError], list[str], str]:
    """What says when rows of the table leave: faults, what is worth knowing, and the finding."""
    leads, moving = core.index_leads[policy.name], {p.name for p in policies if p.mode == "move"}
    notes = [
        f"no index in Core begins with {one.columns[0]}, so that following {one.name} reads the whole table"
        for one in core.references
        if one.child == policy.name and one.parent in moving and one.columns[0] not in leads
    ]
    try:
        if policy.age is None:
            above = references.leaders(policy.name, core.references, policies)
            return [], notes, f"its rows leave with those of {', '.join(map(str, above))}"
        shapes.check_age_column(source.shape, policy.age)
    except UsageError as error:
        return [error], notes, ""
    if policy.age not in leads:
        notes.append(f"no index in Core begins with {policy.age}, so that each batch reads the whole table")
    return [], notes, f"age {policy.age}"


def _judge_replication(report: Report, table: TableName, *ends: End) -> None:
    """What the first move would refuse: rows go down to Main, and on from there."""
    faults = [
        fault for end in ends for fault in (*(replication.writers(end) if end.tier == "main" else ()), *replication.stuck(end))
    ]
    looped = replication.loop(*ends) if len(ends) == len(_ENDS) else None
    told = {(e.place, e.cause) for e in report.errors}  # a partition may have an entry of its own
    report.errors += [f for f in [*faults, *([looped] if looped else [])] if (f.place, f.cause) not in told]
    report.notes += [f"table {table}: {note}" for end in ends if end.tier == "core" for note in replication.writer_notes(end)]


def _judge_drift(report: Report, policy: TablePolicy, core: _Seen, main: _Seen) -> None:
    source, there = core.sources[policy.name], main.destinations[policy.name]
    if isinstance(there, TierkeeperError):
        report.errors.append(there)
    elif isinstance(source, SourceTable):
        found, lacking = drift.between("main", source, there), plan.missing_collations("main", source, there)
        report.errors += [*(e for e in found.faults if not isinstance(e, InFlight)), *lacking]
        if (foreign := plan.may_not_alter("main", policy, there)) is not None:
            report.errors.append(foreign)
        if there.shape is None:
            report.notes.append(f"table {policy.name} is not in Main yet: tierkeeper setup --apply or the first move makes it")
        elif found.steps:
            actions = "; ".join(s.action for s in found.steps)
            report.notes.append(f"table {policy.name} changed in Core, and Main follows with the next move or setup: {actions}")
        elif not found.faults:
            report.checks.append(CheckItem(place=f"table {policy.name}", finding="the same in Main"))
        if there.followed is not None and policy.mode == "move":
            unguarded = dict.fromkeys(step.action for step in plan.guard_steps("main", policy.name, there))
            report.notes += [
                f"table {policy.name} lacks a trigger in Main that holds for every session, also after ENABLE TRIGGER ALL; "
                f"the next move or tierkeeper setup --apply makes it: {action}"
                for action in unguarded
            ]
