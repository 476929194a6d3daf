"""What the archive holds of each table, by its catalog: for whoever measures it and needs nothing else of the archive."""

from tierkeeper.kernel.results import BoardSegment
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.archive", "catalog.sql")


def by_table(conn: Connection) -> dict[TableName, tuple[int, int, int]]:
    """Segments that count, their rows and their bytes in the store; nothing where the catalog was never set up."""
    with catalog(conn) as cur:
        there = cur.execute(_SQL["is_set_up"]).fetchone()
        found = cur.execute(_SQL["held_by_table"]).fetchall() if there and there[0] else []
    return {TableName(schema, table): (segments, rows, size) for schema, table, segments, rows, size in found}


def stalest(conn: Connection, limit: int) -> list[BoardSegment]:
    """The segments whose reading is longest ago, or who were never read since they were written, first; at most `limit`."""
    with catalog(conn) as cur:
        there = cur.execute(_SQL["is_set_up"]).fetchone()
        found = cur.execute(_SQL["stalest"], {"limit": limit}).fetchall() if there and there[0] else []
    return [
        BoardSegment(
            segment=segment, table=str(TableName(schema, table)), rows=rows, bytes=size, min_age=least, max_age=greatest,
            state=state, verified_at=read_at, written_at=written_at,
        )
        for segment, schema, table, rows, size, least, greatest, state, read_at, written_at in found
    ]  # fmt: skip
