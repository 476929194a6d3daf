"""Tail compaction: rows of a table's last pages find room in front, so that a plain VACUUM can cut the empty tail.

An UPDATE that changes nothing writes a row anew where there is room. It takes no disk and no long lock. It must not run where
anybody would notice it: `look.untouchable` knows who would.
"""

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import Cursor, sql

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load
from tierkeeper.quotas import look, plan
from tierkeeper.quotas.vacuum import PLAIN, vacuum

_SQL = load("tierkeeper.quotas", "compact.sql")
CHUNK_ROWS: Final = 4_000  # moved in one transaction: a writer who meets one of them waits for milliseconds
TRIES: Final = 600  # a row stays in its page while that has room, at most for 291 versions; twice that is going in circles
WAL_BYTES_PER_SECOND: Final = 16_000_000  # a checkpoint and an archiver of a small server keep up with it
WAL_SHARE: Final = 0.5  # of the quota, written for one table in one run: the rest is left for the next one
PACE_SECONDS: Final = 1.0  # the longest single rest, so that a request to stop is heard


@dataclass(frozen=True)
class Compacted:
    """What a compaction did. `ended` is None where it reached its end, else why it stopped before."""

    moved_rows: int
    wal_bytes: int
    ended: str | None


class _EndedEarly(Exception):  # noqa: N818 - it ends a transaction by rolling it back, and is no error
    """Why a chunk was left as it is."""


class Compaction:
    """Empties the tail of a table, a few pages in a transaction.

    I1 and I4: a row is only ever replaced by Postgres's own UPDATE of the version that the same statement found and locked, with
    no value changed; so it is there, as its last writer left it, before, after and at any crash. I2: within one snapshot the old
    and the new place are one row. I9: the table does not grow, for a chunk that finds no room in front is rolled back; WAL is
    paced, and bounded for each run.
    """

    def __init__(
        self,
        conn: Connection,
        table: TableName,
        clock: Clock,
        stop: Stop,
        wal_budget_bytes: int,
        *,
        whole: TableName | None = None,
    ) -> None:
        """`whole`: the table whose rows those of `table` move as, where that is another."""
        self._conn = conn
        self._table = table
        self._whole = whole or table
        self._clock = clock
        self._stop = stop
        self._budget = wal_budget_bytes
        self._chunk_pages = 1
        self._moved = 0
        self._wal = 0

    def run(self, target_pages: int, rows_per_page: float) -> Compacted:
        """Rounds of emptying and cutting, until `target_pages` or no further. Each round is measured before the next."""
        self._chunk_pages = max(1, int(CHUNK_ROWS / max(1.0, rows_per_page)))
        column = look.column(self._conn, self._table)
        ended = None if column is not None else "no column of it can be set to itself"
        pages = self._pages()
        while column is not None and ended is None:
            floor = plan.next_round(pages, target_pages)
            if floor is None:
                break
            ended = self._round(sql.Identifier(column), floor, pages)
            refused = vacuum(self._conn, self._table, PLAIN, self._clock)
            left = self._pages()
            if ended is None and left > pages - (pages - floor) // 2:
                ended = (
                    refused or "its emptied tail could not be cut: a lock or an old snapshot holds it, and a later run cuts it"
                )
            pages = left
        return Compacted(self._moved, self._wal, ended)

    def _pages(self) -> int:
        with transaction(self._conn, read_only=True) as cur:
            row = cur.execute(_SQL["pages"], {"schema": self._table.schema, "table": self._table.name}).fetchone()
        return int(row[0]) if row else 0

    def _round(self, column: sql.Identifier, floor: int, end: int) -> str | None:
        """Empties pages `floor` to `end`, from the last on. None once it is through, else why it stopped."""
        high = end
        while high > floor:
            stopped = self._stop()
            if stopped is not None:
                return stopped
            if self._wal >= self._budget:
                return "it has written as much WAL as one run may: the next run goes on"
            low = max(floor, high - self._chunk_pages)
            began = self._clock.monotonic()
            try:
                wal_bytes = self._chunk(column, low, high, floor, end)
            except _EndedEarly as ended:
                return str(ended)
            except (psycopg.errors.IntegrityError, psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable) as error:
                return f"a row of it cannot be moved ({error.diag.message_primary})"
            except psycopg.errors.TransactionRollback as error:  # a deadlock, which Postgres has ended with us
                return f"it met another writer ({error.diag.message_primary}): the next run goes on"
            self._wal += wal_bytes
            self._rest(wal_bytes / WAL_BYTES_PER_SECOND - (self._clock.monotonic() - began))
            high = low
        return None

    def _chunk(self, column: sql.Identifier, low: int, high: int, floor: int, end: int) -> int:
        """One transaction: the rows of pages `low` to `high` to below `floor`. Returns the WAL written meanwhile."""
        table = sql.Identifier(self._table.schema, self._table.name)
        with transaction(self._conn, own_path=True) as cur:
            if look.in_flight(cur, self._whole):
                raise _EndedEarly("rows of it began to move: the next run goes on")
            (before,) = cur.execute(_SQL["wal_now"]).fetchone() or ("0/0",)
            tail = {"low": sql.Literal(f"({low},0)"), "high": sql.Literal(f"({high},0)")}  # a name may hold a %
            places = _places(cur.execute(_SQL["move_tail"].format(table=table, column=column, **tail)))
            moved = len(places)
            for _ in range(TRIES):
                if any(page >= end for page in places.values()):
                    raise _EndedEarly("its front is full")
                stayed = [place for place, page in places.items() if page >= floor]
                if not stayed:
                    break
                # The page's dead versions are this transaction's own, so that nothing prunes them: sooner or later it is full.
                on = _SQL["move_on"].format(table=table, column=column, stayed=sql.Literal(stayed))
                places = _places(cur.execute(on))
            reach(Point.COMPACT_BEFORE_COMMIT)
            (wal_bytes,) = cur.execute(_SQL["wal_since"], {"lsn": before}).fetchone() or (0,)
        reach(Point.COMPACTED)
        self._moved += moved
        return int(wal_bytes)

    def _rest(self, seconds: float) -> None:
        while seconds > 0 and self._stop() is None:
            self._clock.sleep(min(seconds, PACE_SECONDS))
            seconds -= PACE_SECONDS


def _places(cur: Cursor[tuple[str]]) -> dict[str, int]:
    """Each row's new place, as Postgres writes it, and its page."""
    return {place: int(place[1:].partition(",")[0]) for (place,) in cur.fetchall()}
