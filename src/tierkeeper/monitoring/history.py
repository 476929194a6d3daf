"""How full and how busy the tiers were, over time: a small table on Main, and a spool on this machine while Main is away.

Every sample is in one of the two until it is thinned out, and in Main once however often it is sent.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from psycopg import errors, sql

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.limits import (
    ASKED_LOCK_SECONDS,
    AWAY_SECONDS,
    EGRESS_SENT_BYTES,
    USAGE_DAILY_DAYS,
    USAGE_FALL_BYTES,
    USAGE_FALL_SHARE,
    USAGE_FALLS_KEPT,
    USAGE_FINE_DAYS,
    USAGE_HOURLY_DAYS,
    USAGE_LOCK_SECONDS,
    USAGE_THINNED,
)
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.series import Sample
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring import egress
from tierkeeper.monitoring.egress import Egress, Share
from tierkeeper.monitoring.model import VALUES, Activity, Figures, activity
from tierkeeper.monitoring.spool import Samples, Spool
from tierkeeper.postgres.catalog import server_now
from tierkeeper.postgres.link import Connection, Link, transaction, translated
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.monitoring", "history.sql")
_COLUMNS: Final = sql.SQL(", ").join(map(sql.Identifier, VALUES))
_NOT_SET_UP: Final = (errors.UndefinedTable, errors.InvalidSchemaName, errors.UndefinedColumn)


@dataclass(frozen=True)
class Recorded:
    """Where samples went. `sent` came out of the spool meanwhile; `cause` says what kept these or those from Main."""

    where: Literal["main", "spool", "nowhere"]
    sent: int = 0
    cause: TierkeeperError | None = None


class History:
    """Samples and egress. `folder` is where they wait for Main; None on a host without a lasting disk. It is made when needed.

    `prepare` makes Main's tables where they are missing. What is read is Main's and the spool's together; of a Main that is away
    the spool's alone, and it is not asked again for a while.
    """

    def __init__(self, main: Link, folder: Path | None, clock: Clock, prepare: Callable[[], object]) -> None:
        self._main = main
        self._clock = clock
        self._prepare = prepare
        self._spool = Spool(folder) if folder is not None else None
        self._egress = Egress(folder)
        self._away: tuple[float, TierkeeperError] | None = None
        self._locked: TierkeeperError | None = None

    def record(self, samples: Samples) -> Recorded:
        """Writes the samples of one instant to Main, behind those that wait, or else to the spool. It raises for neither."""
        sent, cause = 0, None
        try:
            with self._writing() as conn:
                try:
                    sent = self._spool.send(lambda lines: self._write(conn, lines)) if self._spool is not None else 0
                except OSError as error:
                    cause = _disk(error)  # what waits there waits on; this sample need not
                self._write(conn, [samples])
                self._tell(conn, self._egress.unsent())
        except TierkeeperError as error:
            return self._wait(samples, sent, error)
        return Recorded("main", sent, cause)

    def found_away(self, error: TierkeeperError) -> None:
        """Somebody has waited for Main in vain just now: nobody else here need to."""
        self._away = (self._clock.monotonic() + AWAY_SECONDS, error)

    @property
    def away(self) -> TierkeeperError | None:
        """Why Main was not to be asked, so that what was read last is this machine's alone; None where it answers."""
        return self._locked if self._away is None else self._away[1]

    def samples(
        self, tier: Tier | None = None, table: TableName | None = None, *, every: bool = False, since: datetime | None = None
    ) -> list[Figures]:
        """Whole samples, oldest first: a tier's own or a table's; `every`: the tier's and all its tables'."""
        waiting = self._spool.read(since) if self._spool is not None else []
        asked: dict[str, Any] = {"tier": tier, "every": every, "since": since}
        asked |= {"schema": table.schema if table else "", "table": table.name if table else ""}
        found = [
            _figures(row) for row in self._read(lambda cur: cur.execute(_SQL["read"].format(columns=_COLUMNS), asked).fetchall())
        ]
        chosen = [s for s in waiting if tier in (None, s.tier) and (every or s.table == table)]
        both = {(s.at, s.tier, s.table): s for s in (*found, *chosen)}
        return sorted(both.values(), key=lambda s: (s.at, s.tier, str(s.table or "")))

    def series(self, tier: Tier, table: TableName | None = None, *, since: datetime | None = None) -> Sequence[Sample]:
        """Bytes as the provider counts them of a tier, all bytes of a table; oldest first, each instant once."""
        return [Sample(s.at, s.bytes) for s in self.samples(tier, table, since=since)]

    def activity(
        self, tier: Tier | None = None, table: TableName | None = None, *, every: bool = False, since: datetime | None = None
    ) -> Sequence[Activity]:
        """Reads and writes on each day; `every`: of each of the tier's tables, too. Before the first sample nothing is known."""
        return activity(self.samples(tier, table, every=every, since=since))

    def egress(self, tier: Tier, month: date) -> int | None:
        """Bytes that were received from the tier in the calendar month (UTC) of that day, by all machines that Main knows of.

        None where somebody locks what Main knows of it: this machine's own share alone would pass for all.
        """
        return self.egress_of([tier], month)[tier]

    def egress_of(self, tiers: Sequence[Tier], month: date) -> Mapping[Tier, int | None]:
        """`egress` of several tiers."""
        first, _ = egress.month_of(month)
        try:
            mains = self._read(lambda cur: egress.read(cur, first), by_itself=True)
        except NotNow:
            return dict.fromkeys(tiers)
        own = self._egress.shares()
        return {tier: egress.total(mains, own, tier, month) for tier in tiers}

    def own_egress(self, mains: Sequence[Share], tier: str, month: date) -> int:
        """`egress` of a tier for who has read Main's shares already."""
        return egress.total(mains, self._egress.shares(), tier, month)

    def received(self, day: date, received: Mapping[str, int]) -> None:
        """Counts egress here, and tells Main once there is enough to be worth it, or where nothing lasts here.

        Raises what keeps it from doing so.
        """
        if not any(received.values()):
            return
        self._egress.add(day, received)
        if not self._egress.lasts or self._egress.unsent_bytes >= EGRESS_SENT_BYTES:
            with self._writing() as conn, suppress(*_NOT_SET_UP):  # a command that only reads makes no tables
                self._tell(conn, self._egress.unsent(), ASKED_LOCK_SECONDS)  # else the next command tells it: none need wait

    def _wait(self, samples: Samples, sent: int, cause: TierkeeperError) -> Recorded:
        if self._spool is None:
            return Recorded("nowhere", sent, cause)
        try:
            self._spool.add(samples)
        except OSError as error:
            return Recorded("nowhere", sent, _disk(error))
        return Recorded("spool", sent, cause)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        self._refuse_away()
        try:
            with translated("tiers.main"), closing(self._main.connect("usage")) as conn:
                yield conn
        except NotNow as error:
            self.found_away(error)
            raise

    def _write(self, conn: Connection, lines: Sequence[Samples]) -> None:
        """Inserts and thins in one transaction, making the tables first where they are missing."""
        rows = [_document(s) for samples in lines for s in samples]
        try:
            self._insert(conn, rows)
        except _NOT_SET_UP:
            self._prepare()
            self._insert(conn, rows)

    def _insert(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        with transaction(conn) as cur:
            cur.execute(_SQL["add"].format(columns=_COLUMNS), {"samples": json.dumps(rows)})
            thin(cur, self._now(conn))

    def _now(self, conn: Connection) -> datetime:
        """By Main's clock: a machine whose own is ahead would have everything forgotten."""
        return self._clock.now(partial(server_now, conn))

    def _tell(self, conn: Connection, shares: Sequence[Share], lock_seconds: float | None = None) -> None:
        if not shares:
            return
        with transaction(conn, lock_seconds=lock_seconds) as cur:
            egress.write(cur, shares)
            egress.expire(cur, self._now(conn).date())
        self._egress.told(shares)

    def _read(self, ask: Callable[[Cursor], list[Any]], *, by_itself: bool = False) -> list[Any]:
        """What Main answers; nothing where it is away, refuses us, locks what is asked for or has no such table.

        Raises NotNow where a table is locked that is asked for `by_itself`: of the others Main tells all the same.
        """
        try:
            self._refuse_away()
            with translated("tiers.main"), closing(self._main.connect("usage")) as conn, _short(conn) as cur:
                found = ask(cur)
        except (NotNow, UsageError) as error:  # it is away, or its address is wrong
            if isinstance(error.__cause__, errors.LockNotAvailable):  # it is there, and tells of its other tables
                if by_itself:
                    raise
                self._locked = NotNow(error.place, "somebody locks tierkeeper.usage there", error.remedy)
            elif self._away is None:
                self.found_away(error)
        except Failed as error:
            if not isinstance(error.__cause__, _NOT_SET_UP):
                raise
        else:
            self._locked = self._locked if by_itself else None
            return found
        return []

    def _refuse_away(self) -> None:
        if self._away is not None and self._clock.monotonic() >= self._away[0]:
            self._away = None
        if self._away is not None:
            raise self._away[1]


def _short(conn: Connection) -> AbstractContextManager[Cursor]:
    """A look that gives way to whoever locks our tables: what shows a curve waits for nobody."""
    return transaction(conn, read_only=True, lock_seconds=USAGE_LOCK_SECONDS)


def thin(cur: Cursor, now: datetime) -> None:
    """Thins out what is older than its grain's time, a bounded number of samples: the rest has its turn with the next record."""
    for grain, unit, days in ((0, "hour", USAGE_FINE_DAYS), (1, "day", USAGE_HOURLY_DAYS)):
        named = {
            "grain": grain, "unit": unit, "until": _begin(now - timedelta(days=days), unit), "limit": USAGE_THINNED,
            "fall_bytes": USAGE_FALL_BYTES, "fall_share": USAGE_FALL_SHARE, "falls": USAGE_FALLS_KEPT,
        }  # fmt: skip
        cur.execute(_SQL["thin"], named)
    cur.execute(_SQL["expire"], {"oldest": now - timedelta(days=USAGE_DAILY_DAYS), "limit": USAGE_THINNED})


def _begin(instant: datetime, unit: str) -> datetime:
    """The hour or day (UTC) that the instant lies in: whole ones are thinned."""
    hour = instant.replace(minute=0, second=0, microsecond=0)
    return hour if unit == "hour" else hour.replace(hour=0)


def _document(figures: Figures) -> dict[str, Any]:
    table = figures.table or TableName("", "")
    values = {name: getattr(figures, name) for name in VALUES}
    shown = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in values.items()}
    return {"tier": figures.tier, "schema_name": table.schema, "table_name": table.name, **shown}


def _figures(row: Sequence[Any]) -> Figures:
    tier, schema, name, *values = row
    return Figures(tier, TableName(schema, name) if name else None, *values)


def _disk(error: OSError) -> UsageError:
    where = error.filename or "the state folder"
    return UsageError("usage history", f"{where}: {error.strerror or error}", "Let this user write there, or set XDG_STATE_HOME")
