"""What to say of a copy that its source knows nothing of. It changes nothing: only a person knows what became of the rows."""

from contextlib import suppress
from uuid import UUID

import psycopg
from psycopg import sql

from tierkeeper.kernel.errors import Failed, TierkeeperError
from tierkeeper.kernel.ports import Destination, LedgerRow
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import model
from tierkeeper.mover.source import Source
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "lost.sql")


def lost(source: Source, destination: Destination, batch_id: UUID) -> Failed:
    """I1: the copy may be the only place of the rows, or they may never have left. The remedy has the statement that says so."""
    row = next((one for one in destination.unsettled() if one.batch.id == batch_id), None)
    table = row.batch.table if row is not None else TableName("", "")
    rows = row.extent.rows if row is not None and row.extent is not None else "some"
    word = _SQL["word"].format(
        batch=sql.Literal(str(batch_id)),
        seq=sql.Literal(row.seq if row else 0),
        destination=sql.Literal(destination.tier),
        schema=sql.Literal(table.schema),
        name=sql.Literal(table.name),
    )
    return Failed(
        f"tiers.{source.tier}",
        f"it knows nothing of batch {batch_id}, which copied {rows} rows of {table} to {destination.tier}: it is another "
        "database than they came from, or has lost its schema tierkeeper (dropped, left out of a dump, or of an earlier time)"
        f"{_evidence(source, destination, row)}",
        "Correct the URL if it is another one. Else say there what became of the rows, with 'aborted' for 'moved' if it has them "
        f"still: {word.as_string(source.conn)}; then run this again",
    )


def _evidence(source: Source, destination: Destination, row: LedgerRow | None) -> str:
    """How many of the batch's rows are at the source now, where that can be found out."""
    conn: Connection | None = getattr(destination, "conn", None)
    if row is None or conn is None:
        return ""
    with suppress(psycopg.Error, TierkeeperError):
        shape = shapes.read(conn, row.batch.table, tier=destination.tier)
        query = _SQL["copied_keys"].format(
            key=sql.SQL(", ").join(model.text_of(k, "t") for k in shape.key),
            table=model.qualified(shape.name),
            batch=sql.Literal(row.batch.id),
        )
        with transaction(conn, read_only=True) as cur:
            keys = [str(r[0]) for r in cur.last(query)]
        return f". Of the {len(keys)} keys that came, {source.tier} has {len(source.keys_here(shape, keys))} now"
    return ""
