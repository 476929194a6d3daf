"""The foreign keys of a database, and which tables they join. It decides nothing about rows."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import asked_once
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.shapes import ACTIONS
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.postgres", "references.sql")


@dataclass(frozen=True)
class Reference:
    """A foreign key: rows of `child` refer to rows of `parent`. `equal` are its operators, parent's column on the left.

    `child_at` and `parent_at` are the tables that it joins as it stands, where `child` and `parent` may be tables of which these
    are parts (`owned`). `child_whole`, `parent_whole`: with the rows of their partitions. What inherits is never meant.
    `child_above` and `parent_above` are the tables that these are parts of, nearest first. `repeated`: it says of one partition
    what another says of the whole that is pointed at.
    """

    name: str
    child: TableName
    columns: tuple[str, ...]
    parent: TableName
    parent_columns: tuple[str, ...]
    equal: tuple[str, ...]
    action: str
    deferrable: bool
    child_at: TableName
    parent_at: TableName
    child_whole: bool = False
    parent_whole: bool = False
    child_above: tuple[TableName, ...] = ()
    parent_above: tuple[TableName, ...] = ()
    repeated: bool = False

    @property
    def joins(self) -> tuple[TableName, TableName, frozenset[tuple[str, str]]]:
        """What it is whatever it is called, and whatever it does on DELETE: the tables, and which column refers to which."""
        return self.child, self.parent, frozenset(zip(self.columns, self.parent_columns, strict=True))

    def __str__(self) -> str:
        return f"{self.name} of {self.child_at} (ON DELETE {ACTIONS[self.action]})"

    @property
    def children(self) -> sql.Composed:
        """The referring table as FROM takes it: all of its own rows, those of its partitions included."""
        return _from(self.child_at, whole=self.child_whole)

    @property
    def parents(self) -> sql.Composed:
        """The table that is referred to, likewise."""
        return _from(self.parent_at, whole=self.parent_whole)

    def touches(self, table: TableName) -> bool:
        """Whether an end of it is `table` or a part of that."""
        return table in (self.child_at, self.parent_at) or table in self.child_above or table in self.parent_above

    def meets(self, child: str, parent: str) -> sql.Composed:
        """SQL that holds where the row `child` refers to the row `parent`. A reference with a NULL in it refers to none."""
        pairs = zip(self.parent_columns, self.equal, self.columns, strict=True)
        return sql.SQL(" AND ").join(
            sql.SQL("{} {} {}").format(sql.Identifier(parent, theirs), sql.SQL(equal), sql.Identifier(child, ours))
            for theirs, equal, ours in pairs
        )


def _from(table: TableName, *, whole: bool) -> sql.Composed:
    return sql.SQL("{}{}").format(sql.SQL("" if whole else "ONLY "), sql.Identifier(table.schema, table.name))


@dataclass(frozen=True)
class Family:
    """The tables whose rows can only leave together, parents first but where they refer to each other in a circle.

    `links` join them; `pins` come from tables that stay, and keep what they refer to.
    """

    tables: tuple[TableName, ...]
    links: tuple[Reference, ...]
    pins: tuple[Reference, ...]

    def in_circle(self, one: Reference) -> bool:
        """Whether no order of its two tables has parents first."""
        return one.child != one.parent and one.child in _above(one.parent, self.links)


@asked_once
def read(conn: Connection) -> tuple[Reference, ...]:
    """Every foreign key of the database, in the transaction that `conn` is in, else in one of its own."""
    with catalog(conn) as cur:
        return tuple(_reference(row) for row in cur.last(_SQL["references"]))


def _reference(row: Sequence[Any]) -> Reference:
    name, *tables, action, deferrable, child_whole, parent_whole, child_above, parent_above, repeated = row
    child_schema, child_name, columns, parent_schema, parent_name, parent_columns, equal = tables
    child, parent = TableName(child_schema, child_name), TableName(parent_schema, parent_name)
    return Reference(
        name=name,
        child=child,
        columns=tuple(columns),
        parent=parent,
        parent_columns=tuple(parent_columns),
        equal=tuple(equal),
        action=action,
        deferrable=deferrable,
        child_at=child,
        parent_at=parent,
        child_whole=child_whole,
        parent_whole=parent_whole,
        child_above=tuple(TableName(*one) for one in child_above),
        parent_above=tuple(TableName(*one) for one in parent_above),
        repeated=repeated,
    )


def owned(references: Iterable[Reference], tables: Collection[TableName]) -> list[Reference]:
    """`references` with `child` and `parent` as those of `tables` that have the rows which they join; each real one once."""
    found = []
    for one in references:
        child, parent = _owner(one.child_at, one.child_above, tables), _owner(one.parent_at, one.parent_above, tables)
        if one.repeated and parent != one.parent_at:
            continue
        found.append(one if (child, parent) == (one.child, one.parent) else replace(one, child=child, parent=parent))
    return found


def _owner(table: TableName, above: Sequence[TableName], tables: Collection[TableName]) -> TableName:
    """The table itself, or that of `tables` which it is the nearest part of."""
    return table if not above or table in tables else next((t for t in above if t in tables), table)


def parents_first(tables: Collection[TableName], references: Sequence[Reference]) -> list[TableName]:
    """`tables` in an order in which foreign keys that cannot be deferred find what they refer to; in a circle there is none."""
    waits: dict[TableName, set[TableName]] = {t: set() for t in sorted(tables)}
    for one in references:
        if one.child in waits and one.parent in waits and one.child != one.parent and not one.deferrable:
            waits[one.child].add(one.parent)
    try:
        return list(TopologicalSorter(waits).static_order())
    except CycleError:
        return sorted(tables)


def joined(table: TableName, references: Sequence[Reference], tables: Collection[TableName]) -> frozenset[TableName]:
    """Those of `tables` that are joined to `table`, be it through others of them; `table` is one of these."""
    references, found, todo = owned(references, {table, *tables}), {table}, [table]
    while todo:
        one = todo.pop()
        near = {r.child for r in references if r.parent == one} | {r.parent for r in references if r.child == one}
        fresh = near.intersection(tables) - found
        todo += fresh
        found |= fresh
    return frozenset(found)


def leaders(table: TableName, references: Sequence[Reference], policies: Collection[TablePolicy]) -> tuple[TableName, ...]:
    """The tables with an age that rows of `table`, which has none, refer to, be it through others without one.

    Raises UsageError where there are none: nothing would ever say that the rows may leave.
    """
    by_name = {p.name: p for p in policies if p.mode == "move"}
    references, found, todo = owned(references, by_name), {table}, [table]
    while todo:
        one = todo.pop()
        above = {r.parent for r in references if r.child == one and r.parent in by_name} - found
        found |= above
        todo += [t for t in above if by_name[t].follows]
    aged = tuple(sorted(t for t in found if not by_name[t].follows))
    if not aged:
        raise UsageError(
            f"tables.{table}.age",
            "no column says how old its rows are, and by no foreign key do they refer to rows of a table that moves and has one",
            'Name a column: age = "created_at"; or keep the table whole in Core: mode = "mirror"',
        )
    return aged


def family(table: TableName, references: Sequence[Reference], policies: Collection[TablePolicy]) -> Family | None:
    """The tables that rows of `table` may take along; None where foreign keys ask for nothing.

    Raises UsageError, naming them all, where rows of tables that no policy names refer to these: nobody has said what is to
    become of them. Likewise where one of them has no age, and refers to none that has one.
    """
    if not any(r.touches(table) for r in references) and not any(p.follows and p.name == table for p in policies):
        return None  # as most tables are: what the others' policies say does not matter
    references = owned(references, {table, *(p.name for p in policies)})
    moved = {p.name for p in policies if p.mode != "mirror"}
    mirrored = {p.name for p in policies if p.mode == "mirror"}
    found = joined(table, references, moved)
    incoming = [r for r in references if r.parent in found]
    unnamed = [r for r in incoming if r.child not in found | mirrored]
    if unnamed:
        tables = ", ".join(dict.fromkeys(str(r.child) for r in unnamed))
        raise UsageError(
            f"tables.{table}",
            f"other rows refer to it or to what goes with it, and no [[tables]] entry names them: {'; '.join(map(str, unnamed))}",
            f'Add an entry for {tables}: with mode = "move" its rows leave together with those that they refer to (with an age, '
            'not before they are old enough themselves); with mode = "mirror" they stay, and what they refer to stays, too',
        )
    for policy in policies:
        if policy.name in found and policy.follows:
            leaders(policy.name, references, policies)
    if not incoming:
        return None
    links = tuple(r for r in incoming if r.child in found)
    # What is above a parent is above its children, too, and they are not above it but in a circle.
    ordered = sorted(found, key=lambda t: (len(_above(t, links)), t))
    return Family(tuple(ordered), links, tuple(r for r in incoming if r.child not in found))


def _above(table: TableName, links: Sequence[Reference]) -> set[TableName]:
    """The table and all that its rows refer to, be it through others."""
    found, todo = {table}, [table]
    while todo:
        one = todo.pop()
        fresh = {r.parent for r in links if r.child == one} - found
        todo += fresh
        found |= fresh
    return found


def split(table: TableName, part: TableName, tier: str) -> UsageError:
    """What to say where foreign keys join `table` to others and a partition of it is to move by itself: they do not know its rows
    from those of others, and in the tier below it would be another table.
    """
    return UsageError(
        f"tables.{part}",
        f"foreign keys join {table} ({tier}) to others, and {part}, a partition of it, has an entry of its own",
        f"Take out the entry of {part}: its rows go with those of {table}",
    )
