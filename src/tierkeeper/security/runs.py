"""What was done last, and when what runs by itself last went well, as the audit has it."""

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


@dataclass(frozen=True)
class Action:
    """An intent with its outcome, if there is one. `note`: the number of the newer of the two."""

    note: int
    at: datetime
    actor: str
    verb: str
    subject: str
    source: str | None
    destination: str | None
    ended_at: datetime | None
    rows: int | None
    stopped_because: str | None
    failed: str | None
    waited: int | None


def last_actions(conn: Connection, notes: int) -> list[Action]:
    """The actions of the newest `notes` notes, the newest first; none where Main was not set up."""
    with catalog(conn) as cur:
        there = cur.execute("SELECT to_regclass('tierkeeper.audit') IS NOT NULL").fetchone()
        found = cur.execute(_SQL["last_actions"], {"limit": notes}).fetchall() if there and there[0] else []
    return [Action(*row) for row in found]
