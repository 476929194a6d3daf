"""Measures a Postgres tier in one short read-only transaction, which waits for nobody and keeps nobody waiting."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import errors, sql

from tierkeeper.kernel.limits import SLOW_STATEMENTS, SLOW_TEXT, USAGE_LOCK_SECONDS, USAGE_OTHER_TABLES, USAGE_TRIES
from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring.model import Details, Figures, Measured, Slot, Statement
from tierkeeper.monitoring.normal import normal
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import sizes
from tierkeeper.tiers.profile import Profile
from tierkeeper.tiers.space import CHUNK_BYTES_TOAST, PAGE_BYTES, Heap, Index
from tierkeeper.tiers.usage import TableSize, measure

_SQL = load("tierkeeper.monitoring", "measure.sql")
_BARE_ROW_BYTES: Final = 32  # what `heap` in space.sql says of a row of which no column's width is known


def measured(conn: Connection, tier: TierName, profile: Profile, tables: Sequence[TableName], at: datetime) -> Measured:
    """The tier as of `at`, with `tables` and the largest others. Raises LockNotAvailable where the catalogs are locked.

    A table that is locked against everybody counts as large as its catalog says.
    """
    for left in reversed(range(USAGE_TRIES)):
        try:
            with transaction(conn, isolation="repeatable read", read_only=True, lock_seconds=USAGE_LOCK_SECONDS) as cur:
                return _measured(cur, tier, profile, tables, at)
        except errors.LockNotAvailable:
            if not left:
                raise
    raise AssertionError("a try ends or raises")


def slots(conn: Connection) -> tuple[Slot, ...]:
    """The replication slots that outlive their session and keep log. It locks nothing and reads no table."""
    with catalog(conn) as cur:
        found = _slots(cur.last(_SQL["slots"]).fetchall())
    return tuple(s for s in found if not s.temporary and s.pinned_wal_bytes is not None)


def _slots(rows: Sequence[tuple[Any, ...]]) -> list[Slot]:
    return [Slot(name, kind, active, pinned, status, temporary) for name, kind, active, status, temporary, pinned in rows]


def _measured(cur: Cursor, tier: TierName, profile: Profile, tables: Sequence[TableName], at: datetime) -> Measured:
    used = measure(cur.connection, profile).used_bytes
    found, (server,), slots, (beside,) = cur.all_of(
        [
            sizes.asked("heaps", tables, at_once=True, others=USAGE_OTHER_TABLES),
            (_SQL["server"], {"apart": profile.counts != "database"}),
            (_SQL["slots"], None),
            sizes.asked("beside", at_once=True),
        ]
    )
    _, database_bytes, *counters, may_see_wal = server
    system_bytes, own_bytes = beside
    kept = _slots(slots)
    if database_bytes is None:
        database_bytes = used  # that is what its provider counts: each of its files is asked for once
    elsewhere = max(0, used - database_bytes)
    figures, details = _tables(cur, tier, found, counters[-1], at)
    wal = cur.execute(_SQL["wal"]).fetchone() if may_see_wal else None
    whole = Figures(
        tier, None, at, used, **dict(zip(("reads", "writes", "cache_hits", "cache_reads", "stats_reset"), counters, strict=True)),
        dead_bytes=sum(f.dead_bytes or 0 for f in figures.values()),
        reusable_bytes=sum(f.reusable_bytes or 0 for f in figures.values()),
        base_bytes=elsewhere + system_bytes + own_bytes,
        wal_bytes=wal[0] if wal else None,
        pinned_wal_bytes=max((s.pinned_wal_bytes or 0 for s in kept), default=0),
    )  # fmt: skip
    return Measured(whole, figures, details, database_bytes, elsewhere, system_bytes, own_bytes, kept)


def _tables(
    cur: Cursor, tier: TierName, found: Sequence[Sequence[Any]], stats_reset: datetime | None, at: datetime
) -> tuple[dict[TableName, Figures], dict[TableName, Details]]:
    """Figures of each table, from the rows of `heaps`."""
    roots = list(dict.fromkeys(TableName(schema, name) for schema, name, *_ in found))
    if not roots:
        return {}, {}
    parts: dict[TableName, list[TableName]] = {root: [] for root in roots}
    for schema, name, part_schema, part_name, has_no_rows in found:
        if not has_no_rows:
            parts[TableName(schema, name)].append(TableName(part_schema, part_name))
    heaps = list(dict.fromkeys(part for of_root in parts.values() for part in of_root))
    answers = cur.all_of(
        [
            sizes.asked("table_size", roots, at_once=True, views=True),
            sizes.asked("counters", roots, at_once=True, views=True),
            sizes.asked("heap", heaps, at_once=True, locked=True),
            sizes.asked("indexes", heaps, at_once=True),
        ]
    )
    size_of = {TableName(schema, name): TableSize(*size) for schema, name, *size in answers[0]}
    counted = {TableName(schema, name): counts for schema, name, *counts in answers[1]}
    facts = sizes.facts(answers[2], answers[3])
    figures, details = {}, {}
    for root in roots:
        if root not in size_of or root not in counted:
            continue  # it was dropped while the catalog was looked at
        size, (number, scans, by_index, inserts, updates, deletes, hits, misses, dead_rows) = size_of[root], counted[root]
        there = [facts[part] for part in parts[root] if part in facts]
        dead_bytes = int(dead_rows * _row_bytes([heap for heap, _ in there], dead_rows))
        figures[root] = Figures(
            tier, root, at, size.total_bytes, size.heap_bytes, size.toast_bytes, size.index_bytes,
            dead_bytes=dead_bytes,
            reusable_bytes=max(0, sum(reusable_bytes(heap, indexes) for heap, indexes in there) - dead_bytes),
            rows=size.rows_estimate, parts=number, reads=scans + by_index, writes=inserts + updates + deletes,
            cache_hits=hits, cache_reads=misses, stats_reset=stats_reset,
        )  # fmt: skip
        details[root] = Details(scans, by_index, inserts, updates, deletes, size.estimated)
    return figures, details


def _row_bytes(heaps: Sequence[Heap], dead_rows: int) -> float:
    """What a row takes on average, by the planner's statistics; where there are none, its share of the pages."""
    known = [heap for heap in heaps if heap.live_rows and heap.row_bytes > _BARE_ROW_BYTES]
    if known:
        return sum(heap.live_rows * heap.row_bytes for heap in known) / sum(heap.live_rows for heap in known)
    rows = sum(heap.live_rows for heap in heaps) + dead_rows
    return sum(heap.pages for heap in heaps) * PAGE_BYTES / rows if rows else 0.0


def reusable_bytes(heap: Heap, indexes: Sequence[Index]) -> int:
    """What of a table's files holds no live row and would be gone if they were written anew: an estimate from statistics. Pure.

    Of a table that was never analysed nobody knows: that is 0.
    """
    if not heap.live_rows or heap.row_bytes <= _BARE_ROW_BYTES:
        return 0  # never analysed, or empty and about to be cut: nothing to reckon with
    free = heap.pages * PAGE_BYTES - heap.lean_pages * PAGE_BYTES
    toast = max(0, heap.toast_bytes - heap.toast_chunks * CHUNK_BYTES_TOAST) if heap.toast_chunks else 0
    share = heap.lean_pages / heap.pages if heap.pages else 1.0
    return (
        free + toast + sum(max(0, i.size_bytes - i.lean_bytes(share)) for i in indexes if i.entry_bytes is not None and i.entries)
    )


def statements(conn: Connection) -> list[Statement] | None:
    """Those that took the most time, without any value in them; None where pg_stat_statements is not there or not for us."""
    try:
        with transaction(conn, read_only=True, lock_seconds=USAGE_LOCK_SECONDS) as cur:
            where = cur.execute(_SQL["statements_where"]).fetchone()
            if where is None:
                return None
            schema, has_new_names = where
            asked = _SQL["statements"].format(
                view=sql.Identifier(schema, "pg_stat_statements"),
                seconds=sql.Identifier("total_exec_time" if has_new_names else "total_time"),
            )
            rows = cur.execute(asked, {"limit": SLOW_STATEMENTS}).fetchall()
    except (errors.ObjectNotInPrerequisiteState, errors.InsufficientPrivilege, errors.LockNotAvailable, psycopg.ProgrammingError):
        return None  # it is not loaded, or not for us
    return [Statement(normal(text, SLOW_TEXT), calls, seconds, n) for text, calls, seconds, n in rows]
