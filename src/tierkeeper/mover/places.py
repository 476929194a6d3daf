"""Rows that are named by their places, one by one, and the heaps that have them.

The rows of a table may lie in its partitions or in tables that inherit from it. There a place begins with its heap's object id,
and what reads or deletes asks each heap by itself: over the whole table the server would look for every place in every part.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from tierkeeper.kernel.ports import Batch
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import model
from tierkeeper.postgres.references import Reference
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "places.sql")
_ARM: Final = r"tableoid = (\d+) AND (ctid = ANY \('[^']*'::tid\[\]\))"
PLACE: Final = sql.Identifier("tierkeeper_place")
"""What the column with a row's place is called, beside the table's own."""


@dataclass(frozen=True)
class Arm:
    """The rows of one heap that `condition` holds for. `oid` and `above`, the tables that it is a partition of, where places name
    the heap; None where it is the batch's own.
    """

    heap: TableName
    condition: str
    oid: int | None = None
    above: tuple[TableName, ...] = ()

    def lies_in(self, at: TableName, table: TableName, *, whole: bool) -> bool:
        """Whether a foreign key that names `at`, a part of `table` or that itself, means these rows: with `whole` in partitions,
        too.
        """
        return self.heap == at or (whole and (at == table or at in self.above))


@dataclass(frozen=True)
class Going:
    """Rows of `table` that go: those that `condition` holds for, and where they are named by their places, heap by heap."""

    table: TableName
    condition: str
    arms: tuple[Arm, ...] = ()

    def inside(self, one: Reference) -> sql.Composed:
        """A query for those that the foreign key `one` may point at."""
        if not self.arms:
            return sql.SQL("SELECT * FROM {} WHERE {}").format(one.parents, sql.SQL(self.condition))
        arms = [a for a in self.arms if a.lies_in(one.parent_at, self.table, whole=one.parent_whole)]
        if not arms:
            return sql.SQL("SELECT {} FROM {} WHERE false").format(model.names(one.parent_columns), one.parents)
        return rows(arms, model.names(one.parent_columns))

    def outside(self, one: Reference) -> sql.Composed:
        """A condition for the others in the table that `one` comes from."""
        condition = self.condition
        if self.arms and not (one.child_whole and all(a.oid for a in self.arms)):  # in another heap a place is another row's
            condition = next((a.condition for a in self.arms if a.heap == one.child_at), "false")
        return sql.SQL("({}) IS NOT TRUE").format(sql.SQL(condition))


def of(shape: TableShape, row: str | None = None) -> sql.Composed:
    """SQL for a row's place in the table of `shape`."""
    ctid, heap = ((sql.Identifier(*([row] if row else []), column)) for column in ("ctid", "tableoid"))
    if shape.is_tree:
        return sql.SQL("concat({}, ' ', {})").format(heap, ctid)
    return sql.SQL("{}::text").format(ctid)


def predicate(places: Collection[str]) -> str:
    """The condition that holds for the rows in `places`, all of one table."""
    by_heap: dict[str, list[str]] = defaultdict(list)
    for place in sorted(places):
        heap, _, ctid = place.rpartition(" ")
        by_heap[heap].append(f'"{ctid}"')
    arms = {heap: "ctid = ANY ('{" + ",".join(found) + "}'::tid[])" for heap, found in by_heap.items()}
    if set(arms) == {""}:
        return arms[""]
    return "(" + " OR ".join(f"tableoid = {heap} AND {found}" for heap, found in arms.items()) + ")"


def split(condition: str) -> list[tuple[int, str]]:
    """The heaps that a `predicate` names, by their object ids, each with what holds for its rows; none where it names none."""
    if re.fullmatch(rf"\({_ARM}( OR {_ARM})*\)", condition) is None:
        return []
    return [(int(oid), found) for oid, found in re.findall(_ARM, condition)]


def oids(batch: Batch) -> list[sql.Composable]:
    """The heaps that a batch's places name, as literals."""
    return [sql.Literal(oid) for oid, _ in split(batch.predicate)] if batch.bundle is not None else []


class Heaps:
    """The heaps that places name, as they are called while `cur`'s transaction has them locked."""

    def __init__(self, cur: Cursor) -> None:
        self._cur = cur
        self._known: dict[int, tuple[TableName, tuple[TableName, ...]]] = {}

    def arms(self, table: TableName, condition: str) -> tuple[Arm, ...]:
        """The rows of `table` that `condition`, a `predicate`, holds for."""
        found = split(condition)
        unknown = [oid for oid, _ in found if oid not in self._known]
        if unknown:
            for oid, name, above in self._cur.execute(_SQL["heaps"], {"heaps": unknown}).fetchall():
                self._known[oid] = TableName(*name), tuple(TableName(*one) for one in above)
        return tuple(Arm(self._known[oid][0], held, oid, self._known[oid][1]) for oid, held in found) or (Arm(table, condition),)


def of_batch(cur: Cursor, batch: Batch) -> tuple[Arm, ...]:
    """A batch's rows, heap by heap."""
    if batch.bundle is None:  # a user's condition is part of it
        return (Arm(batch.heap, batch.predicate),)
    return Heaps(cur).arms(batch.heap, batch.predicate)


def rows(among: Iterable[Arm], columns: sql.Composable, place: sql.Composable | None = None) -> sql.Composed:
    """A query for `columns` of the rows, behind their `place` if that is wanted."""
    wanted = columns if place is None else sql.SQL("{} AS {}, {}").format(place, PLACE, columns)
    return sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} FROM ONLY {} WHERE {}").format(wanted, model.qualified(a.heap), model.among_pinned(a.condition))
        for a in among
    )
