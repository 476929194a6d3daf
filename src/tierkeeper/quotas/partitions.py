"""Drops partitions that the rows have left for good. It decides by `plan`, and never before their rows are gone for everybody."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from psycopg import errors, sql

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import DROP_LOCK_SECONDS
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Audit, Stop
from tierkeeper.kernel.results import Reclaim
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.catalog import catalog, server_now
from tierkeeper.postgres.keeping import named, of_each
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.quotas import parts, plan
from tierkeeper.quotas.plan import Method, OldPartition
from tierkeeper.quotas.vacuum import EMPTY, HELD, TRIES, TRY_SECONDS, vacuum

_SQL = load("tierkeeper.quotas", "partitions.sql")
_CHANGED: Final = "it is not what it was a moment ago: the next run looks again"


@of_each
def _partitioned(conn: Connection, tables: Sequence[TableName]) -> dict[TableName, bool]:
    with catalog(conn) as cur:
        return {TableName(schema, name): True for schema, name in cur.last(_SQL["partitioned"], named(tables))}


class _Stays(Exception):  # noqa: N818 - it ends a transaction by rolling it back, and is no error
    """Why a partition was left as it is."""


@dataclass
class Dropped:
    """What went, and what stays although it is old, with the reason."""

    figures: list[Reclaim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class PartitionDropper:
    """Drops a table's old partitions once they are empty.

    I1 and I4: the proof is taken under a lock that keeps every writer out until the drop is committed: no relation below the
    partition has a page. A row that comes later finds no partition, and its writer is told so. I2: VACUUM cuts a page only when
    no snapshot in this database can see a row of it any more, so that no older reader can miss one. I7: each drop is recorded.
    """

    def __init__(
        self, conn: Connection, tier: Tier, table: TableName, age: str, *, audit: Audit, clock: Clock, stop: Stop
    ) -> None:
        self._conn = conn
        self._tier = tier
        self._table = table
        self._age = age
        self._audit = audit
        self._clock = clock
        self._stop = stop
        self._done = Dropped()

    def now(self) -> datetime:
        """The clock of the server that has the partitions."""
        return server_now(self._conn)

    def old(self, cutoff: datetime, apart: Collection[TableName]) -> list[OldPartition]:
        """Partitions that take no row as young as `cutoff`, outermost first. Those of `apart` move by themselves."""
        if not _partitioned(self._conn, self._table):
            return []
        with catalog(self._conn) as cur:
            return list(self._old(cur, cutoff, apart))

    def _old(self, cur: Cursor, cutoff: datetime, apart: Collection[TableName]) -> Iterator[OldPartition]:
        asked = {
            "schema": self._table.schema,
            "table": self._table.name,
            "age": self._age,
            "cutoff": cutoff,
            "apart_schemas": [a.schema for a in apart],
            "apart_names": [a.name for a in apart],
        }
        for oid, in_schema, parent, schema, name, *rest in cur.execute(_SQL["old"], asked).fetchall():
            yield OldPartition(oid, TableName(in_schema, parent), TableName(schema, name), *rest)

    def run(self, cutoff: datetime, apart: Collection[TableName]) -> Dropped:
        """Drops what is older than `cutoff` and empty."""
        for found in self.old(cutoff, apart):
            if self._stop() is not None:
                break
            try:
                self._try(found, cutoff, apart)
            except errors.UndefinedTable:
                continue  # it went with the one that it lay in, or the application was quicker
            except _Stays as why:
                if str(why) != plan.HAS_ROWS:
                    self._done.notes.append(f"{self._table}: its old partition {found.name} stays: {why}")
                if str(why) == HELD:
                    break  # what held this one up would hold up the next, and the application would queue behind each try
        return self._done

    def _try(self, found: OldPartition, cutoff: datetime, apart: Collection[TableName]) -> None:
        began = self._clock.monotonic()
        with catalog(self._conn) as cur:
            _refuse(plan.partition_stays(found, is_empty=_is_empty(cur, found), fed=self._tier == "main", seen=False))
        if found.heap_bytes:
            held = vacuum(self._conn, parts.of(self._conn, found.name, ()), EMPTY, self._clock)
            _refuse(HELD if held is HELD else None)
        cut = next((one for one in self.old(cutoff, apart) if one.oid == found.oid), None)
        _refuse(_CHANGED if cut is None else plan.partition_stays(cut, is_empty=True, fed=self._tier == "main"))
        detail = {"table": self._table, "tier": self._tier, "bound": found.bound, "cutoff": cutoff}
        with self._audit.action("drop partition", str(found.name), detail) as note:
            reach(Point.DROP_RECORDED)
            why = self._drop(found, cutoff, apart)
            note(**({"bytes": found.total_bytes} if why is None else {"stays": why}))
        _refuse(why)
        self._done.figures.append(
            Reclaim(
                tier=self._tier,
                table=str(self._table),
                relation=str(found.name),
                method=Method.DROP.value,
                bytes_before=found.total_bytes,
                bytes_after=0,
                seconds=round(self._clock.monotonic() - began, 3),
            )
        )

    def _drop(self, found: OldPartition, cutoff: datetime, apart: Collection[TableName]) -> str | None:
        """None once it is gone; else why it stays."""
        for attempt in range(TRIES):
            if attempt:
                self._clock.sleep(TRY_SECONDS)
            try:
                with self._locked(found) as cur:
                    now = next((one for one in self._old(cur, cutoff, apart) if one.oid == found.oid), None)
                    _refuse(self._why_not(cur, found, now))
                    if cur.execute(_SQL["referred_to"], {"partition": found.oid}).fetchone() == (True,):
                        # They point at the table that it lies in: with it they would go only by CASCADE, which takes more.
                        cur.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(_named(found.table), _named(found.name)))
                    cur.execute(sql.SQL("DROP TABLE {} RESTRICT").format(_named(found.name)))
                    reach(Point.DROP_BEFORE_COMMIT)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                continue
            except _Stays as why:
                return str(why)
            reach(Point.DROPPED)
            return None
        return HELD

    def _why_not(self, cur: Cursor, found: OldPartition, now: OldPartition | None) -> str | None:
        """Why what was `found` may not go as it is `now`, under the lock; None if it may."""
        if now is None or (now.table, now.name, now.bound) != (found.table, found.name, found.bound):
            return _CHANGED
        is_empty = not now.heap_bytes and _is_empty(cur, now)
        return plan.partition_stays(now, is_empty=is_empty, fed=self._tier == "main")

    @contextmanager
    def _locked(self, found: OldPartition) -> Iterator[Cursor]:
        """A transaction that keeps everybody from the partition and from the table that it lies in.

        In the order in which a query takes its locks: outer before inner.
        """
        lock = sql.SQL("LOCK TABLE ONLY {}, {} IN ACCESS EXCLUSIVE MODE").format(_named(found.table), _named(found.name))
        try:
            with transaction(self._conn, opening=[lock], lock_seconds=DROP_LOCK_SECONDS) as cur:
                yield cur
        except errors.DependentObjectsStillExist as error:
            raise _Stays((error.diag.message_detail or "something depends on it").splitlines()[0]) from error
        except errors.InsufficientPrivilege as error:
            raise _Stays(f"this role may not drop it ({error.diag.message_primary})") from error


def _refuse(why: str | None) -> None:
    if why is not None:
        raise _Stays(why)


def _is_empty(cur: Cursor, partition: OldPartition) -> bool:
    """Whether `cur`'s transaction sees no row in it."""
    row = cur.execute(sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(_named(partition.name))).fetchone()
    return row == (True,)


def _named(table: TableName) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)
