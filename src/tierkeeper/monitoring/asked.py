"""Which ages were asked for: a small log on Main that `query` keeps and the proposal of cutoffs reads.

It holds how often a table was scanned for rows of which ages, on which day; no value of the user's, no statement, no name of who
asked. It never makes a query fail or wait: what cannot be noted is left out.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from math import ceil
from typing import Final

from psycopg import errors, sql

from tierkeeper.kernel.limits import ASKED_FINE_DAYS, ASKED_KEPT_DAYS, ASKED_LOCK_SECONDS
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.watching import Touched
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection, Link, transaction, translated
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.monitoring", "asked.sql")
_log = Log()

EDGES: Final = (
    1, 2, 3, 5, 7, 10, 14, 21, 30, 45, 60, 90, 120, 180, 270, 365, 545, 730, 1_095, 1_460, 1_825, 2_555, 3_650, 36_500,
)  # fmt: skip
"""Ages in days between which asked ages are told apart, finer where they are younger."""
EVERYTHING: Final = -1
"""In the place of the oldest age: the scan had no bound, or one further off than the last edge."""
_NO_WAIT: Final = sql.SQL("SET LOCAL synchronous_commit = off")  # a count that a crash loses is no loss


@dataclass(frozen=True)
class Reads:
    """How often a table was scanned since `since`, by the oldest age in days that the scan allowed; `everything`: unbounded."""

    by_oldest: Mapping[int, int]
    everything: int
    since: date


def bucket(touched: Touched, now: datetime) -> tuple[int, int]:
    """The oldest and the youngest age that a scan allows, in days, each rounded outwards to an edge."""
    youngest = 0
    if touched.high is not None and touched.high < now:
        age = (now - touched.high) / timedelta(days=1)
        youngest = (0, *EDGES)[bisect_right(EDGES, age)]
    if touched.low is None:
        return EVERYTHING, youngest
    oldest = ceil(max(0.0, (now - touched.low) / timedelta(days=1)))
    at = bisect_left(EDGES, oldest)
    return (EDGES[at] if at < len(EDGES) else EVERYTHING), youngest


class AskedLog:
    """Implements `kernel.ports.AskedAges`. `now` is what ages are counted from. Several processes may note at once."""

    _told = False

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    def note(self, main: Connection, touched: Sequence[Touched]) -> None:
        """Notes `touched` with one message to Main. What keeps it from that is logged once in a process, and nothing else."""
        if not touched:
            return
        try:
            now = self._now()
            if any(fresh for (fresh,) in self._write(main, touched, now)):
                self._compact(main, now.date())
        except Exception as error:  # noqa: BLE001 - the answer is there already, and nothing here may take it away
            if not AskedLog._told:
                AskedLog._told = True
                _log.info("asked ages are not noted", cause=str(error).splitlines()[0] if str(error) else type(error).__name__)

    def _write(self, main: Connection, touched: Sequence[Touched], now: datetime) -> list[tuple[bool]]:
        buckets = [bucket(one, now) for one in touched]
        with transaction(main, opening=[_NO_WAIT], lock_seconds=ASKED_LOCK_SECONDS) as cur:
            return cur.last(_SQL["note"], {
                "day": now.date(),
                "schemas": [one.table.schema for one in touched],
                "names": [one.table.name for one in touched],
                "oldest": [oldest for oldest, _ in buckets],
                "youngest": [youngest for _, youngest in buckets],
            }).fetchall()  # fmt: skip

    def _compact(self, main: Connection, today: date) -> None:
        """Days become months, and old months go. It is done when a row is new, so that it is seldom and the log stays small."""
        with transaction(main, opening=[_NO_WAIT], lock_seconds=ASKED_LOCK_SECONDS) as cur:
            fine_since, since = today - timedelta(days=ASKED_FINE_DAYS), today - timedelta(days=ASKED_KEPT_DAYS)
            cur.last(_SQL["compact"], {"fine_since": fine_since, "since": since})


def read(main: Link, since: date) -> dict[TableName, Reads]:
    """What was asked for since a day, by table; nothing where Main has no log. Raises NotNow where Main is away."""
    found: dict[TableName, Reads] = {}
    with translated("tiers.main"), closing(main.connect("usage")) as conn:
        try:
            with catalog(conn) as cur:
                rows = cur.last(_SQL["read"], {"since": since}).fetchall()
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            return found
    for schema, name, oldest, count, first in rows:
        table = TableName(schema, name)
        one = found.get(table, Reads({}, 0, first))
        bounded = {**one.by_oldest, oldest: count} if oldest != EVERYTHING else one.by_oldest
        found[table] = Reads(bounded, one.everything + (count if oldest == EVERYTHING else 0), min(one.since, first))
    return found
