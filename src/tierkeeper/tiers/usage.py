"""How full a tier is, as its provider counts it. It measures and decides nothing."""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psycopg import sql

from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import asked_once, of_each
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import sizes
from tierkeeper.tiers.profile import Profile

_SQL = load("tierkeeper.tiers", "tiers.sql")


@dataclass(frozen=True)
class Usage:
    """A Postgres tier at one instant. `read_only` is the default of new sessions; `version` as in server_version_num.

    `missed`: the synchronous standbys that each commit waits for, by their setting, where fewer are there.
    """

    used_bytes: int
    read_only: bool
    in_recovery: bool
    version: int
    tls: bool
    missed: str | None = None


@dataclass(frozen=True)
class TableSize:
    """Where a table's bytes are; `rows_estimate` is what the server's own counters say.

    `estimated`: something is locked against everybody, so that its size is what it was when it was last vacuumed or analysed.
    """

    heap_bytes: int
    index_bytes: int
    toast_bytes: int
    rows_estimate: int
    estimated: bool = False

    @property
    def total_bytes(self) -> int:
        return self.heap_bytes + self.index_bytes + self.toast_bytes


WRITABLE_AGAIN: Final = "BEGIN READ WRITE; ALTER DATABASE … SET default_transaction_read_only = off; COMMIT"
"""What ends the read-only mode: without the READ WRITE a session there refuses the statement itself."""


def refusal(usage: Usage, place: str, *, gives_only: bool) -> TierkeeperError | None:
    """Why the server takes no rows; None if it does. Pure.

    A tier that only gives rows away may be read-only by default, as a full hosted one is: an explicit READ WRITE passes that
    switch. Where rows arrive it is obeyed (I9): whoever threw it wants nothing more written there.
    """
    if usage.in_recovery:
        return UsageError(place, "this is a replica, which takes no writes", "Give the address of its primary")
    if usage.missed is not None:
        cause = f"each commit there waits for synchronous standbys (synchronous_standby_names = {usage.missed!r}) that are away"
        remedy = "Bring them back, or have the setting name those that are there, then run again"
        return NotNow(place, cause, remedy)
    if usage.read_only and not gives_only:
        cause = "it is read-only (default_transaction_read_only is on), so that no row can move here"
        return NotNow(place, cause, f"Make room or raise its quota, then: {WRITABLE_AGAIN}")
    return None


def asked(profile: Profile) -> tuple[sql.SQL, dict[str, bool]]:
    """The question that `measure` asks; the first thing that the answer tells is the size."""
    return _SQL["facts"], {"whole_server": profile.counts == "server"}


@asked_once
def measure(conn: Connection, profile: Profile) -> Usage:
    """What `conn`'s server says of itself, its size counted as `profile` counts."""
    with catalog(conn) as cur:
        row = cur.last(*asked(profile)).fetchone()
    used_bytes, read_only, in_recovery, version, missed = row or (0, False, False, 0, None)
    return Usage(used_bytes, read_only, in_recovery, version, conn.pgconn.ssl_in_use, missed)


@of_each
def table_size(conn: Connection, names: Sequence[TableName]) -> dict[TableName, TableSize]:
    """The size of a table with its partitions and children, without other tables; None where there is no such table.

    No lock on it is waited for.
    """
    with catalog(conn) as cur:
        rows = cur.last(*sizes.asked("table_size", names, at_once=True)).fetchall()
    return {TableName(schema, name): TableSize(*found) for schema, name, *found in rows}


def directory_bytes(root: Path) -> int:
    """Bytes of all files below `root`; 0 where it is not there. A file that goes away meanwhile does not count."""
    total, folders = 0, [str(root)]
    while folders:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    total += _file_bytes(entry)
    return total


def _file_bytes(entry: os.DirEntry[str]) -> int:
    try:
        found = entry.stat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
