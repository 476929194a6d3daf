"""Rows of a Postgres ledger: what a copy's own transaction says last of it, and what is read of a batch later."""

from typing import Any

from psycopg import sql

from tierkeeper.kernel.digest import RowDigest
from tierkeeper.kernel.ports import Batch, Extent, LedgerRow
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import model
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "destination.sql")


def note_proven(cur: Cursor, batch: Batch, sent: RowDigest, own: sql.Composed | None) -> None:
    """That the copy was read back and is equal, and where it stands (`tiers.standing`).

    `own` holds for the batch's rows where the table has parts, which may have any of them.
    """
    regclass, table = model.regclass(batch.table), model.qualified(batch.table)
    heaps = _SQL["heap"].format(regclass=regclass) if own is None else _SQL["heaps"].format(table=table, own=own)
    known = {"batch": str(batch.id), "digest": sent.hex, "bytes": sent.size_bytes}
    cur.execute(_SQL["ledger_proven"].format(heaps=heaps, regclass=regclass, **{k: sql.Literal(v) for k, v in known.items()}))


def ledger_row(row: tuple[Any, ...]) -> LedgerRow:
    """A row of `ledger_unsettled`."""
    batch, source, schema, table, age, cutoff, predicate, *part, seq, state, rows, fingerprint, min_age, max_age, size, bundle = (
        row
    )
    where = None if part[1] is None else TableName(*part)
    return LedgerRow(
        Batch(batch, source, TableName(schema, table), age, cutoff, predicate, where, bundle),
        seq,
        state,
        Extent(rows, fingerprint, min_age, max_age) if state == "copied" else None,
        size,
    )
