"""Whether a copy in flight stands where it was put: anybody may have replaced its table since, or written it anew.

Its rows are known by the transaction that wrote them. Another table of the same name does not have them, and in one that was
written anew (ALTER TABLE … TYPE, a column with a volatile default) they may have another writer.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg

from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.tiers", "tiers.sql")


class Displaced(NotNow):
    """The copy's table is another one by now, or is written anew, or the copy was open to everybody."""


def question(batches: Sequence[UUID]) -> tuple[Any, dict[str, Any]]:
    """What `told` needs the answer to: a query, and its parameters."""
    return _SQL["displaced"], {"batches": list(batches)}


def told(rows: Sequence[Any], tier: str) -> Displaced | None:
    """What the answer says; None where every copy stands."""
    for schema, name, replaced in rows:
        what = "replaced by another" if replaced else "written anew"
        cause = f"the table was {what} while rows were on their way into it"
        return Displaced(
            f"{TableName(schema, name)} ({tier})", cause, "Run the same command again; the rows stay where they were"
        )
    return None


def unguarded(batches: Sequence[UUID]) -> tuple[Any, dict[str, Any]]:
    """What `told_unguarded` needs the answer to: a query, and its parameters."""
    return _SQL["unguarded"], {"batches": list(batches)}


def told_unguarded(rows: Sequence[Any], tier: str) -> Displaced | None:
    """What the answer says; None where nobody could change a copy since it was written."""
    for schema, name, heap in rows:
        cause = f"the trigger that guards rows on their way was off or altered in {heap} meanwhile"
        remedy = "Run the same command again, which puts it back; the rows stay where they were"
        return Displaced(f"{TableName(schema, name)} ({tier})", cause, remedy)
    return None


def refuse_displaced(cur: "psycopg.Cursor[Any]", tier: str, batches: Sequence[UUID]) -> None:
    """Raises Displaced where a reader could not tell a copy of `batches` from rows that count."""
    found = told(cur.execute(*question(batches)).fetchall(), tier) if batches else None
    if found is not None:
        remedy = "Run `tierkeeper move` over the table as before, which settles the copies; then ask again"
        raise Displaced(found.place, f"{found.cause}: they could not be told from rows that count", remedy)
