"""Returns the space of deleted rows, and measures that it came back."""

import time

from psycopg import sql

from tierkeeper.kernel.results import Reclaim
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load
from tierkeeper.quotas import plan
from tierkeeper.quotas.plan import Method, Relation
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import measure, table_size

_SQL = load("tierkeeper.quotas", "space.sql")


def reclaim(conn: Connection, tier: Tier, table: TableName) -> tuple[Reclaim, str] | None:
    """Gives `table`'s dead space back, and says why in the way it does. None where there is no such table.

    I9: a rewrite is weighed against the quota before it begins. SKIP_LOCKED never queues the application behind us; both
    commands also work where a full tier's default is read-only.
    """
    before = table_size(conn, table)
    if before is None:
        return None
    began = time.monotonic()
    name = sql.Identifier(table.schema, table.name)
    conn.execute(sql.SQL("VACUUM (ANALYZE, SKIP_LOCKED) {}").format(name))
    vacuumed = table_size(conn, table) or before
    with transaction(conn, read_only=True) as cur:
        row = cur.execute(_SQL["live_bytes"], {"schema": table.schema, "table": table.name}).fetchone()
    live = int(row[1]) if row and row[0] >= 0 else vacuumed.heap_bytes
    relation = Relation(vacuumed.total_bytes, vacuumed.heap_bytes, live)
    method, why = plan.reclaim(relation, measure(conn, tier.profile).used_bytes, tier.quota_bytes)
    if method is Method.VACUUM_FULL:
        conn.execute(sql.SQL("VACUUM (FULL, ANALYZE, SKIP_LOCKED) {}").format(name))
    after = table_size(conn, table) or vacuumed
    if method is Method.VACUUM_FULL and after.total_bytes >= vacuumed.total_bytes:
        why = "a rewrite gave nothing back: the table was locked, or an old snapshot still sees the deleted rows"
    figures = Reclaim(
        tier=tier.name,
        table=str(table),
        method=method.value,
        bytes_before=before.total_bytes,
        bytes_after=after.total_bytes,
        seconds=round(time.monotonic() - began, 3),
    )
    return figures, why
