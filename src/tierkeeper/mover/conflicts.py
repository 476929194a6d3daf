"""Keys that are in Core and in Main at once. They are noted at Main, whichever way a run was going that met them."""

import json
from collections.abc import Iterable, Sequence

from psycopg import sql

from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import model
from tierkeeper.mover.holdings import Holdings
from tierkeeper.mover.model import Bound, Selection
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "conflicts.sql")


def noted(main: Connection, table: TableName) -> list[Bound]:
    """The keys that are noted, in the text form and order of the table's key."""
    with transaction(main, read_only=True) as cur:
        rows = cur.execute(_SQL["conflicts"], {"schema": table.schema, "table": table.name}).fetchall()
    return [tuple(map(str, r[0])) for r in rows]


def standing(main: Connection, shapes: Iterable[TableShape]) -> dict[TableName, list[Bound]]:
    """The noted keys whose row Main has still, of each table: what a run to or from Main leaves where it is. Changes nothing."""
    found: dict[TableName, list[Bound]] = {}
    for shape in shapes:
        name = {"schema": sql.Literal(shape.name.schema), "name": sql.Literal(shape.name.name)}
        regclass, table = model.regclass(shape.name), model.qualified(shape.name)
        with transaction(main, read_only=True) as cur:
            there = cur.execute(_SQL["conflict_tables"].format(regclass=regclass)).fetchone() == (True,)
            query = _SQL["conflicts_standing"].format(table=table, same=model.same_key(shape, "c"), **name)
            rows = cur.execute(query).fetchall() if there else []
        found[shape.name] = [tuple(map(str, r[0])) for r in rows]
    return found


def without(main: Connection, holdings: Holdings, selection: Selection, rows: int) -> int:
    """How many of the selection's first `rows` rows a run would take that leaves the noted conflicts where they are."""
    known = standing(main, [selection.shape])[selection.shape.name]
    return min(rows, holdings.count(selection, known)) if known else rows


def note(main: Connection, table: TableName, keys: Sequence[Bound]) -> None:
    """Notes `keys`; one that was about to be dropped stays."""
    if keys:
        with transaction(main) as cur:
            note_in(cur, table, keys)


def note_in(cur: Cursor, table: TableName, keys: Sequence[Bound]) -> None:
    """`note` in the transaction of `cur`."""
    name = {"schema": table.schema, "table": table.name}
    cur.executemany(_SQL["conflict_note"], [{**name, "key": json.dumps(k)} for k in keys])
