"""Keeps reference tables in step in the tier below, so that history still joins there.

Rows are added and updated, never deleted: a row that history refers to must outlive its original. A table of which rows have
moved is left alone: what Main has of it is no copy of Core's.
"""

from collections.abc import Sequence
from contextlib import closing
from graphlib import CycleError, TopologicalSorter

from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import model
from tierkeeper.postgres import shapes
from tierkeeper.postgres.copy import rows_in, rows_out
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import departed

_SQL = load("tierkeeper.mover", "mirror.sql")


def refresh(source: Connection, destination: Connection, tables: Sequence[TableName]) -> int:
    """Upserts every row of `tables`, parents before children, each table in one transaction. Returns the rows sent.

    Raises UsageError for a table of which rows have moved to Main, or are on their way there: nothing of it is changed.
    """
    return sum(_refresh_one(source, destination, name) for name in _in_order(source, tables))


def _in_order(conn: Connection, tables: Sequence[TableName]) -> list[TableName]:
    """`tables` with those that they refer to first."""
    graph: dict[TableName, set[TableName]] = {}
    with transaction(conn, read_only=True) as cur:
        for name in tables:
            found = cur.execute(_SQL["references"], {"schema": name.schema, "table": name.name})
            graph[name] = {TableName(str(s), str(t)) for s, t in found} & set(tables) - {name}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise UsageError(
            f"tables.{tables[0]}",
            f"mirror tables refer to each other in a circle: {error.args[1]}",
            "Leave one of them out",
        ) from error


def _refresh_one(source: Connection, destination: Connection, name: TableName) -> int:
    """I1, I2: no row of Main's own is overwritten, also if a run with another configuration moves rows meanwhile; and what is
    new at Main ends the table's horizon with the same commit.
    """
    with transaction(source, isolation="repeatable read", read_only=True) as out:
        shape = shapes.read(source, name)
        columns = [c.name for c in shape.columns]
        with transaction(destination, own_path=True) as cur:
            newest = _newest_of_none(cur, name)
            staging = sql.Identifier("tierkeeper_mirror")
            cur.execute(
                sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} LIMIT 0").format(
                    staging, model.names(columns), model.qualified(name)
                )
            )
            read = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(model.sent(shape, columns), model.rows_of(shape))
            write = sql.SQL("COPY {} ({}) FROM STDIN").format(staging, model.names(columns))
            with closing(rows_out(out, read, binary=False)) as blocks:
                rows_in(cur, write, blocks)
            rows = cur.rowcount
            cur.execute(_upsert(shape, staging))
            if cur.rowcount:
                _end_horizon(cur, name, newest)
            if _arrivals(cur, name)[:2] != (newest, False):  # whatever the upsert may have met had its ledger row by then
                raise departed.refusal(name, TablePolicy(name, "mirror"), "main")
            reach(Point.MIRRORED)
    return rows


def _newest_of_none(cur: Cursor, name: TableName) -> int:
    """The newest of the batches that have come to the table, none of which has rows there any more; 0 if there were none."""
    newest, arriving, come = _arrivals(cur, name)
    if arriving or (come and departed.has_rows(cur, name)):
        raise departed.refusal(name, TablePolicy(name, "mirror"), "main")
    return newest


def _arrivals(cur: Cursor, name: TableName) -> tuple[int, bool, bool]:
    """The newest batch that has come to the table, whether any is on its way, and any has come since a mirror found none."""
    row = cur.execute(_SQL["arrivals"], {"schema": name.schema, "table": name.name}).fetchone()
    return row or (0, False, False)


def _end_horizon(cur: Cursor, name: TableName, newest: int) -> None:
    """Rows that no move brought: a horizon from before, or one that is being made now, says nothing of their keys."""
    named = {"schema": name.schema, "table": name.name}
    cur.execute(_SQL["mirrored_before"], named)
    cur.execute(_SQL["mirrored"], {**named, "newest": newest})


def _upsert(shape: TableShape, staging: sql.Identifier) -> sql.Composed:
    """Writes only rows that differ (a row written for nothing is bloat); types without equality compare by their text."""
    rest = [c.name for c in shape.columns if c.name not in shape.key]
    if rest:
        pairs = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(c)) for c in rest)
        differ = sql.SQL(" OR ").join(
            sql.SQL("t.{0}::text IS DISTINCT FROM excluded.{0}::text").format(sql.Identifier(c)) for c in rest
        )
        action: sql.Composable = sql.SQL("DO UPDATE SET {} WHERE {}").format(pairs, differ)
    else:
        action = sql.SQL("DO NOTHING")
    return _SQL["upsert"].format(
        table=model.qualified(shape.name),
        columns=model.names([c.name for c in shape.columns]),
        staging=staging,
        key=model.names(shape.key),
        action=action,
    )
