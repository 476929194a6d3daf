"""Segments as a scan sees them: their columns as they are called and typed today, without rows whose key was used again.

It reads what it is given; which segments count is not decided here.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from tierkeeper.kernel.history import Chosen, choose
from tierkeeper.kernel.limits import KEYS_FETCHED
from tierkeeper.kernel.ports import ScanSegment, SegmentContent
from tierkeeper.kernel.tables import Column, TableName, TableShape
from tierkeeper.postgres import keyed
from tierkeeper.postgres.statements import load
from tierkeeper.query.history import ages_of
from tierkeeper.query.model import AgeRange, Scan
from tierkeeper.query.reused import Reused, Tier, own_conditions

if TYPE_CHECKING:
    import pyarrow as pa

_SQL = load("tierkeeper.query", "query.sql")
_INTEGERS: Final = ("int2", "int4", "int8")
_TIMES: Final = ("date", "timestamp", "timestamptz")
_BYTEWISE: Final = (None, 'pg_catalog."C"', 'pg_catalog."POSIX"')


@dataclass
class Segments:
    """One scan's segments.

    I2: a row of the archive whose key a row has that counts in Core or at Main does not count.
    """

    scan: Scan
    reused: Reused
    _extremes: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # of the key's first column, by tier

    def may_match(self, segment: ScanSegment) -> bool:
        """Whether the segment can have rows of ages that matter."""
        ours = ages_of(self.scan, segment.age, self.reused.followed.get(self.scan.table))
        return not ours or self.scan.ages.meets(segment.min_age, segment.max_age)

    def rows(self, content: SegmentContent, segment: ScanSegment) -> Iterator["pa.RecordBatch"]:
        """The segment's rows that count, with the columns of the scan and more."""
        from tierkeeper.query.values import converted

        table, names = self.scan.table, [c.name for _, c in self.scan.columns]
        known, main = self.reused.followed.get(table), self.reused.main_tables.get(table)
        place = f"segment {segment.id} of {table}"
        columns = {n: choose(n, content.shape, main or content.shape, known, place) for n in names}
        above = self._above(content, segment)
        wanted = {**columns, **above.key} if above is not None else columns
        read = list(dict.fromkeys(c.column for c in wanted.values() if c.column is not None)) or [content.shape.key[0]]
        ages = self.scan.ages if ages_of(self.scan, segment.age, known) else AgeRange()
        for batch in content.batches(read, ages.low, ages.high):
            today = converted(batch, list(wanted), list(wanted.values())) if wanted else batch
            yield today if above is None else today.filter(above.counting(today))

    def _above(self, content: SegmentContent, segment: ScanSegment) -> "_Above | None":
        """The rows above that may have a key of the segment's; None where none can: no row has a key without this column."""
        table, shape = self.scan.table, self.reused.shapes[self.scan.table]
        known, main = self.reused.followed.get(table), self.reused.main_tables.get(table)
        place = f"segment {segment.id} of {table}"
        key = {k: choose(k, content.shape, main or content.shape, known, place) for k in shape.key}
        if any(c.column is None for c in key.values()):
            return None
        bounds = {k: content.bounds(c.column) for k, c in key.items() if c.column and c.how.conversion in ("same", "number")}
        above = _Above(key, shape)
        for name, tier, at_tier in self.reused.tiers(table):
            if self._apart(name, tier, at_tier, bounds.get(shape.key[0])):
                continue
            box: list[sql.Composable] = [tier.counting(table), own_conditions(shape, [self.scan])]
            box += [keyed.between(at_tier, *b, at=shape.key.index(k)) for k, b in bounds.items() if b is not None]
            where = sql.SQL(" AND ").join(box)
            [(rows,)] = self.reused.ask(tier, _SQL["count"].format(table=_qualified(table), where=where, most=KEYS_FETCHED + 1))
            if rows:
                above.tiers.append(_Candidates(self.reused, tier, at_tier, where, few=rows <= KEYS_FETCHED))
        return above if above.tiers else None

    def _apart(self, name: str, tier: Tier, shape: TableShape, bounds: tuple[str, str] | None) -> bool:
        """Whether the tier's keys all lie before or behind those of a segment."""
        first = shape.column(shape.key[0])
        if bounds is None or first is None or first.base not in (*_INTEGERS, "uuid"):
            return False
        value: Callable[[str], Any] = int if first.base in _INTEGERS else str
        if name not in self._extremes:
            asked = keyed.extremes(shape, _qualified(shape.name))
            self._extremes[name] = self.reused.ask(tier, asked)[0] if asked is not None else (None, None)
        low, high = self._extremes[name]
        if low is None:
            return True
        return bool(value(high) < value(bounds[0]) or value(low) > value(bounds[1]))


@dataclass(frozen=True)
class _Candidates:
    """The rows of one tier that hold for `where`. A `few` are fetched; of more the tier is asked for each key of the segment."""

    reused: Reused
    tier: Tier
    shape: TableShape
    where: sql.Composed
    few: bool

    def fetched(self, times: Sequence[bool]) -> "pa.Array":
        """Their keys, in the form of `_identity`; those of `times` as microseconds."""
        import pyarrow as pa

        columns = [_shown(k, is_time=is_time) for k, is_time in zip(self.shape.key, times, strict=True)]
        query = _SQL["fetch"].format(key=sql.SQL(", ").join(columns), table=_qualified(self.shape.name), where=self.where)
        rows = self.reused.ask(self.tier, query)
        return _identity([pa.array([r[i] for r in rows], pa.string()) for i in range(len(columns))])

    def has(self, keys: Sequence[str]) -> set[int]:
        """The places of those of `keys`, JSON arrays of text forms, that are there."""
        query = _SQL["keys_at"].format(
            keys=keyed.listed(keys),
            table=_qualified(self.shape.name),
            same=keyed.same(self.shape),
            where=self.where,
        )
        return {int(r[0]) - 1 for r in self.reused.ask(self.tier, query)}


@dataclass
class _Above:
    """What the upper tiers may have of one segment's keys."""

    key: Mapping[str, Chosen]
    shape: TableShape
    tiers: list[_Candidates] = field(default_factory=list)
    _fetched: list["pa.Array"] | None = None

    def counting(self, rows: "pa.RecordBatch") -> "pa.Array":
        """Which of `rows` have a key that no row above has."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = [rows.column(k) for k in self.key]
        is_plain = all(_is_plain(self.shape.column(k)) for k in self.key)
        if self._fetched is None:
            times = [pa.types.is_temporal(c.type) for c in columns]
            self._fetched = [one.fetched(times) for one in self.tiers if one.few and is_plain]
        above = pa.array([False] * rows.num_rows)
        identity = _identity([_as_text(c) for c in columns]) if self._fetched else None
        for keys in self._fetched:
            above = pc.or_(above, pc.is_in(identity, value_set=keys))
        asking = [one for one in self.tiers if not (one.few and is_plain)]
        if asking:
            texts = [json.dumps(list(key)) for key in zip(*(_readable(c) for c in columns), strict=True)]
            there = set[int]().union(*(one.has(texts) for one in asking))
            above = pc.or_(above, pa.array([i in there for i in range(rows.num_rows)]))
        return pc.invert(above)


def _is_plain(column: Column | None) -> bool:
    """Whether two values of the column are equal just where their texts are."""
    if column is None:
        return False
    if column.base in ("text", "varchar"):
        return column.collation in _BYTEWISE
    return column.base in (*_INTEGERS, *_TIMES, "uuid")


def _shown(key: str, *, is_time: bool) -> sql.Composed:
    """A key's column as text; a time that a segment has as a number, as microseconds since 1970. An infinite one is in none."""
    text = "concat(t.{0})"
    if is_time:
        text = "CASE WHEN isfinite(t.{0}) THEN (extract(epoch FROM t.{0}) * 1000000)::numeric(30)::text ELSE '' END"
    return sql.SQL(text).format(sql.Identifier(key))


def _as_text(array: "pa.Array") -> "pa.Array":
    """An archived column as `_shown` shows it."""
    import pyarrow as pa

    if pa.types.is_temporal(array.type):
        array = array.cast(pa.timestamp("us", getattr(array.type, "tz", None))).cast(pa.int64())
    return array.cast(pa.string())


def _readable(array: "pa.Array") -> list[str]:
    """An archived column as texts that Postgres reads, in a session whose zone is UTC."""
    import pyarrow as pa

    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz)).cast(pa.timestamp("us"))
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.string())
    return [str(v) for v in array.to_pylist()]


def _identity(columns: Sequence["pa.Array"]) -> "pa.Array":
    """One text for each row, the same for the same texts of `columns` alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(columns) == 1:
        return columns[0]
    parts = [p for c in columns for p in (pc.binary_length(c).cast(pa.string()), c)]
    return pc.binary_join_element_wise(*parts, ":")


def _qualified(table: TableName) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)
