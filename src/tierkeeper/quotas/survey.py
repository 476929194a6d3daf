"""Finds out what lies at which age in which tier, from what the servers know anyway: it reads no row of a user's table.

Sources: the planner's statistics of the age column, the counters of rows, the sizes of tables, the catalog of segments.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from tierkeeper.kernel.policy import TIERS, TablePolicy
from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.ports import ScanSegment
from tierkeeper.kernel.series import Sample
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.watching import History
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import Connection
from tierkeeper.quotas.ages import Ages, ages
from tierkeeper.quotas.change import bounds, cutoffs_of
from tierkeeper.quotas.cost import month_of
from tierkeeper.quotas.growth import DAY, growth
from tierkeeper.quotas.outlook import series
from tierkeeper.quotas.stock import Asked, Slice, Stock, World
from tierkeeper.quotas.stock import sent as moves
from tierkeeper.tiers.ask import ask_all
from tierkeeper.tiers.tier import Tier
from tierkeeper.tiers.usage import TableSize, measure, table_size

ROW_BYTES: Final = 200.0  # an ordinary row with its index, where no tier has enough of them to tell
FEW_ROWS: Final = 100  # of which the pages of a table and its indexes tell nothing about a row
ARCHIVED_SHARE: Final = 0.3  # of a row's bytes at Main is what it takes in a segment, where none is written yet
RECENT_DAYS: Final = 14.0  # whose rows show how many come in a day, where no history does
PACE_DAYS: Final = 7.0  # of a month from which on its own pace tells more of it than the month before
UNKNOWN_DAYS: Final = 365.0  # over which rows are spread of whose ages nothing is known and which no cutoff ends

Segments = Callable[[Connection, Sequence[TableName]], Mapping[TableName, Sequence[ScanSegment]]]
"""The segments that count, by table, from the catalog."""


@dataclass(frozen=True)
class _Table:
    """What a Postgres tier knows of one table."""

    size: TableSize | None
    ages: Ages | None


@dataclass(frozen=True)
class _Seen:
    used_bytes: int
    tables: Mapping[TableName, _Table] = field(default_factory=dict)
    segments: Mapping[TableName, Sequence[ScanSegment]] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """The world, and what about it is a guess."""

    world: World
    notes: list[str]


def survey(
    tiers: Mapping[TierName, Tier],
    policies: Sequence[TablePolicy],
    *,
    store_bytes: Callable[[], int],
    segments: Segments,
    asked: Mapping[TableName, Asked],
    history: History | None,
    now: datetime,
    start_at: float,
) -> Survey:
    """Looks at all tiers. Raises NotNow where one of them is away: half of a proposal would be none."""
    dated = [p for p in policies if p.mode == "move" and p.age is not None]

    def look(name: str, conn: Connection) -> _Seen:
        if name == "archive":
            return _Seen(0, segments=segments(conn, [p.name for p in dated]))
        return _Seen(measure(conn, tiers[name].profile).used_bytes, _tables(conn, dated))  # type: ignore[index]

    with looking(p.name for p in dated):
        seen, away = ask_all({str(n): t.link for n, t in tiers.items()}, look, "usage")
    if away:
        raise next(iter(away.values()))
    stored, notes = store_bytes(), list[str]()
    archived = sum(s.rows for some in seen["archive"].segments.values() for s in some)
    per_row = stored / archived if archived else None
    stocks = tuple(_stock(p, seen, per_row, now, notes) for p in dated)
    measured: tuple[TierName, ...] = ("core", "main")
    pasts = {t: series(history, t, now) for t in measured}
    past = pasts["core"]
    stocks = tuple(
        replace(s, rows_per_day=_rows_per_day(s, past.get(s.name, ()), now), asked=asked.get(s.name, Asked())) for s in stocks
    )
    used: dict[TierName, float] = {"core": seen["core"].used_bytes, "main": seen["main"].used_bytes, "archive": stored}
    own = {t: _managed(t, seen) for t in TIERS}
    own["archive"] = float(stored) if archived else 0.0
    world = World(
        stocks,
        {t: max(0.0, used[t] - own[t]) for t in TIERS},
        {t: tiers[t].quota_bytes for t in TIERS},
        {t: tiers[t].price for t in TIERS},
        start_at,
        {t: _others_per_day(some, [p.name for p in dated], now) for t, some in pasts.items()},
    )
    return Survey(replace(world, egress=_egress_left(tiers, world, history, now)), notes)


def _tables(conn: Connection, policies: Sequence[TablePolicy]) -> dict[TableName, _Table]:
    known = ages(conn, policies)
    return {p.name: _Table(table_size(conn, p.name), known.get(p.name)) for p in policies}


def _managed(tier: TierName, seen: Mapping[str, _Seen]) -> float:
    return float(sum(t.size.total_bytes for t in seen[tier].tables.values() if t.size is not None))


def _stock(policy: TablePolicy, seen: Mapping[str, _Seen], per_row: float | None, now: datetime, notes: list[str]) -> Stock:
    cutoffs = cutoffs_of(policy, now)
    found: list[Slice] = []
    undated = 0.0
    tiers: list[tuple[TierName, float, float]] = [
        ("core", 0.0, float(cutoffs.core or UNKNOWN_DAYS)),
        ("main", float(cutoffs.core or 0.0), float(cutoffs.main or UNKNOWN_DAYS)),
    ]
    for tier, low, high in tiers:
        one = seen[tier].tables[policy.name]
        if one.size is None or one.size.rows_estimate <= 0:
            continue
        rows, undated_share = one.size.rows_estimate, one.ages.undated if one.ages is not None else 0.0
        undated += rows * undated_share if tier == "core" else 0.0
        known = list(_known(one.ages, rows, now, tier)) if one.ages is not None else []
        if not known:
            notes.append(f"{tier} has no statistics of {policy.name}.{policy.age}, so its ages are guessed: ANALYZE it there")
            known = [Slice(low, max(high, low + 1.0), rows * (1 - undated_share), tier)]
        found += known
    found += [_of_segment(s, now) for s in seen["archive"].segments.get(policy.name, ())]
    main = _row_bytes(seen["main"].tables[policy.name].size)
    core = _row_bytes(seen["core"].tables[policy.name].size) or main or ROW_BYTES
    main = main or core
    row_bytes: dict[TierName, float] = {"core": core, "main": main, "archive": per_row or ARCHIVED_SHARE * main}
    return Stock(policy.name, cutoffs, tuple(found), row_bytes, undated_rows=undated, bounds=bounds(policy, now))


def _known(ages: Ages, rows: float, now: datetime, tier: TierName) -> Iterable[Slice]:
    """Slices from the planner's statistics."""
    at = now.timestamp()
    for since, until, share in ages.shares:
        low = (at - until) / DAY
        yield Slice(low, max((at - since) / DAY, low + 1 / 24), rows * share, tier)


def _of_segment(segment: ScanSegment, now: datetime) -> Slice:
    low = (now - segment.max_age) / timedelta(days=1) if segment.max_age is not None else 0.0
    high = (now - segment.min_age) / timedelta(days=1) if segment.min_age is not None else low + UNKNOWN_DAYS
    return Slice(low, max(high, low + 1 / 24), segment.rows, "archive")


def _row_bytes(size: TableSize | None) -> float | None:
    if size is None or size.rows_estimate < FEW_ROWS:
        return None
    return size.total_bytes / size.rows_estimate


def _rows_per_day(stock: Stock, past: Sequence[Sample], now: datetime) -> float:
    """By the growth of the table in Core where a history tells it, else by how many rows are young."""
    found = growth(past, now)
    if found is not None and found.active_days >= RECENT_DAYS and found.rate > 0:
        return found.rate / stock.row_bytes["core"]
    newest = min((s.low_days for s in stock.slices), default=0.0)
    if newest > RECENT_DAYS:
        return 0.0
    days = min(RECENT_DAYS, max(1.0, stock.oldest_days))
    return (stock.younger(days) - stock.younger(0.0)) / days


def _others_per_day(past: Mapping[TableName | None, Sequence[Sample]], dated: Sequence[TableName], now: datetime) -> float:
    """By how many bytes a day what no cutoff moves has grown; nothing where no history of two weeks tells it."""
    tables = [{one.at: one.bytes for one in past[name]} for name in dated if name in past]
    whole = [one for one in past.get(None, ()) if all(one.at in table for table in tables)]
    found = growth([Sample(one.at, max(0, one.bytes - sum(table[one.at] for table in tables))) for one in whole], now)
    return max(0.0, found.rate) if found is not None and found.active_days >= RECENT_DAYS else 0.0


def _egress_left(tiers: Mapping[TierName, Tier], world: World, history: History | None, now: datetime) -> dict[TierName, float]:
    """What moves may send in a month of each tier that may not go beyond its provider's budget: less what is sent besides.

    That is what was sent in the last month, or is at this one's pace, less what the moves by the cutoffs of now send.
    """
    left: dict[TierName, float] = {}
    start, end = month_of(now)
    before = (start - timedelta(days=1)).date()
    for name, tier in tiers.items():
        budget = tier.profile.egress_bytes_per_month
        if name == "archive" or budget is None or tier.price.egress_per_gb is not None:
            continue
        sent = (history.egress(name, before) or 0) if history is not None else 0
        if history is not None and (now - start) / timedelta(days=1) >= PACE_DAYS:
            sent = int((history.egress(name, now.date()) or 0) * ((end - start) / (now - start)))
        moved = sum(moves(one, one.now)[name] for one in world.stocks)
        left[name] = budget - max(0.0, sent - moved)
    return left


def with_days(asked: Mapping[int, int], everything: int, days: float) -> Asked:
    """What the log of asked ages has of a table."""
    return Asked(tuple((float(oldest), count) for oldest, count in sorted(asked.items())), everything, max(1.0, days))
