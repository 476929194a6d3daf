"""Tables of which rows have left Core while nothing says so any more: their entry is gone, or it says `mode = "mirror"`.

What Core has of such a table is not all that there is of it. Nothing here changes anything.
"""

from collections.abc import Collection

from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import shapes
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.tiers", "tiers.sql")


def at_main(cur: Cursor, tables: Collection[TableName] | None = None, *, but: Collection[TableName] = ()) -> list[TableName]:
    """Those of `tables` (None: of all) that have rows at Main, whose snapshot is the cursor's, which came there by moves.

    What a mirror has brought since the last of them had gone again is not among them, nor are tables of `but`.
    """
    asked = tables or ()
    named = {"all": tables is None, "schemas": [t.schema for t in asked], "names": [t.name for t in asked]}
    found = [TableName(s, n) for s, n in cur.execute(_SQL["departed"], named).fetchall()]
    return [t for t in found if t not in but and has_rows(cur, t)]


def has_rows(cur: Cursor, table: TableName) -> bool:
    """Whether the table is there and not empty."""
    if not shapes.exists(cur.connection, table):
        return False
    row = cur.execute(_SQL["any_row"].format(table=sql.Identifier(table.schema, table.name))).fetchone()
    return bool(row and row[0])


def refusal(table: TableName, policy: TablePolicy | None, tier: str) -> UsageError:
    """What to say of a `table` whose rows lie in `tier` as well, while `policy` is what the configuration says of it."""
    said = "no [[tables]] entry names it now" if policy is None else 'its entry says mode = "mirror" now'
    entry = 'Give it an entry with mode = "move"' if policy is None else 'Give its entry mode = "move"'
    return UsageError(
        f"tables.{table}",
        f"rows of it have moved to {tier}, and {said}: what Core has of it is not all",
        f"{entry} and its age column, as before; to end that, bring its rows back first: "
        + ("`tierkeeper archive thaw`, then " if tier == "archive" else "")
        + f"`tierkeeper move {table} --from main --to core --where true`",
    )
