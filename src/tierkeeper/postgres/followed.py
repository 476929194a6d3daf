"""What Main remembers of Core's tables: how each looked when Main was last brought in step with it.

Read by the setup, which tells a renamed column by it, and by the reader, which must not take one column for another.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from tierkeeper.kernel.tables import Followed, FollowedColumn, TableName
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.postgres", "followed.sql")


def read(cur: psycopg.Cursor[Any], tables: Sequence[TableName]) -> Mapping[TableName, Followed]:
    """Those of `tables` that were followed before, in the transaction that `cur` is in; none before Main's first setup."""
    if cur.execute(_SQL["followed_there"]).fetchone() != (True,):
        return {}
    wanted = {"schemas": [t.schema for t in tables], "names": [t.name for t in tables]}
    relations: dict[TableName, int] = {}
    columns: dict[TableName, list[FollowedColumn]] = {}
    for schema, table, relation, number, name, type_, former in cur.execute(_SQL["followed"], wanted).fetchall():
        relations[TableName(schema, table)] = relation
        columns.setdefault(TableName(schema, table), []).append(FollowedColumn(number, name, type_, tuple(former)))
    return {name: Followed(relations[name], tuple(found)) for name, found in columns.items()}
