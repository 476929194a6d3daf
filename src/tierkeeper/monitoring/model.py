"""What is measured of a tier and its tables, and what follows from measuring twice. Pure: no driver, no clock, no environment."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the history: a tier (`table` is None), or a table in it, at an instant. None: not known, or there is none.

    `bytes` is what the provider counts of a tier, and all that a table takes; at the archive what the store holds. `base_bytes`
    of that is none of the application's tables'; at the archive it is its catalog's database, which does not count.
    `dead_bytes` are deleted rows' that no VACUUM has met, `reusable_bytes` an estimate of what is free within the files.
    `reads`, `writes` (rows), `cache_hits` and `cache_reads` (pages) only grow until the statistics are reset. `parts` are the
    heaps that they are sums over, at the archive segments. `pinned_wal_bytes` is what the furthest slot keeps.
    """

    tier: Tier
    table: TableName | None
    at: datetime
    bytes: int
    heap_bytes: int | None = None
    toast_bytes: int | None = None
    index_bytes: int | None = None
    dead_bytes: int | None = None
    reusable_bytes: int | None = None
    rows: int | None = None
    parts: int | None = None
    reads: int | None = None
    writes: int | None = None
    cache_hits: int | None = None
    cache_reads: int | None = None
    stats_reset: datetime | None = None
    base_bytes: int | None = None
    wal_bytes: int | None = None
    pinned_wal_bytes: int | None = None


VALUES: Final = tuple(f.name for f in fields(Figures))[2:]
"""The columns that a sample has beside its tier and table, in order."""
_COUNT_MAX: Final = 2**63
_INSTANTS: Final = frozenset(("at", "stats_reset"))


def to_line(figures: Figures) -> list[Any]:
    """As JSON carries it: tier, schema and table ("" for a tier's own), then the values in order."""
    table = figures.table or TableName("", "")
    values = [getattr(figures, name) for name in VALUES]
    return [figures.tier, table.schema, table.name, *(v.isoformat() if isinstance(v, datetime) else v for v in values)]


def from_line(line: Sequence[Any]) -> Figures:
    """What `to_line` made. Raises ValueError or TypeError for anything else: Main would refuse it, and all that wait with it."""
    tier, schema, name, *values = line
    if tier not in ("core", "main", "archive") or len(values) != len(VALUES) or "\0" in schema + name:
        raise ValueError("this is no sample")
    (schema + name).encode()
    named = dict(zip(VALUES, values, strict=True))
    if not isinstance(named["at"], str) or any(
        not _is_count(v) for k, v in named.items() if k not in _INSTANTS and (v is not None or k == "bytes")
    ):
        raise ValueError("this is no sample")
    read: dict[str, Any] = {k: _instant(v) if k in _INSTANTS and v is not None else v for k, v in named.items()}
    return Figures(tier, TableName(schema, name) if name else None, **read)


def _instant(value: str) -> datetime:
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except OverflowError:  # at the ends of the calendar
        raise ValueError("this is no sample") from None


def _is_count(value: object) -> bool:
    """Whether a column of Main's takes it."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _COUNT_MAX


@dataclass(frozen=True, slots=True)
class Activity:
    """What was done to a table, or in a tier's database (`table` is None), on a day (UTC): rows and pages."""

    tier: Tier
    table: TableName | None
    day: date
    reads: int
    writes: int
    cache_hits: int
    cache_reads: int


_COUNTERS: Final = ("reads", "writes", "cache_hits", "cache_reads")


def grown(before: Figures, after: Figures) -> dict[str, int]:
    """By how much each counter grew from one sample to the next of the same thing.

    One that fell was reset, and so were all of them where the server says so: what they show now came since. Where none fell,
    what the server says was of another table: it tells the database's last reset, of whatever. But where a partition went, and
    nothing was reset, its share went along: how much was added meanwhile nobody knows, and it counts as nothing.
    """
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in _COUNTERS}
    known = {name: (b, a) for name, (b, a) in pairs.items() if b is not None and a is not None}
    was_reset = before.stats_reset != after.stats_reset and any(a < b for b, a in known.values())
    lost_part = not was_reset and before.parts is not None and after.parts is not None and after.parts < before.parts
    found = dict.fromkeys(_COUNTERS, 0)
    for name, (b, a) in known.items():
        found[name] = max(0, a - b) if lost_part else a if was_reset or a < b else a - b
    return found


def activity(samples: Iterable[Figures]) -> list[Activity]:
    """What was done on each day, from samples of any tiers and tables, each's in the order of time.

    What grew between two days is shared out by the time that it had on each.
    """
    last: dict[tuple[Tier, TableName | None], Figures] = {}
    sums: dict[tuple[Tier, TableName | None, date], dict[str, int]] = {}
    for sample in samples:
        if sample.reads is None and sample.writes is None:
            continue
        thing = (sample.tier, sample.table)
        if thing in last and sample.at > last[thing].at:
            delta = grown(last[thing], sample)
            for day, shares in _by_day(last[thing].at, sample.at, delta):
                into = sums.setdefault((*thing, day), dict.fromkeys(_COUNTERS, 0))
                for name, share in shares.items():
                    into[name] += share
        last[thing] = sample
    ordered = sorted(sums.items(), key=lambda one: (one[0][0], str(one[0][1] or ""), one[0][2]))
    return [Activity(tier, table, day, **counted) for (tier, table, day), counted in ordered]


def last_active(samples: Iterable[Figures]) -> datetime | None:
    """When a row of some table was seen to have been read or written last, else the first sample's instant; None without any.

    Samples are each table's in the order of time. What the tier's own count says is none of it: whoever only looks is in that.
    """
    last: dict[tuple[Tier, TableName], Figures] = {}
    first: datetime | None = None
    found: datetime | None = None
    for sample in samples:
        if sample.table is None or (sample.reads is None and sample.writes is None):
            continue
        before = last.get(thing := (sample.tier, sample.table))
        if before is not None and any(grown(before, sample)[name] for name in ("reads", "writes")):
            found = max(found or sample.at, sample.at)
        first = min(first or sample.at, sample.at)
        last[thing] = sample
    return found or first


def _by_day(begin: datetime, end: datetime, delta: Mapping[str, int]) -> Iterator[tuple[date, dict[str, int]]]:
    """`delta` shared out over the days (UTC) of a span; the shares add up to it."""
    whole, at, given = (end - begin).total_seconds(), begin, dict.fromkeys(delta, 0)
    while at < end:
        midnight = datetime(at.year, at.month, at.day, tzinfo=UTC) + timedelta(days=1)
        until = min(midnight, end)
        share = {name: int(n * (until - begin).total_seconds() / whole) if until < end else n for name, n in delta.items()}
        yield at.date(), {name: n - given[name] for name, n in share.items()}
        at, given = until, share


@dataclass(frozen=True)
class Slot:
    """A replication slot; `pinned_wal_bytes` is the log that the server keeps for its reader, None where it keeps none.

    A `temporary` one goes with its session.
    """

    name: str
    kind: str
    active: bool
    pinned_wal_bytes: int | None
    wal_status: str | None = None
    temporary: bool = False


@dataclass(frozen=True)
class Statement:
    """A statement without any value in it, and what it has cost since the statistics began."""

    text: str
    calls: int
    seconds: float
    rows: int


@dataclass(frozen=True)
class Details:
    """What the history does not keep of a table: its counters. `estimated`: it was locked, and its size is an older one."""

    scan_reads: int = 0
    index_reads: int = 0
    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    estimated: bool = False


@dataclass(frozen=True)
class Measured:
    """A tier at one instant: what the history keeps, and what is only told. `tier` is None where the store is away."""

    tier: Figures | None
    tables: Mapping[TableName, Figures]
    details: Mapping[TableName, Details] = field(default_factory=dict)
    database_bytes: int = 0
    other_databases_bytes: int = 0
    system_bytes: int = 0
    own_bytes: int = 0
    slots: Sequence[Slot] = ()
    statements: Sequence[Statement] | None = None

    @property
    def samples(self) -> list[Figures]:
        """What the history keeps."""
        return [*([] if self.tier is None else [self.tier]), *self.tables.values()]
