"""Tables whose rows leave with those of others: what they weigh leaves a tier by those others alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import references
from tierkeeper.postgres.link import Connection
from tierkeeper.tiers.usage import TableSize, table_size


@dataclass(frozen=True)
class Following:
    """A table whose rows follow another's, and which part of it counts there: each of those that it follows has an equal one."""

    table: TableName
    share: Fraction


def followers(conn: Connection, policies: Collection[TablePolicy]) -> Mapping[TableName, Sequence[Following]]:
    """By the table that is followed. A table that follows none is left out: the mover says what is wrong with it."""
    found: dict[TableName, list[Following]] = {}
    following = [p.name for p in policies if p.follows]
    known = references.read(conn) if following else ()
    for table in following:
        try:
            leaders = references.leaders(table, known, policies)
        except UsageError:
            continue
        for leader in leaders:
            found.setdefault(leader, []).append(Following(table, Fraction(1, len(leaders))))
    return found


def size_with(conn: Connection, table: TableName, along: Sequence[Following]) -> TableSize | None:
    """The size of a table with its part of those that follow it; None where there is no such table."""
    own = table_size(conn, table)
    if own is None:
        return None
    parts = [(own, Fraction(1)), *((size, one.share) for one in along if (size := table_size(conn, one.table)) is not None)]
    return TableSize(
        heap_bytes=int(sum(size.heap_bytes * share for size, share in parts)),
        index_bytes=int(sum(size.index_bytes * share for size, share in parts)),
        toast_bytes=int(sum(size.toast_bytes * share for size, share in parts)),
        rows_estimate=int(sum(size.rows_estimate * share for size, share in parts)),
        estimated=any(size.estimated for size, _ in parts),
    )
