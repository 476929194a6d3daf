"""About how many rows are old enough to leave a tier, by its server's statistics: no row and no page of a table is read."""

from collections.abc import Mapping
from datetime import datetime

from psycopg import errors, sql

from tierkeeper.kernel.limits import BOARD_DUE_STALE_SHARE, USAGE_LOCK_SECONDS
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.keeping import named
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.monitoring", "due.sql")


def due(conn: Connection, cutoffs: Mapping[TableName, tuple[str, datetime]]) -> dict[TableName, int]:
    """Rows whose age column lies before the cutoff, by table. What is not known is left out: see `statistics` in due.sql."""
    if not cutoffs:
        return {}
    found = dict[TableName, int]()
    try:
        with transaction(conn, read_only=True, lock_seconds=USAGE_LOCK_SECONDS) as cur:
            known = cur.execute(_SQL["statistics"], {**named(list(cutoffs)), "stale": BOARD_DUE_STALE_SHARE}).fetchall()
            for schema, name in known:
                table = TableName(schema, name)
                column, cutoff = cutoffs[table]
                asked = sql.SQL("EXPLAIN (FORMAT json) SELECT FROM {} WHERE {} < {}").format(
                    sql.Identifier(schema, name), sql.Identifier(column), sql.Literal(cutoff)
                )
                (plan,) = cur.execute(asked).fetchone() or ([{"Plan": {"Plan Rows": 0}}],)
                rows = int(plan[0]["Plan"]["Plan Rows"])
                found[table] = rows if rows > 1 else 0  # a planner never says less than one
    except (errors.LockNotAvailable, errors.InsufficientPrivilege, errors.UndefinedColumn, errors.UndefinedFunction):
        return found
    return found
