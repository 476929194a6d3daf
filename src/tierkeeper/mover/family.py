"""Which tables a run may take rows of, and why it may not begin: foreign keys, ages, conditions."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import psycopg

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy, Tier
from tierkeeper.kernel.ports import Held
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover.model import Selection
from tierkeeper.mover.references import Explorer
from tierkeeper.mover.request import Request
from tierkeeper.mover.source import Source
from tierkeeper.postgres import references, shapes
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.references import Family, Reference

_NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)  # no row is older


def explorer(
    source: Source,
    selection: Selection,
    policies: Collection[TablePolicy],
    hop: tuple[Tier, Tier],
    here: Sequence[Reference],
    *,
    now: Callable[[], datetime],
    held: Callable[[TableName], tuple[Held, ...]],
    destination: Connection | None,
) -> Explorer | None:
    """What finds the rows that must go along with those of `selection`; None where no foreign key, of those `here`, asks for any.

    A run's own condition and cutoff are for its table alone. Rows of another table may leave when they are old enough by that
    table's own policy; without a time for the tier that rows leave they stay, and keep what hangs on them. Those of a table
    without an age column go with the others at any time. Raises UsageError where rows that hang together cannot go this way.
    """
    if hop == ("main", "core") and destination is not None:
        return _upward(source, selection, policies, here, destination)
    table = selection.shape.name
    found = references.family(table, here, policies)
    if found is None:
        return None
    selections, instant = {table: selection}, now()
    for policy in policies:
        if policy.name in found.tables and policy.name != table:
            shape = shapes.read(source.conn, policy.name, tier=hop[0])
            besides = apart(shape, policies)
            if policy.follows:
                selections[policy.name] = Selection(shape, "", selection.cutoff, apart=besides)
                continue
            leaves = policy.core if hop[0] == "core" else policy.main
            cutoff = leaves.before(instant) if leaves is not None else _NEVER
            selections[policy.name] = Selection(shape, age_of(policy, shape), cutoff, apart=besides, held=held(policy.name))
    _refuse_split(source.conn, [s.shape for s in selections.values()], policies, hop[0])
    return Explorer(found, selections, table)


def _upward(
    source: Source, selection: Selection, policies: Collection[TablePolicy], here: Sequence[Reference], core: Connection
) -> Explorer | None:
    """What finds the rows that go back to Core with those of `selection`; None where nothing in Core refers to such rows.

    Here no policy says what may go: whoever names a row wants it with all that hangs on it. What joins rows is what joins them in
    Core, of tables that are at Main; there no foreign key may have been made for it. Those of Main hold there as well.
    """
    table, moved = selection.shape.name, {p.name: p for p in policies if p.mode != "mirror"}
    named = {table, *(p.name for p in policies)}
    at_home, here = references.owned(references.read(core), named), references.owned(here, named)
    near = references.joined(table, [*here, *at_home], moved)
    shapes_here = {t: shapes.read(source.conn, t, tier="main") for t in sorted(near) if shapes.exists(source.conn, t)}
    known = {r.joins for r in here if _is_known(r, shapes_here) and r == _read_here(r, shapes_here)}
    more = [_read_here(r, shapes_here) for r in at_home if r.joins not in known and _is_known(r, shapes_here)]
    found = references.family(table, [*here, *more], policies)
    if found is None:
        if not any(r.parent == table for r in at_home):
            return None
        found = Family((table,), (), ())
    _refuse_split(source.conn, [shapes_here[t] for t in found.tables], policies, "main")
    at_core = [shapes.read(core, t, tier="core") for t in found.tables]
    _refuse_split(core, at_core, policies, "core")
    _refuse_heirs(at_core)
    selections = {table: selection}
    for other in found.tables:
        if other != table:
            shape, policy = shapes_here[other], moved[other]
            age = "" if policy.follows else age_of(policy, shape)
            selections[other] = Selection(shape, age, selection.cutoff, apart=apart(shape, policies), any_age=True)
    return Explorer(found, selections, table, whole=True)


def _is_known(one: Reference, shapes_here: Mapping[TableName, TableShape]) -> bool:
    """Whether both ends of a reference are among the tables, with its columns."""
    ends = ((one.child, one.columns), (one.parent, one.parent_columns))
    return all(t in shapes_here and None not in map(shapes_here[t].column, columns) for t, columns in ends)


def _read_here(one: Reference, shapes_here: Mapping[TableName, TableShape]) -> Reference:
    """A reference of Core's as it joins the tables at Main, which may have other parts or none: their rows are all meant."""
    child, parent = shapes_here[one.child].is_tree, shapes_here[one.parent].is_tree
    return replace(one, child_at=one.child, parent_at=one.parent, child_whole=child, parent_whole=parent)


def apart(shape: TableShape, policies: Collection[TablePolicy]) -> frozenset[TableName]:
    """What of the table's parts may move by itself."""
    return frozenset(p.name for p in policies) - {shape.name} if shape.is_tree else frozenset()


def _refuse_split(conn: Connection, among: Iterable[TableShape], policies: Collection[TablePolicy], tier: Tier) -> None:
    """Raises UsageError where a partition of one of the tables is to move by itself."""
    for shape in among:
        if shape.is_tree:
            part = shapes.partition_among(conn, shape.name, [p.name for p in policies])
            if part is not None:
                raise references.split(shape.name, part, tier)


def _refuse_heirs(among: Iterable[TableShape]) -> None:
    """Raises UsageError for a table in Core that others inherit from: its foreign keys and those that point at it mean its own
    rows alone, and all that comes back lies in it.
    """
    for shape in among:
        if shape.has_heirs:
            raise UsageError(
                f"tables.{shape.name}",
                "foreign keys join it to others, tables inherit from it in core, and at main nobody knows which one a row was in",
                "Leave its rows in main, or make those tables partitions of it in core",
            )


def lease_of(request: Request, tables: Collection[TableName], core: Connection, policies: Collection[TablePolicy]) -> str:
    """One run at a time over the tables that Core's foreign keys join, whichever way: what the other way left is settled by
    whoever comes first.
    """
    if request.upward:  # `tables` may have more, which are joined at Main alone
        moved = {p.name for p in policies if p.mode != "mirror"}
        tables = references.joined(request.table, references.read(core), moved)
    return f"{min(tables)} core <-> main"


def tables_of(table: TableName, explorer: Explorer | None) -> tuple[TableName, ...]:
    """The tables whose rows a run over `table` may take, parents first where that is possible."""
    return (table,) if explorer is None else explorer.family.tables


def others(selection: Selection, explorer: Explorer | None) -> list[Selection]:
    """What may go along with the rows of `selection`, of other tables."""
    return [s for s in explorer.selections.values() if s is not selection] if explorer is not None else []


def refuse_following(source: Source, policy: TablePolicy, policies: Collection[TablePolicy]) -> None:
    """Raises UsageError where rows of the table leave with others only, and names these."""
    if policy.follows:
        led_by = ", ".join(map(str, references.leaders(policy.name, references.read(source.conn), policies)))
        raise UsageError(
            f"tables.{policy.name}.age",
            f"no column says how old its rows are: they leave with those of {led_by}, which they refer to",
            f'Move {led_by}, or name a column: age = "created_at"',
        )


def age_of(policy: TablePolicy, shape: TableShape) -> str:
    """The column that says how old a row is. Raises UsageError where there is none."""
    if policy.age is None:
        raise UsageError(f"tables.{policy.name}.age", "no column says how old a row is", 'Name one: age = "created_at"')
    shapes.check_age_column(shape, policy.age)
    return policy.age


def try_condition(source: Source, selection: Selection) -> None:
    """Raises UsageError where the server cannot make sense of the user's condition, before anything is changed."""
    try:
        source.holdings.next_bound(selection, None, 1, [])
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith(("42", "22")):
            raise UsageError("--where", (error.diag.message_primary or "it cannot be read"), "Correct the condition") from error
        raise


def refuse_rigid(family: Family, conn: Connection, tier: Tier) -> None:
    """Raises UsageError where tables refer to each other in a circle that no order of copying could satisfy at `tier`."""
    circles = {one.joins for one in family.links if family.in_circle(one)}
    for one in references.owned(references.read(conn), family.tables) if circles else ():
        if one.joins in circles and not one.deferrable:
            raise UsageError(
                f"{one.child_at} ({tier})",
                f"it is in a circle of foreign keys, and {one.name} is checked row by row",
                f"There: ALTER TABLE {one.child_at} ALTER CONSTRAINT {one.name} DEFERRABLE",
            )
