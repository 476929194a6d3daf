"""Returns the space of deleted rows, and measures that it came back."""

import time
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.results import Reclaim
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load
from tierkeeper.quotas import plan
from tierkeeper.quotas.plan import Method, Relation
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import measure, table_size

_SQL = load("tierkeeper.quotas", "space.sql")
_LOCKED: Final = "55P03"
_TRIES: Final = 3  # an autovacuum of the rows just deleted holds the table for a moment, too
_TRY_SECONDS: Final = 0.4


@dataclass(frozen=True)
class Reclaimed:
    """What came back, why in this way, and how much of the table's dead space did not come back."""

    figures: Reclaim
    why: str
    unreturned_bytes: int


def reclaim(conn: Connection, tier: Tier, table: TableName, clock: Clock) -> Reclaimed | None:
    """Gives `table`'s dead space back, and says why in the way it does. None where there is no such table.

    I9: a rewrite is weighed against the quota before it begins, and does not begin where a lock or an old snapshot would make
    it useless. SKIP_LOCKED never queues the application behind us; both commands also work where a full tier's default is
    read-only.
    """
    before = table_size(conn, table)
    if before is None:
        return None
    began = time.monotonic()
    locked = not _vacuum(conn, "ANALYZE, SKIP_LOCKED", table, clock)
    vacuumed = table_size(conn, table) or before
    with transaction(conn, read_only=True) as cur:
        row = cur.execute(_SQL["row_bytes"], {"schema": table.schema, "table": table.name}).fetchone()
    live_rows, held_rows, row_bytes = row or (-1, 0, 0)
    live_bytes = int(live_rows * row_bytes) if live_rows >= 0 else vacuumed.heap_bytes
    relation = Relation(vacuumed.total_bytes, vacuumed.heap_bytes, live_bytes, int(held_rows * row_bytes))
    if locked:
        method, why = Method.VACUUM, "the application holds a lock on it, so that its space comes back with a later run"
    else:
        method, why = plan.reclaim(relation, measure(conn, tier.profile).used_bytes, tier.quota_bytes)
    if method is Method.VACUUM_FULL and not _vacuum(conn, "FULL, ANALYZE, SKIP_LOCKED", table, clock):
        method, why = Method.VACUUM, "the application took a lock on it, so that its space comes back with a later run"
    after = table_size(conn, table) or vacuumed
    figures = Reclaim(
        tier=tier.name,
        table=str(table),
        method=method.value,
        bytes_before=before.total_bytes,
        bytes_after=after.total_bytes,
        seconds=round(time.monotonic() - began, 3),
    )
    return Reclaimed(figures, why, 0 if method is Method.VACUUM_FULL else relation.dead_bytes)


def _vacuum(conn: Connection, options: str, table: TableName, clock: Clock) -> bool:
    """Whether the table was free for it."""
    said: list[str] = []

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        said.append(notice.sqlstate or "")

    statement = sql.SQL("VACUUM ({}) {}").format(sql.SQL(options), sql.Identifier(table.schema, table.name))
    conn.add_notice_handler(listen)
    try:
        for attempt in range(_TRIES):
            if attempt:
                clock.sleep(_TRY_SECONDS)
            said.clear()
            conn.execute(statement)
            if _LOCKED not in said:
                return True
        return False
    finally:
        conn.remove_notice_handler(listen)


def largest_tables(conn: Connection) -> list[tuple[TableName, int]]:
    """The application's largest tables and their bytes, indexes and TOAST included."""
    with transaction(conn, read_only=True) as cur:
        return [(TableName(schema, name), size) for schema, name, size in cur.execute(_SQL["largest"]).fetchall()]
