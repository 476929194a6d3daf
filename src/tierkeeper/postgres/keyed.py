"""What is asked about the keys of a table's rows `t`, as SQL. Pure: no connection."""

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from tierkeeper.kernel.tables import TableShape

HORIZON_TRANSACTIONS: Final = 2**30
"""A row's xmin has 32 bits: what is older than half of what these can tell apart is not told by it."""
_ORDERED: Final = frozenset({"int2", "int4", "int8", "numeric", "uuid", "date", "timestamp", "timestamptz"})
"""Types that every server puts into the same order; a text's depends on its collation."""


def described(shape: TableShape) -> list[str]:
    """The key in words that differ once keys may be equal that were not."""
    columns = [c for k in shape.key if (c := shape.column(k)) is not None]
    return [f"{c.name} {c.type} {c.collation or ''}" for c in columns]


def texts(shape: TableShape) -> sql.Composed:
    """The key's text forms as the types write them: a cast to text may be somebody's own function."""
    return sql.SQL(", ").join(sql.SQL("concat(t.{})").format(sql.Identifier(k)) for k in shape.key)


def extremes(shape: TableShape, table: sql.Composable) -> sql.Composed | None:
    """A SELECT of the least and the greatest value of the key's first column, as text; None where order is the server's."""
    first = shape.column(shape.key[0])
    if first is None or first.base not in _ORDERED:
        return None
    one = "(SELECT concat({0}) FROM {1} ORDER BY {0} {2} LIMIT 1)"
    ends = (sql.SQL(one).format(sql.Identifier(first.name), table, sql.SQL(way)) for way in ("ASC", "DESC"))
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join(ends))


def between(shape: TableShape, low: str, high: str, *, at: int = 0) -> sql.Composed:
    """Holds for rows whose key's column number `at` lies from `low` to `high`."""
    column = shape.column(shape.key[at])
    assert column is not None  # noqa: S101 - a shape has the columns of its key
    bounds = [sql.SQL("{}::{}").format(sql.Literal(v), sql.SQL(column.type)) for v in (low, high)]
    return sql.SQL("t.{} BETWEEN {} AND {}").format(sql.Identifier(column.name), *bounds)


def newer(since: str, heaps: Sequence[int]) -> sql.Composed:
    """Holds for every row of `heaps` written from the transaction `since` on, and for those that lie elsewhere.

    Also for some that are older: the bits of a row's xmin come round again, and age() is modulo 2^32 as they are.
    """
    return sql.SQL("(t.tableoid <> ALL ({}::oid[]) OR age(t.xmin) <= age({}::xid))").format(
        sql.Literal(list(heaps)), sql.Literal(since)
    )


def listed(keys: Sequence[str]) -> sql.Literal:
    """`keys`, JSON arrays of text forms each, as one JSON array: thousands of them are quoted, sent and read as one text."""
    return sql.Literal(f"[{','.join(keys)}]")


def same(shape: TableShape) -> sql.Composed:
    """Holds where the row has the key that `given.key` lists, a JSON array of its text forms."""
    operators = shape.key_operators or (("=", ">"),) * len(shape.key)
    pairs = []
    for place, (name, (equal, _)) in enumerate(zip(shape.key, operators, strict=True)):
        column = shape.column(name)
        assert column is not None  # noqa: S101 - likewise
        pairs.append(
            sql.SQL("t.{} {} (given.key ->> {})::{}").format(
                sql.Identifier(name), sql.SQL(equal), sql.Literal(place), sql.SQL(column.type)
            )
        )
    return sql.SQL(" AND ").join(pairs)
