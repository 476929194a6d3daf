"""Refuses what Core alone would answer from a part of a table: rows of it have moved, and the configuration does not say so.

It reads in snapshots that the runner has taken, Core's first, and takes none.
"""

from collections.abc import Collection, Mapping

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.ports import SegmentScan
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import departed

_SQL = load("tierkeeper.query", "query.sql")


def suspects(core: Cursor, policies: Mapping[TableName, TablePolicy]) -> frozenset[TableName]:
    """Tables that the fast door takes for Core's alone, though a run has looked at them as one does before the first row leaves.

    Core's own word, so that a question about Core's tables alone asks no other tier.
    """
    row = core.execute(_SQL["has_memory"]).fetchone()
    if not row or not row[0]:
        return frozenset()
    spread = [n for n, p in policies.items() if p.mode == "move"]
    named = {"schemas": [t.schema for t in spread], "names": [t.name for t in spread]}
    return frozenset(TableName(s, n) for s, n in core.execute(_SQL["looked_at"], named))


def refuse_arriving(core: Cursor, tables: Collection[TableName], policies: Mapping[TableName, TablePolicy]) -> None:
    """Raises UsageError where Core's snapshot has copies of one of `tables`.

    The row that one was made of may be gone from Main since, and the copy be all that looks like a row.
    """
    named = {"schemas": [t.schema for t in tables], "names": [t.name for t in tables]}
    for schema, name in core.execute(_SQL["arriving"], named).fetchall() if tables else ():
        table = TableName(schema, name)
        raise departed.refusal(table, policies.get(table), "main")


def refuse(
    cur: Cursor, tables: Collection[TableName], policies: Mapping[TableName, TablePolicy], archive: SegmentScan | None
) -> None:
    """Raises UsageError where rows of one of `tables` lie in the tier that `cur` looks at: Main, or the `archive`'s catalog.

    Main is asked first, so that what goes on from there meanwhile is found below. What comes up meanwhile is found at Main: it is
    not deleted there before the reader's transaction in Core has ended.
    """
    found = departed.at_main(cur, tables) if archive is None else [t for t in sorted(tables) if archive.segments(cur, t)]
    for table in found:
        raise departed.refusal(table, policies.get(table), "main" if archive is None else "archive")
