"""Which tables a run may take rows of, and why it may not begin: foreign keys, ages, conditions."""

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Final

import psycopg

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy, Tier
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover.model import Selection
from tierkeeper.mover.references import Explorer
from tierkeeper.mover.source import Source
from tierkeeper.postgres import references, shapes
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.references import Family

_NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)  # no row is older


def explorer(
    source: Source,
    selection: Selection,
    policies: Collection[TablePolicy],
    hop: tuple[Tier, Tier],
    now: Callable[[], datetime],
) -> Explorer | None:
    """What finds the rows that must go along with those of `selection`; None where no foreign key asks for any.

    A run's own condition and cutoff are for its table alone. Rows of another table may leave when they are old enough by that
    table's own policy; without a time for the tier that rows leave they stay, and keep what hangs on them. Those of a table
    without an age column go with the others at any time. Raises UsageError where rows that hang together cannot go this way.
    """
    table = selection.shape.name
    found = references.family(table, references.read(source.conn), policies)
    if found is None:
        return None
    if hop == ("main", "core"):
        others = ", ".join(str(t) for t in found.tables if t != table) or "each other"
        cause = f"foreign keys join its rows to those of {others}; rows that hang together do not come back to core"
        raise UsageError(f"tables.{table}", cause, f"Leave them in {hop[0]}")
    selections, instant = {table: selection}, now()
    for policy in policies:
        if policy.name in found.tables and policy.name != table:
            shape = shapes.read(source.conn, policy.name, tier=hop[0])
            if policy.follows:
                selections[policy.name] = Selection(shape, "", selection.cutoff)
                continue
            leaves = policy.core if hop[0] == "core" else policy.main
            cutoff = leaves.before(instant) if leaves is not None else _NEVER
            selections[policy.name] = Selection(shape, age_of(policy, shape), cutoff)
    trees = [str(s.shape.name) for s in selections.values() if s.shape.is_tree]
    if trees:
        cause = f"foreign keys join {', '.join(map(str, found.tables))}, and {trees[0]} is partitioned or inherited from"
        raise UsageError(f"tables.{table}", cause, f"Leave it in {hop[0]}: only plain tables go together")
    return Explorer(found, selections, table)


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


def refuse_referenced(shape: TableShape) -> None:
    """Raises UsageError where rows cannot leave a tier because others there refer to them."""
    if shape.referenced_by:
        raise UsageError(
            f"tables.{shape.name}",
            f"other rows refer to this table ({'; '.join(shape.referenced_by)}), so its own cannot leave without them",
            "Take the table out of the policy, or drop the foreign key",
        )


def refuse_rigid(family: Family, conn: Connection, tier: Tier) -> None:
    """Raises UsageError where tables refer to each other in a circle that no order of copying could satisfy at `tier`."""
    for one in references.read(conn) if family.circular else ():
        if one.child in family.tables and one.parent in family.tables and one.child != one.parent and not one.deferrable:
            raise UsageError(
                f"{one.child} ({tier})",
                f"it is in a circle of foreign keys, and {one.name} is checked row by row",
                f"There: ALTER TABLE {one.child} ALTER CONSTRAINT {one.name} DEFERRABLE",
            )
