"""Keys that are in Core and in Main at once. They are noted at Main, whichever way a run was going that met them."""

import json
from collections.abc import Iterable, Sequence

from psycopg import sql

from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import model
from tierkeeper.mover.holdings import Holdings
from tierkeeper.mover.model import Bound, Selection
from tierkeeper.mover.source import Source
from tierkeeper.postgres.keeping import named, of_each
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "conflicts.sql")


def noted(main: Connection, table: TableName) -> list[Bound]:
    """The keys that are noted, in the text form and order of the table's key."""
    with transaction(main, read_only=True) as cur:
        return noted_in(cur, table)


def noted_in(cur: Cursor, table: TableName) -> list[Bound]:
    """`noted` in the transaction of `cur`."""
    rows = cur.execute(_SQL["conflicts"], {"schema": table.schema, "table": table.name}).fetchall()
    return [tuple(map(str, r[0])) for r in rows]


@of_each
def _any_noted(main: Connection, tables: Sequence[TableName]) -> dict[TableName, bool]:
    """Those of `tables` that are at Main and have keys noted."""
    with transaction(main, read_only=True) as cur:
        there = cur.execute(_SQL["conflict_there"]).fetchone() == (True,)
        rows = cur.execute(_SQL["conflict_tables"], named(tables)).fetchall() if there else []
    return {TableName(schema, name): True for schema, name in rows}


def standing(main: Connection, shapes: Iterable[TableShape]) -> dict[TableName, list[Bound]]:
    """The noted keys whose row Main has still, of each table: what a run to or from Main leaves where it is. Changes nothing."""
    found: dict[TableName, list[Bound]] = {}
    for shape in shapes:
        if _any_noted(main, shape.name):
            with transaction(main, read_only=True) as cur:
                rows = cur.last(_SQL["conflicts_standing"].format(**_here(shape))).fetchall()
            found[shape.name] = [tuple(map(str, r[0])) for r in rows]
    return found


def _here(shape: TableShape) -> dict[str, sql.Composable]:
    """What queries about a table's noted keys beside its rows are made of."""
    return {
        "schema": sql.Literal(shape.name.schema), "name": sql.Literal(shape.name.name),
        "table": model.qualified(shape.name), "same": model.same_key(shape, "c"),
    }  # fmt: skip


def drop_resolved(main: Connection, core: Source, shape: TableShape, longest_reader_seconds: float) -> None:
    """Forgets conflicts that the application has ended: a key that is not at Main any more, or long not in Core.

    Not at once for the latter: a reader that saw the key in Core before must find the conflict at Main.
    """
    name = {"schema": shape.name.schema, "table": shape.name.name}
    with transaction(main, read_only=True) as cur:
        keys = [str(r[0]) for r in cur.last(_SQL["conflict_noted"].format(**_here(shape)))]
    if not keys:
        return
    present = core.keys_here(shape, keys)
    with transaction(main) as cur:
        cur.execute(_SQL["conflict_here_gone"].format(**_here(shape)))
        cur.execute(_SQL["conflict_core_gone"], {**name, "present": present})
        cur.execute(_SQL["conflict_over"], {**name, "seconds": longest_reader_seconds})


def without(main: Connection, holdings: Holdings, selection: Selection, rows: int) -> int:
    """How many of the selection's first `rows` rows a run would take that leaves the noted conflicts where they are."""
    known = standing(main, [selection.shape]).get(selection.shape.name)
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
