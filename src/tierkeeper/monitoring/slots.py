"""Replication slots, and the log that each keeps from being removed: it fills a disk beside a small database."""

from tierkeeper.monitoring.alerts.facts import Slot
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.monitoring", "alert.sql")


def slots(conn: Connection) -> tuple[Slot, ...]:
    """Those that outlive their session. It locks nothing and reads no table."""
    with catalog(conn) as cur:
        return tuple(Slot(name, active, wal_bytes) for name, active, wal_bytes in cur.last(_SQL["slots"]).fetchall())
