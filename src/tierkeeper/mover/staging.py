"""A segment's rows on a server, for the length of one transaction: as a view of the columns that their table has today."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from psycopg import sql

from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.history import Chosen, choose
from tierkeeper.kernel.ports import Frozen, Vault
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import model
from tierkeeper.postgres import followed, shapes
from tierkeeper.postgres.session import Cursor

ELSEWHERE: Final = "Restore it into a table of its own: tierkeeper archive restore --segment"


def staged(cur: Cursor, vault: Vault, segment: Frozen, number: int, *, whole: bool) -> tuple[TableShape, TableName]:
    """The table as it is at Main today, and a view that shows the segment's rows with its columns, in the segment's order.

    The table without columns that it makes itself and the segment has not: what they will be there nobody has proved before.
    The segment was authenticated to its last byte, read back and compared. Only `cur`'s transaction sees it; roll that back, lest
    a pooler's next client find it. Raises Failed where a column cannot be told and, of a `whole` segment, where one has no place
    today: its values would be lost.
    """
    frozen, view = TableName("pg_temp", f"tierkeeper_frozen_{number}"), TableName("pg_temp", f"tierkeeper_thawed_{number}")
    old = vault.stage(cur, segment, frozen)
    today = shapes.read(cur.connection, segment.table, tier="main")
    known = followed.read(cur, [segment.table]).get(segment.table)
    place = f"segment {segment.id}"
    chosen = [choose(c.name, old, today, known, place, remedy=f"{ELSEWHERE} {segment.id}") for c in today.columns]
    if whole:
        _refuse_dropped(old, chosen, segment)
    columns = sql.SQL(", ").join(
        sql.SQL("{}::{} AS {}").format(
            sql.SQL("NULL") if one.column is None else sql.Identifier(one.column), sql.SQL(c.type), sql.Identifier(c.name)
        )
        for c, one in zip(today.columns, chosen, strict=True)
    )
    query = sql.SQL("CREATE VIEW {} AS SELECT {} FROM {}")
    cur.execute(query.format(model.qualified(view), columns, model.qualified(frozen)))
    proven = tuple(c for c, one in zip(today.columns, chosen, strict=True) if one.column is not None or not c.generated)
    return replace(today, columns=proven), view


def _refuse_dropped(old: TableShape, chosen: Sequence[Chosen], segment: Frozen) -> None:
    """Raises Failed for a column that today's table has no place for."""
    taken = {one.column for one in chosen}
    dropped = next((c.name for c in old.columns if c.name not in taken), None)
    if dropped is not None:
        raise Failed(f"segment {segment.id}", f"Main has no column for its {dropped!r}", f"{ELSEWHERE} {segment.id}")
