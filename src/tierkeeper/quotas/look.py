"""Measures what `plan` decides on: a table's heap, TOAST and indexes, and what stands against each method. It changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Cursor

from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import sizes
from tierkeeper.tiers.space import PAGE_BYTES, Heap, Index

_SQL = load("tierkeeper.quotas", "space.sql")
_IN_FLIGHT: Final = "rows of it are on the move, and known by their versions: the next run compacts it"


@dataclass(frozen=True)
class Facts:
    """A table at one instant."""

    heap: Heap
    indexes: tuple[Index, ...]

    @property
    def relations(self) -> dict[str, int]:
        """Bytes of each relation; the heap's name is "", its TOAST's "TOAST"."""
        own = {"": self.heap.pages * PAGE_BYTES, "TOAST": self.heap.toast_bytes}
        return own | {index.name: index.size_bytes for index in self.indexes}

    def dead_bytes(self, heap_share: Callable[[str], float]) -> int:
        """What could be given back of all of them together; `heap_share` as `Index.lean_bytes` wants it, by index."""
        indexes = sum(index.dead_bytes(heap_share(index.name)) for index in self.indexes)
        return self.heap.dead_bytes + self.heap.dead_toast_bytes + indexes


def facts(conn: Connection, table: TableName, *, locked: bool = False) -> Facts | None:
    """The table as it is; None where there is none. `locked`: VACUUM could not have it, so that only its counters are fresh."""
    return facts_of(conn, [table], locked=locked).get(table)


def facts_of(conn: Connection, tables: Sequence[TableName], *, locked: bool = False) -> dict[TableName, Facts]:
    """`facts` of those of `tables` that are there, at one instant."""
    with catalog(conn) as cur:
        return {name: Facts(*found) for name, found in sizes.facts_of(cur, tables, locked=locked).items()}


def barred(conn: Connection) -> str | None:
    """Why nothing that writes much WAL may run on this server; None if it may (I9)."""
    with catalog(conn) as cur:
        return _first(cur.last(_SQL["barred"], {}))


def untouchable(conn: Connection, table: TableName, whole: TableName) -> str | None:
    """Why an UPDATE that changes nothing may not run on `table`'s rows; None if it may. They move as rows of `whole`."""
    named = {"schema": table.schema, "table": table.name}
    with catalog(conn) as cur:
        why = _first(cur.execute(_SQL["untouchable"], named))
        if why is None and _first(cur.execute(_SQL["column"], named)) is None:
            why = "no column of it can be set to itself"
        return _IN_FLIGHT if why is None and in_flight(cur, whole) else why


def column(conn: Connection, table: TableName) -> str | None:
    """The column that such an UPDATE sets to itself; None where there is none."""
    with catalog(conn) as cur:
        return _first(cur.last(_SQL["column"], {"schema": table.schema, "table": table.name}))


def in_flight(cur: Cursor[Any], table: TableName) -> bool:
    """Whether the move protocol knows rows of `table` by their versions, on either side of a hop."""
    here: tuple[bool, bool] = cur.execute(_SQL["schema_here"]).fetchone() or (False, False)
    named = {"schema": table.schema, "table": table.name}
    asked = [statement for statement, there in zip(("leaving", "arriving"), here, strict=True) if there]
    return any(cur.execute(_SQL[statement], named).fetchone() == (True,) for statement in asked)


def leftovers(conn: Connection, table: TableName) -> list[str]:
    """Indexes that an interrupted rebuild left behind."""
    with catalog(conn) as cur:
        rows = cur.last(_SQL["leftovers"], {"schema": table.schema, "table": table.name}).fetchall()
    return [name for (name,) in rows]


def largest_tables(conn: Connection) -> list[tuple[TableName, int]]:
    """The application's largest tables and their bytes, indexes and TOAST included."""
    with catalog(conn) as cur:
        return [(TableName(schema, name), size) for schema, name, size in cur.last(_SQL["largest"]).fetchall()]


def _first(cur: Cursor[Any]) -> str | None:
    row = cur.fetchone()
    return None if row is None else str(row[0])
