"""Keys that are in Core and in Main at once. They are noted at Main, whichever way a run was going that met them."""

import json
from collections.abc import Sequence

from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.model import Bound
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "conflicts.sql")


def noted(main: Connection, table: TableName) -> list[Bound]:
    """The keys that are noted, in the text form and order of the table's key."""
    with transaction(main, read_only=True) as cur:
        rows = cur.execute(_SQL["conflicts"], {"schema": table.schema, "table": table.name}).fetchall()
    return [tuple(map(str, r[0])) for r in rows]


def note(main: Connection, table: TableName, keys: Sequence[Bound]) -> None:
    """Notes `keys`; one that was about to be dropped stays."""
    if keys:
        with transaction(main) as cur:
            note_in(cur, table, keys)


def note_in(cur: Cursor, table: TableName, keys: Sequence[Bound]) -> None:
    """`note` in the transaction of `cur`."""
    name = {"schema": table.schema, "table": table.name}
    cur.executemany(_SQL["conflict_note"], [{**name, "key": json.dumps(k)} for k in keys])
