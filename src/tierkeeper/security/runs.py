"""When what runs by itself last went well, as the audit has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tierkeeper.kernel.limits import AUDIT_LOOKED_AT
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.security", "audit.sql")


@dataclass(frozen=True)
class LastRun:
    """A verb's last outcomes. `failed_at` and `cause` of a failure that nothing went well after; `since`: its first note."""

    ok_at: datetime | None
    failed_at: datetime | None
    cause: str | None
    since: datetime


def last_runs(conn: Connection) -> Mapping[tuple[str, str, str], LastRun]:
    """By verb, subject and where rows went (""), among the newest notes."""
    with catalog(conn) as cur:
        rows = cur.last(_SQL["last_runs"], {"limit": AUDIT_LOOKED_AT}).fetchall()
    return {
        (verb, subject, to): LastRun(ok_at, failed_at, cause, since) for verb, subject, to, ok_at, failed_at, cause, since in rows
    }


def last_outcome(conn: Connection, verb: str, subject: str, seconds: float) -> Mapping[str, Any]:
    """What the last run of `verb` noted at its end; nothing where that was longer ago than `seconds`."""
    with catalog(conn) as cur:
        row = cur.last(
            _SQL["last_outcome"], {"limit": AUDIT_LOOKED_AT, "verb": verb, "subject": subject, "seconds": seconds}
        ).fetchone()
    return row[0] if row else {}
