"""Logical replication around a table: what writes to its rows and what sends them on, wherever below it they lie.

Looking is one query, which `look` asks by itself and others along with theirs; judging is pure. Both ends of a hop are judged
by what is refused here (I1, I10): a row that a subscription takes away again, or that a publication lets nobody delete.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import named, of_each
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

if TYPE_CHECKING:
    from psycopg.abc import Params, Query

_SQL = load("tierkeeper.postgres", "replication.sql")


@dataclass(frozen=True)
class Replicating:
    """A subscription that `writes` to the table `at`, or a publication that sends its inserts or deletes.

    A publication `sends` them, or no row of `at` can be deleted because of it: the table has no replica `identity`; the `filter`
    reads `columns` that are not in it; its list of `columns` lacks some of it, or all that FULL asks for; it leaves out those
    that are `generated`. `who` is quoted as SQL writes it, the columns likewise.
    """

    at: TableName
    who: str
    kind: Literal["writes", "sends", "identity", "filter", "columns", "generated"]
    columns: tuple[str, ...] = ()


class End(NamedTuple):
    """One end of a hop: the tier, and what replication does around the table there."""

    tier: str
    around: Sequence[Replicating]


@of_each
def look(conn: Connection, tables: Sequence[TableName]) -> dict[TableName, tuple[Replicating, ...]]:
    """What replication does around a table, the table itself first; None where it does nothing."""
    with catalog(conn) as cur:
        return found(cur.all_of([query(tables)], last=True)[0])


def query(tables: Sequence[TableName]) -> "tuple[Query, Params]":
    """What `found` is made of."""
    return _SQL["around"], named(tables)


def found(rows: Sequence[Sequence[Any]]) -> dict[TableName, tuple[Replicating, ...]]:
    """What the rows of `query` say, by the table that was asked for."""
    around: dict[TableName, list[Replicating]] = {}
    for schema, name, at_schema, at_name, who, kind, columns in rows:
        one = Replicating(TableName(at_schema, at_name), who, kind, tuple(columns))
        around.setdefault(TableName(schema, name), []).append(one)
    return {name: tuple(of) for name, of in around.items()}


def writers(end: End) -> Iterator[UsageError]:
    """Why no rows must come to this end: what has left the other one would be deleted here again (I1)."""
    for one in end.around:
        if one.kind == "writes":
            yield UsageError(
                f"{one.at} ({end.tier})",
                f"the subscription {one.who} writes to it: it would replay the deletes of the rows that moved here",
                f"Take the table out of {one.who}'s publication and there ALTER SUBSCRIPTION {one.who} REFRESH PUBLICATION, "
                f"or DROP SUBSCRIPTION {one.who}",
            )


_STUCK: Final = {
    "identity": (
        "sends its deletes, and it has no replica identity",
        "There: ALTER TABLE {at} REPLICA IDENTITY USING INDEX …, or FULL",
    ),
    "filter": (
        "sends its deletes by a filter on {columns}, outside of its replica identity",
        "There: take the table out of {who} and add it again with a filter on its replica identity alone, or "
        "ALTER TABLE {at} REPLICA IDENTITY FULL",
    ),
    "columns": (
        "sends its deletes without {columns}, which its replica identity has",
        "There: take the table out of {who} and add it again with these columns as well, or with no list of columns",
    ),
    "generated": (
        "sends its deletes without the generated {columns}, which its replica identity has",
        "There: ALTER PUBLICATION {who} SET (publish_generated_columns = stored), or ALTER TABLE {at} REPLICA IDENTITY USING "
        "INDEX … without a generated column",
    ),
}


def stuck(end: End, among: Collection[TableName] | None = None) -> Iterator[UsageError]:
    """Why no row can be deleted at this end, be it handed over or taken back; `among`: in which tables alone that matters."""
    for one in end.around:
        if one.kind in _STUCK and (among is None or one.at in among):
            cause, remedy = _STUCK[one.kind]
            columns = ", ".join(one.columns) or "some columns"
            yield UsageError(
                f"{one.at} ({end.tier})",
                f"the publication {one.who} {cause.format(columns=columns)}: no row can be deleted",
                remedy.format(at=one.at, who=one.who),
            )


def loop(source: End, destination: End) -> UsageError | None:
    """Why rows must not leave `source` for `destination`: what is done there may come back here (I1).

    Whom a subscription reads only its owner may see, and it may read another server that passes on what the destination sends.
    So each pair of one and a publication of the other's counts as a loop.
    """
    writer = next((one for one in source.around if one.kind == "writes"), None)
    sender = next((one for one in destination.around if one.kind != "writes"), None)
    if writer is None or sender is None:
        return None
    return UsageError(
        f"{writer.at} ({source.tier})",
        f"the subscription {writer.who} writes to it, and the publication {sender.who} sends what is done to {sender.at} "
        f"({destination.tier}): copies could come back here, and where one is taken back there the row here could be deleted",
        f"Drop the subscription {writer.who}, or take the table out of the publication {sender.who}",
    )


def writer_notes(end: End) -> list[str]:
    """What is worth knowing where rows leave this end."""
    return [
        f"subscription {one.who} writes to {one.at} ({end.tier}): what it changes in rows that have left is lost"
        for one in end.around
        if one.kind == "writes"
    ]
