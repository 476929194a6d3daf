"""VACUUM that never queues the application behind itself, and says whether it was let in. It decides nothing."""

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, transaction

# An index's entries must go before a page counts as empty: left to itself, VACUUM passes over them where they are few.
PLAIN: Final[LiteralString] = "ANALYZE, INDEX_CLEANUP ON, SKIP_LOCKED"
EMPTY: Final[LiteralString] = "INDEX_CLEANUP ON, TRUNCATE ON, SKIP_LOCKED"
FULL: Final[LiteralString] = "FULL, ANALYZE, SKIP_LOCKED"
_LOCKED: Final = "55P03"
_WARNING: Final = "01000"
TRIES: Final = 3  # an autovacuum of the rows just deleted holds the table for a moment, too
TRY_SECONDS: Final = 0.4
PROBES: Final = 50  # as VACUUM asks for the lock that cuts a tail: often, since between short transactions it is free for moments
PROBE_SECONDS: Final = 0.05
HELD: Final = "the application holds a lock on it, so that its space comes back with a later run"


def vacuum(conn: Connection, tables: TableName | Sequence[TableName], options: LiteralString, clock: Clock) -> str | None:
    """None once it has run; else why it was not let in, at one of them. Also works where a full tier's default is read-only."""
    named = [tables] if isinstance(tables, TableName) else tables
    said: list[tuple[str, str]] = []

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        said.append((notice.sqlstate or "", notice.message_primary or ""))

    listed = sql.SQL(", ").join(sql.Identifier(table.schema, table.name) for table in named)
    statement = sql.SQL("VACUUM ({}) {}").format(sql.SQL(options), listed)
    conn.add_notice_handler(listen)
    try:
        for attempt in range(TRIES):
            if attempt:
                clock.sleep(TRY_SECONDS)
            said.clear()
            conn.execute(statement)
            if not any(state == _LOCKED for state, _ in said):
                return next((f"the server says: {text}" for state, text in said if state == _WARNING), None)
        return HELD
    finally:
        conn.remove_notice_handler(listen)


def can_be_cut(conn: Connection, table: TableName, clock: Clock) -> bool:
    """Whether the lock that cutting a tail takes can be had: emptying a tail that stays would be work for nothing.

    It is given back at once, and waits for nobody, so that nobody waits behind it.
    """
    statement = sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(sql.Identifier(table.schema, table.name))
    for attempt in range(PROBES):
        if attempt:
            clock.sleep(PROBE_SECONDS)
        try:
            with transaction(conn) as cur:
                cur.execute(statement)
        except psycopg.errors.LockNotAvailable:
            continue
        return True
    return False
