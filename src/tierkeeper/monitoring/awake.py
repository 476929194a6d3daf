"""Keeps hosted projects awake that their provider pauses after quiet days: a row is read in time, and what came of it remembered.

Providers do not say what they count as activity. So a row of a table of the user's is read, as the application does: it goes
through the pooler, the planner and the table's pages, where `SELECT 1` touches no table and a look at the catalog none of the
user's. It changes nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from tierkeeper.kernel.errors import Failed, TierkeeperError
from tierkeeper.kernel.limits import (
    KEEP_AWAKE_AGAIN_SECONDS,
    KEEP_AWAKE_READ_SECONDS,
    KEEP_AWAKE_SECONDS,
    KEEP_AWAKE_TABLES,
)
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring.memory import Memory
from tierkeeper.postgres.link import Connection, Link, transaction, translated
from tierkeeper.postgres.statements import load

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_SQL = load("tierkeeper.monitoring", "alert.sql")
_OWN: Final = TableName("tierkeeper", "tier")


@dataclass(frozen=True)
class Awake:
    """What is remembered of a tier's reads. `since`: the first try; `cause`: why the last one did not come through."""

    since: datetime
    tried_at: datetime
    ok_at: datetime | None = None
    table: str | None = None
    cause: str | None = None

    @property
    def read_at(self) -> datetime:
        """From when on the tier was quiet, as far as is known."""
        return self.ok_at or self.since


def is_due(known: Awake | None, now: datetime) -> bool:
    """Whether a tier is to be read now: daily, which is well before any provider's pause, and hourly until one comes through."""
    if known is None or known.tried_at > now:  # noted by a clock that has been put back since: it keeps nobody awake
        return True
    if known.ok_at is not None and known.cause is None:
        return now - known.ok_at >= timedelta(seconds=KEEP_AWAKE_SECONDS)
    return now - known.tried_at >= timedelta(seconds=KEEP_AWAKE_AGAIN_SECONDS)


def noted(known: Awake | None, now: datetime, table: TableName | None, cause: str | None) -> Awake:
    """What is remembered after a try: the `table` that was read, or the `cause` why none was."""
    before = known or Awake(now, now)
    if before.tried_at > now:  # what a wrong clock has noted would hide how long it is quiet
        before = replace(
            before, since=min(before.since, now), ok_at=None if before.ok_at and before.ok_at > now else before.ok_at
        )
    if table is not None:
        return replace(before, tried_at=now, ok_at=now, table=str(table), cause=None)
    return replace(before, tried_at=now, cause=cause)


Reads = Mapping[str, Awake]


class AwakeForm:
    """Implements `memory.Form`: by tier."""

    name = "awake"

    @cached_property
    def _adapter(self) -> "TypeAdapter[dict[str, Awake]]":
        from pydantic import TypeAdapter

        return TypeAdapter(dict[str, Awake])

    def empty(self) -> Reads:
        return {}

    def dump(self, document: Reads) -> dict[str, Any]:
        return {"version": 1, "tiers": self._adapter.dump_python(dict(document), mode="json")}

    def parse(self, data: Any) -> Reads:
        """Raises ValueError for what is no such document, or of a version to come."""
        if not isinstance(data, dict) or data.get("version") != 1:
            raise ValueError("not a memory of reads that is known here")
        return self._adapter.validate_python(data.get("tiers"))

    def merge(self, main: Reads, here: Reads) -> Reads:
        later = {tier: one for tier, one in here.items() if tier not in main or main[tier].tried_at < one.tried_at}
        return {**main, **later}


def keep_awake(
    links: Mapping[str, Link], preferred: Sequence[TableName], memory: Memory[Reads], now: datetime, *, force: bool = False
) -> tuple[Reads, dict[str, TierkeeperError]]:
    """Reads a row in each of the tiers of `links` that is due; what is remembered of them now, and the errors of this time."""
    known = memory.load().document
    due = [tier for tier in links if force or is_due(known.get(tier), now)]
    read, errors = dict[str, TableName](), dict[str, TierkeeperError]()
    for tier in due:
        try:
            read[tier] = read_row(links[tier], preferred)
        except TierkeeperError as error:
            errors[tier] = error

    def note(reads: Reads) -> Reads:
        tried = {t: noted(reads.get(t), now, read.get(t), errors[t].cause if t in errors else None) for t in due}
        return {**reads, **tried}

    return (memory.change(note).document if due else known), errors


def read_row(link: Link, preferred: Sequence[TableName]) -> TableName:
    """Reads a row of the first table that has one, `preferred` ones first, and says which. No value leaves the server.

    Where the user has no row at all, the one that says which tier this is. Raises NotNow where the tier is away.
    """
    with translated(link.place), closing(link.connect("keep awake")) as conn:
        with transaction(conn, read_only=True) as cur:
            found = [TableName(s, n) for s, n in cur.last(_SQL["readable"], {"limit": KEEP_AWAKE_TABLES}).fetchall()]
        asked = [t for t in preferred if t in found] + [t for t in found if t not in preferred]
        for table in (*asked, _OWN):
            try:
                if _has_row(conn, table):
                    return table
            except psycopg.Error:  # one that policies hide, or whose first row lies behind too many dead ones: another will do
                if conn.closed or table == _OWN:
                    raise
    raise Failed(link.place, "there is no row in it that could be read", "Put a row into a table, or set keep_awake = false")


def _has_row(conn: Connection, table: TableName) -> bool:
    with transaction(conn, read_only=True) as cur:
        cur.execute(_SQL["bound"], {"milliseconds": str(int(KEEP_AWAKE_READ_SECONDS * 1000))})
        name = sql.Identifier(table.schema, table.name)
        return cur.last(_SQL["one_row"].format(table=name)).fetchone() is not None
