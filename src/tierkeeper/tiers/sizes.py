"""Asks a server what its tables take, and what their rows need of that. To wait for a locked one is the caller's choice."""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.tiers.space import Heap, Index

_SQL = load("tierkeeper.tiers", "space.sql")

Question = tuple[sql.Composed, dict[str, Any]]
"""A query and its parameters."""


def asked(statement: str, tables: Sequence[TableName] = (), *, at_once: bool, views: bool = False, **more: Any) -> Question:
    """The question `statement` of space.sql about `tables`, which materialized `views` count among.

    `at_once`: of what is locked against everybody the catalog's estimate is told.
    """
    kinds = ["r", "p", *(["m"] if views else [])]
    given = {"schemas": [t.schema for t in tables], "names": [t.name for t in tables], "kinds": kinds, "at_once": at_once}
    return _SQL[statement].format(closed=_SQL["closed"], tree=_SQL["tree"]), {**given, **more}


def facts_of(
    cur: Cursor, tables: Sequence[TableName], *, locked: bool = False, at_once: bool = False
) -> dict[TableName, tuple[Heap, tuple[Index, ...]]]:
    """What those of `tables` that are there hold. `locked`: VACUUM could not have them, so that only counters are fresh."""
    questions = (
        asked("heap", tables, at_once=at_once, locked=locked),
        asked("indexes", tables, at_once=at_once),
    )
    return facts(*cur.all_of(questions))


def facts(heaps: Sequence[Sequence[Any]], indexes: Sequence[Sequence[Any]]) -> dict[TableName, tuple[Heap, tuple[Index, ...]]]:
    """The answers to `heap` and `indexes`, by table."""
    found: dict[TableName, list[Index]] = {}
    for schema, table, *index in indexes:
        found.setdefault(TableName(schema, table), []).append(Index(*index))
    names = [TableName(schema, table) for schema, table, *_ in heaps]
    return {n: (Heap(*heap), tuple(found.get(n, []))) for n, (_, _, *heap) in zip(names, heaps, strict=True)}
