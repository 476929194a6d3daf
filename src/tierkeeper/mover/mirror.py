"""Keeps reference tables in step in the tier below, so that history still joins there.

Rows are added and updated, never deleted: a row that history refers to must outlive its original.
"""

from collections.abc import Sequence
from contextlib import closing
from graphlib import CycleError, TopologicalSorter

from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover import model
from tierkeeper.postgres import shapes
from tierkeeper.postgres.copy import rows_in, rows_out
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "mirror.sql")


def refresh(source: Connection, destination: Connection, tables: Sequence[TableName]) -> int:
    """Upserts every row of `tables`, parents before children, each table in one transaction. Returns the rows sent."""
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
    with transaction(source, isolation="repeatable read", read_only=True) as out:
        shape = shapes.read(source, name)
        columns = [c.name for c in shape.columns]
        with transaction(destination, own_path=True) as cur:
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
            reach(Point.MIRRORED)
    return rows


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
