"""Decides what a setup has to make, from what was seen. Pure: it reads nothing and changes nothing.

Each step is there only because the thing it makes is missing, so that a second plan is empty.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from psycopg import sql

from tierkeeper.kernel.errors import Faults, TierkeeperError, UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.results import SetupStep
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.postgres.ddl import SchemaObject
from tierkeeper.postgres.references import Reference, owned
from tierkeeper.postgres.statements import load
from tierkeeper.setup import drift
from tierkeeper.setup.model import DestinationTable, ForeignKey, OwnSchema, SourceTable

ROW_GUARD: Final = "tierkeeper_copy_in_flight"
TRUNCATE_GUARD: Final = "tierkeeper_copies_in_flight"
REFERENCE_GUARD: Final = "tierkeeper_reference_in_flight"
LATE_REFERENCE_GUARD: Final = "tierkeeper_reference_in_flight_late"
KEY_ACTION: Final = "make the archive key"
_MAKE_SCHEMA: Final = "create schema tierkeeper"
_ICU: Final = "-x-icu"  # how the names of ICU's own collations end; "unicode" is also where ICU is not
_ADD_FOREIGN_KEY: Final = "add foreign key"

_OWN = load("tierkeeper.postgres", "schema.sql")
_SQL = load("tierkeeper.setup", "setup.sql")
_EVERYWHERE: Final = ("tier", "marker", "ledger", "ledger_in_flight", "bundle", "conflict")
_WATCHING: Final = ("asked", "usage", "usage_grain", "egress", "alert")
_RELATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "core": (*_EVERYWHERE, "horizon"),
    "main": (*_EVERYWHERE, "ledger_thawed", "compared", "audit", "lease", "followed", *_WATCHING),
    "archive": _EVERYWHERE,
}
_GUARD_FUNCTION: Final = "refuse_copy_in_flight"
_REFERENCE_FUNCTION: Final = "refuse_reference_in_flight"
_QUIET_FUNCTION: Final = "require_quiet"


def own_steps(tier: str, seen: OwnSchema, more: Mapping[str, str], *, upward: bool = False) -> list[SetupStep]:
    """What the schema `tierkeeper` of `tier` lacks; `more` maps further relations in it to their statements.

    Rows that go `upward` arrive in Core, where the application must not write to copies in flight either.
    """
    wanted = {name: _OWN[name].as_string(None) for name in _RELATIONS[tier]} | dict(more)
    steps = []
    if not seen.there:
        steps.append(SetupStep(tier=tier, action=_MAKE_SCHEMA, sql=_OWN["schema"].as_string(None)))
    for name, text in wanted.items():
        if name not in seen.relations:
            steps.append(SetupStep(tier=tier, action=f"create tierkeeper.{name}", sql=text))
    guards = (_GUARD_FUNCTION, _REFERENCE_FUNCTION) if upward else ()
    functions = {"main": (_GUARD_FUNCTION, _QUIET_FUNCTION), "core": guards}.get(tier, ())
    for name in functions:
        text = _OWN[name].as_string(None)
        if seen.functions.get(name) != _body(text):
            steps.append(SetupStep(tier=tier, action=f"create function tierkeeper.{name}", sql=text))
    if tier not in seen.roles:
        insert = sql.SQL("INSERT INTO tierkeeper.tier (role) VALUES ({})").format(tier).as_string(None)
        steps.append(SetupStep(tier=tier, action=f"write down that this is {tier}", sql=insert))
    return steps


def jobs_relations(tier: str) -> Mapping[str, str]:
    """What the schedule needs in the schema `tierkeeper` besides; whoever only moves rows does without."""
    return {name: _OWN[name].as_string(None) for name in ("schedule", "went")} if tier == "main" else {}


def may_not_begin(tier: str, seen: OwnSchema) -> UsageError | None:
    """What the role lacks to make the schema `tierkeeper`, or to bring keys together at Main: conflicts are met at any time."""
    if tier == "main" and seen.refuses_temp_in is not None:
        remedy = f"There, as the database's owner: GRANT TEMP ON DATABASE {seen.refuses_temp_in} TO the role that the URL names"
        return UsageError(f"tiers.{tier}", "the role may not make temporary tables, which mirrors and conflicts need", remedy)
    if seen.refuses_in is None:
        return None
    remedy = f"There, as the database's owner: GRANT CREATE ON DATABASE {seen.refuses_in} TO the role that the URL names"
    return UsageError(f"tiers.{tier}", "the role may not make the schema tierkeeper", remedy)


def may_not_alter(tier: str, policy: TablePolicy, there: DestinationTable) -> UsageError | None:
    """What the role lacks to guard the copies in a table that is there: no privilege on it allows that, only being its owner."""
    guarded = any(trigger == ROW_GUARD for _, trigger in there.guards)
    if there.shape is None or there.owner is None or guarded or policy.mode != "move":
        return None
    cause = f"it belongs to {there.owner}, and the role may not make tierkeeper's triggers on it"
    remedy = f"There: GRANT {there.owner} TO the role that the URL names, or ALTER TABLE {policy.name} OWNER TO that role"
    return UsageError(f"tiers.{tier}, table {policy.name}", cause, remedy)


def makes_own_relation(step: SetupStep) -> bool:
    """Whether `step` makes a part of the schema `tierkeeper` that the audit may need to be there."""
    return step.action == _MAKE_SCHEMA or step.action.startswith("create tierkeeper.")


def table_steps(
    tier: str,
    policy: TablePolicy,
    source: SourceTable,
    there: DestinationTable,
    parents: Mapping[TableName, TableShape],
    *,
    joined: Collection[TableName] = (),
) -> list[SetupStep]:
    """What `tier` lacks to take the rows of `policy`; `parents` are the tables that its foreign keys may point at: mirrored ones,
    and those whose rows go with its own, which are `joined`.

    Raises UsageError or NotNow (several: Faults) where the table is there and cannot follow by itself.
    """
    followed = drift.between(tier, source, there)
    found = [*followed.faults, *type_differences(tier, source, there), *missing_collations(tier, source, there)]
    if (foreign := may_not_alter(tier, policy, there)) is not None:
        found.append(foreign)
    if found:
        raise found[0] if len(found) == 1 else Faults(found)
    shared = [s for thing in source.objects if thing.kind != "table" for s in _object_steps(tier, thing, there)]
    steps = list(followed.steps)
    if there.shape is None and source.objects:
        action = f"create table {source.shape.name}"
        steps.append(SetupStep(tier=tier, action=action, sql=source.objects[-1].sql))
    if policy.mode == "move":
        there = replace(there, index_leads=followed.now(there.index_leads))
        steps += _moving_steps(tier, policy, source, there, parents, joined=joined)
    steps += drift.remember(tier, source.shape, there.followed)
    return [*shared, *(s.model_copy(update={"table": str(source.shape.name)}) for s in steps)]


def _moving_steps(
    tier: str,
    policy: TablePolicy,
    source: SourceTable,
    there: DestinationTable,
    parents: Mapping[TableName, TableShape],
    *,
    joined: Collection[TableName],
) -> list[SetupStep]:
    """What the rows' age, their parents and the copies in flight ask for.

    Without an index on what refers to a parent whose rows go along, each of these that is taken back would read the table.
    """
    name = source.shape.name
    steps: list[SetupStep] = []
    if policy.age is not None and policy.age not in _leads(source.shape, there):
        index = sql.SQL("CREATE INDEX ON {} ({})").format(_table(name), sql.Identifier(policy.age)).as_string(None)
        steps.append(SetupStep(tier=tier, action=f"create an index on {name} that begins with its age", sql=index))
    # Rows of what inherits from a table are not bound by its foreign keys, and lie in the very table below.
    wanted = [] if source.shape.has_heirs else list(wanted_foreign_keys(source.foreign_keys, parents))
    led = {policy.age, *_leads(source.shape, there)}
    for column in dict.fromkeys(fk.columns[0] for fk in wanted if fk.parent in joined):
        if column not in led:
            index = sql.SQL("CREATE INDEX ON {} ({})").format(_table(name), sql.Identifier(column)).as_string(None)
            steps.append(SetupStep(tier=tier, action=f"create an index on {name} that begins with {column}", sql=index))
    for fk in wanted:
        if fk.name not in there.foreign_keys:
            text = _foreign_key(name, fk, may_have_rows=there.shape is not None and not there.shape.is_tree)
            steps.append(SetupStep(tier=tier, action=f"{_ADD_FOREIGN_KEY} {fk.name} from {name} to {fk.parent}", sql=text))
    return [*steps, *guard_steps(tier, name, there)]


def guard_steps(tier: str, name: TableName, there: DestinationTable) -> Iterator[SetupStep]:
    """The triggers that keep an application from writing to a copy in flight, as far as `tier` lacks them.

    A partition has the row trigger from its table, which gives it to each; what inherits has none from its parent. Of a
    partition alone it may have been switched off, or to sessions of origin (ENABLE TRIGGER ALL).
    """
    for table in dict.fromkeys((name, *there.parts)):
        is_partition = table != name and name not in there.parts
        rows = "row_guard_again" if is_partition else "row_guard"
        given = is_partition and (name, ROW_GUARD) not in there.guards  # with its table's, which is made before
        for trigger, statement, what in ((ROW_GUARD, rows, "rows"), (TRUNCATE_GUARD, "truncate_guard", "table")):
            if (table, trigger) not in there.guards and not (given and trigger == ROW_GUARD):
                text = _SQL[statement].format(trigger=sql.Identifier(trigger), table=_table(table)).as_string(None)
                yield SetupStep(tier=tier, action=f"guard the {what} of {table} while a copy is in flight", sql=text)


def return_steps(tier: str, source: TableShape, there: DestinationTable) -> list[SetupStep]:
    """What `tier`, the table's home, lacks to take rows back. Raises UsageError (several: Faults) where they do not fit."""
    found = drift.unlike(tier, source, there)
    if found:
        raise found[0] if len(found) == 1 else Faults(found)
    return list(guard_steps(tier, source.name, there))


def reference_steps(
    tier: str, references: Iterable[Reference], moving: Collection[TableName], guards: Mapping[TableName, Collection[str]]
) -> Iterator[SetupStep]:
    """The triggers that keep new rows from referring to a copy in flight of the tables `moving`, as far as `tier` lacks them.

    A foreign key whose check may wait for the end of a transaction has a guard that waits as long; one of a partitioned table
    is in each of its partitions.
    """
    wanted = [one for one in owned(references, moving) if one.parent in moving]
    whole = {(one.child_at, one.deferrable) for one in wanted if one.child_whole}
    for one in wanted:
        late = one.deferrable
        trigger, statement = (LATE_REFERENCE_GUARD, "late_reference_guard") if late else (REFERENCE_GUARD, "reference_guard")
        given = any((above, late) in whole for above in one.child_above)  # a partition has it from its table
        if trigger not in guards.get(one.child_at, ()) and not given:
            text = _SQL[statement].format(trigger=sql.Identifier(trigger), table=_table(one.child_at)).as_string(None)
            action = f"guard what refers from {one.child_at} to copies in flight" + (
                " at the end of transactions" if late else ""
            )
            yield SetupStep(tier=tier, action=action, sql=text, table=str(one.child_at))


def wanted_foreign_keys(foreign_keys: Iterable[ForeignKey], parents: Mapping[TableName, TableShape]) -> Iterator[ForeignKey]:
    """Those that can hold below: towards the key of a table that is mirrored there, or whose rows go along."""
    for fk in foreign_keys:
        parent = parents.get(fk.parent)
        if parent is not None and set(parent.key) == set(fk.parent_columns):
            yield fk


def type_differences(tier: str, source: SourceTable, there: DestinationTable) -> list[TierkeeperError]:
    """Types that bear the same name in `tier` and mean something else there, and extensions that cannot be made there.

    A value that is the same bits or the same text in both would say another thing: an instant without a zone, (a, b) for (b, a).
    """
    found: list[TierkeeperError] = []
    for thing in source.objects:
        place = f"tiers.{tier}, table {source.shape.name}, column {thing.column!r}"
        shown = TableName(thing.schema, thing.name)
        if thing.kind == "extension" and there.available is not None and thing.name not in there.available:
            cause = f"its type is of the extension {thing.name}, which that server does not have"
            found.append(UsageError(place, cause, "Install it there, or leave the table out"))
        if thing.kind != "type" or shown not in there.meanings:
            continue
        theirs, remedy = there.meanings[shown], "Give both the same definition, or leave the table out"
        if theirs != thing.meaning:
            cause = f"its type {shown} is {theirs} there, and {thing.meaning} where the rows come from"
            found.append(UsageError(place, cause, remedy))
        have = there.labels.get((thing.schema, thing.name), ())
        common = [label for label in thing.labels if label in have]
        if common != [label for label in have if label in thing.labels]:
            found.append(UsageError(place, f"the values of its type {shown} have another order there", remedy))
    return found


def missing_collations(tier: str, source: SourceTable, there: DestinationTable) -> list[TierkeeperError]:
    """Collations of columns that are still to be made in `tier`, which cannot have them."""
    if there.collations is None:
        return []
    found: list[TierkeeperError] = []
    has_icu = any(name.endswith(_ICU) for name in there.collations)
    for used in source.shape.collations:
        if there.shape is not None and there.shape.column(used.column) is not None:
            continue
        shown, cause = used.name.name if used.name.schema == "pg_catalog" else used.name, ""
        if used.is_icu and not has_icu:
            cause = f"its collation {shown} is ICU's, and the Postgres there was built without ICU"
        elif not used.is_own and used.name.name not in there.collations:
            cause = f"its collation {shown} is not there"
        if cause:
            place = f"tiers.{tier}, table {source.shape.name}, column {used.column!r}"
            remedy = "Use a Postgres there that has it, give the column another collation, or leave the table out"
            found.append(UsageError(place, cause, remedy))
    return found


def once(steps: Iterable[SetupStep]) -> tuple[SetupStep, ...]:
    """`steps` without repetitions: tables share schemas and types. Foreign keys wait until every table is there."""
    found = {(s.tier, s.action, s.sql): s for s in steps}.values()
    return tuple(sorted(found, key=lambda s: 2 if s.action == KEY_ACTION else joins_tables(s)))


def joins_tables(step: SetupStep) -> bool:
    """Whether `step` needs another table than its own to be there."""
    return step.action.startswith(_ADD_FOREIGN_KEY)


def _object_steps(tier: str, thing: SchemaObject, there: DestinationTable) -> Iterator[SetupStep]:
    shown = thing.name if thing.kind in ("schema", "extension") else str(TableName(thing.schema, thing.name))
    if (thing.kind, thing.schema, thing.name) not in there.present:
        elsewhere = [s for kind, s, name in there.present if kind == thing.kind == "extension" and name == thing.name]
        if elsewhere:
            raise UsageError(
                f"tiers.{tier}",
                f"the extension {thing.name} is in schema {elsewhere[0]}, and in {thing.schema} where the rows come from",
                f"There: ALTER EXTENSION {_quoted(thing.name)} SET SCHEMA {_quoted(thing.schema)}",
            )
        yield SetupStep(tier=tier, action=f"create {thing.kind} {shown}", sql=thing.sql)
        return
    yield from _looser_domain(tier, thing, there.checks.get((thing.schema, thing.name), {}))
    have = there.labels.get((thing.schema, thing.name), ())
    if (renamed := renamed_label(tier, thing, there)) is not None:
        raise renamed
    for i, label in enumerate(thing.labels):
        if label not in have:
            text = sql.SQL("ALTER TYPE {} ADD VALUE IF NOT EXISTS {}").format(sql.Identifier(thing.schema, thing.name), label)
            if i > 0:
                text += sql.SQL(" AFTER {}").format(thing.labels[i - 1])
            elif have:
                text += sql.SQL(" BEFORE {}").format(have[0])  # without a place it would come last
            yield SetupStep(tier=tier, action=f"add the value {label!r} to {shown}", sql=text.as_string(None))


def renamed_label(tier: str, thing: SchemaObject, there: DestinationTable) -> UsageError | None:
    """Why rows with the enum `thing` go neither way: either end has a value that the other lacks."""
    shown, have = TableName(thing.schema, thing.name), there.labels.get((thing.schema, thing.name), ())
    others, new = [x for x in have if x not in thing.labels], [x for x in thing.labels if x not in have]
    if not others or not new:
        return None
    cause = f"the type {shown} has the value {others[0]!r} here and {new[0]!r} where the rows come from: it may have been renamed"
    remedy = f"There: ALTER TYPE {shown} RENAME VALUE '{others[0]}' TO …, or ADD VALUE what is new"
    return UsageError(f"tiers.{tier}", cause, remedy)


def _looser_domain(tier: str, thing: SchemaObject, have: Mapping[str, str]) -> Iterator[SetupStep]:
    """Drops what Core's domain does not ask for, or not any more; new rules are Core's to keep, and old rows may break them."""
    shown = TableName(thing.schema, thing.name)
    for check in set(have) - set(thing.checks) if thing.checks is not None else ():
        change = f"DROP CONSTRAINT {have[check]}" if have[check] else "DROP NOT NULL"
        text = f"ALTER DOMAIN {sql.Identifier(thing.schema, thing.name).as_string(None)} {change}"
        yield SetupStep(tier=tier, action=f"take {check!r} from {shown}, as in Core", sql=text)


def _foreign_key(table: TableName, fk: ForeignKey, *, may_have_rows: bool) -> str:
    """No ON DELETE action: history does not vanish with its parent. Rows that were there before need not fit.

    Deferrable, so that tables which refer to each other in a circle can be filled.
    """
    parts = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}){} DEFERRABLE{}").format(
        _table(table),
        sql.Identifier(fk.name),
        _list(fk.columns),
        _table(fk.parent),
        _list(fk.parent_columns),
        sql.SQL(" MATCH FULL" if fk.full else ""),
        sql.SQL(" NOT VALID" if may_have_rows else ""),
    )
    return parts.as_string(None)


def _leads(source: TableShape, there: DestinationTable) -> frozenset[str]:
    """Columns that an index there begins with, or will: a new table gets its key's index."""
    return there.index_leads if there.shape is not None else frozenset(source.key[:1])


def _body(function: str) -> str:
    return function.split("$guard$")[1]


def _table(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def _list(columns: Collection[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)
