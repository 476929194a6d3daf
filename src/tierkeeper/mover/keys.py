"""A batch's keys where its rows arrive: what finds rows there that no range of ages bounds. They last one transaction."""

from contextlib import closing

import psycopg
from psycopg import sql

from tierkeeper.kernel.ports import Batch, SourceSnapshot
from tierkeeper.kernel.tables import TableShape
from tierkeeper.mover import model
from tierkeeper.postgres.copy import rows_in
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "destination.sql")


def staging(batch: Batch) -> sql.Identifier:
    """The table that has the batch's keys until `cur`'s transaction ends."""
    return sql.Identifier(f"tierkeeper_keys_{batch.id.hex}")


def stage(cur: psycopg.Cursor, snapshot: SourceSnapshot) -> None:
    """Brings the batch's keys there, in the transaction of `cur`."""
    key, name = snapshot.shape.key, staging(snapshot.batch)
    cur.execute(_SQL["keys_staging"].format(staging=name, keys=model.names(key), table=model.qualified(snapshot.batch.table)))
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(name, model.names(key))
    with closing(snapshot.copy(key, binary=False)) as rows:
        rows_in(cur, into, rows)


def among(batch: Batch, shape: TableShape) -> sql.Composed:
    """SQL that holds for the rows that have a key which was staged."""
    return _SQL["among_keys"].format(staging=staging(batch), table=model.qualified(batch.table), same=model.same_rows(shape))
