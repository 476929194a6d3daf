"""What lies at which age, and where it would lie under other cutoffs. Pure: ages are days before the instant of the look.

It is made from what the servers know anyway (statistics, counters, the catalog of segments), never from a scan.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import inf
from typing import Final

from tierkeeper.kernel.policy import TIERS, Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.tiers.price import Price

PLAN_DAYS: Final = 30.0  # a proposal has to keep to the quotas for so long, and its cost is that of so long
LOOKS: Final = (0.0, 10.0, 20.0, 30.0)  # days ahead at which the tiers are weighed
HORIZON_DAYS: Final = 3_650
EDGE_DAYS: Final = 1.0  # to which the age is known at which rows have left a tier: asked ages are whole days
GB: Final = 1e9


@dataclass(frozen=True)
class Slice:
    """Rows of a tier whose ages lie in [low_days, high_days), evenly."""

    low_days: float
    high_days: float
    rows: float
    tier: Tier = "core"


@dataclass(frozen=True)
class Cutoffs:
    """Rows older than `core` leave Core, older than `main` leave Main, in days; None: they stay."""

    core: int | None
    main: int | None

    @property
    def ends(self) -> tuple[float, float]:
        """The ages as numbers: what never leaves Core never leaves Main either."""
        core = inf if self.core is None else float(self.core)
        return core, max(core, inf if self.main is None else float(self.main))


@dataclass(frozen=True)
class Bounds:
    """What a table's entry asks of its cutoffs, in days: no less than `core` and `main`, in Main no more than `archive`."""

    core: int = 0
    main: int = 0
    archive: int | None = None

    def fault(self, cutoffs: Cutoffs) -> tuple[str, int] | None:
        """The key that refuses `cutoffs`, and its days; None: they may be written."""
        if cutoffs.core is not None and cutoffs.core < self.core:
            return "core_min", self.core
        if cutoffs.main is not None and cutoffs.main < self.main:
            return "main_min", self.main
        if cutoffs.main is not None and self.archive is not None and cutoffs.main > self.archive:
            return "archive", self.archive
        return None


@dataclass(frozen=True)
class Asked:
    """How often a table was read, by the oldest age that was asked for: `oldest_days` and a count each.

    `everything`: reads without a bound, which no cutoff keeps in Core. `days`: in how many days that was.
    """

    reads: tuple[tuple[float, int], ...] = ()
    everything: int = 0
    days: float = 1.0

    @property
    def total(self) -> int:
        return sum(n for _, n in self.reads)

    def within(self, days: float) -> int:
        """Reads of no row older than `days`."""
        return sum(n for oldest, n in self.reads if oldest <= days)


@dataclass(frozen=True)
class Stock:
    """One table over all tiers. `undated_rows` have no age and stay in Core; `row_bytes` is what a row takes in each tier.

    A row that lies deeper than its age asks, since it left early or the cutoff was shorter, stays there: none ever comes back.
    """

    name: TableName
    now: Cutoffs
    slices: tuple[Slice, ...]
    row_bytes: Mapping[Tier, float]
    rows_per_day: float = 0.0
    undated_rows: float = 0.0
    bounds: Bounds = field(default_factory=Bounds)
    asked: Asked = field(default_factory=Asked)

    @cached_property
    def _edges(self) -> tuple[tuple[list[float], list[float]], ...]:
        """Of the rows in Core, in Core or Main, and anywhere: ages in order, and how many are younger than each."""
        return tuple(self._edges_of(TIERS[: depth + 1]) for depth in range(len(TIERS)))

    def _edges_of(self, tiers: Sequence[Tier]) -> tuple[list[float], list[float]]:
        slices = [s for s in self.slices if s.tier in tiers]
        edges = sorted({e for s in slices for e in (s.low_days, s.high_days)})
        density = [0.0] * (len(edges) + 1)
        at = {edge: i for i, edge in enumerate(edges)}
        for s in slices:
            per_day = s.rows / (s.high_days - s.low_days)
            density[at[s.low_days]] += per_day
            density[at[s.high_days]] -= per_day
        steps = list(accumulate(density))
        counts = [0.0, *accumulate(steps[i] * (edges[i + 1] - edges[i]) for i in range(len(edges) - 1))]
        return edges, counts

    @property
    def oldest_days(self) -> float:
        return max((s.high_days for s in self.slices), default=0.0)

    def whole(self, cutoffs: Cutoffs, ahead_days: float) -> tuple[float, float]:
        """The ages up to which Core has every row under `cutoffs`, `ahead_days` from now, and up to which Core and Main have."""
        left = [min((s.low_days for s in self.slices if s.tier in TIERS[depth:]), default=inf) for depth in (1, 2)]
        core, main = (min(end, low + EDGE_DAYS + ahead_days) for end, low in zip(cutoffs.ends, left, strict=True))
        return core, main

    def younger(self, days: float, depth: int = -1) -> float:
        """Rows that are younger than `days` now; `depth` 0: of those in Core, 1: in Core or Main, else anywhere."""
        edges, counts = self._edges[depth]
        if not edges or days <= edges[0]:
            return 0.0
        if days >= edges[-1]:
            return counts[-1]
        i = bisect_right(edges, days) - 1
        return counts[i] + (counts[i + 1] - counts[i]) * (days - edges[i]) / (edges[i + 1] - edges[i])

    def bytes_at(self, cutoffs: Cutoffs, ahead_days: float) -> tuple[float, float, float]:
        """Bytes in Core, Main and the archive under `cutoffs`, `ahead_days` from now."""
        core, main = cutoffs.ends
        young, middle, old = (self._younger(end, ahead_days, depth) for depth, end in enumerate((core, main, inf)))
        rows = (young + self.undated_rows, middle - young, old - middle)
        return tuple(r * self.row_bytes[t] for r, t in zip(rows, TIERS, strict=True))  # type: ignore[return-value]

    def _younger(self, days: float, ahead: float, depth: int) -> float:
        """Rows that will be younger than `days`: those that come until then, and those of now that will not be too old."""
        return self.rows_per_day * max(0.0, min(days, ahead)) + self.younger(days - ahead, depth)


@dataclass(frozen=True)
class World:
    """All tables that can be told apart by age, and the tiers.

    `others` is what lies there besides, which grows by `others_per_day` bytes. `egress`: what the moves of a month may send of
    what its provider allows, in bytes, for the tiers that may not go beyond that.
    """

    stocks: tuple[Stock, ...]
    others: Mapping[Tier, float]
    quotas: Mapping[Tier, int]
    prices: Mapping[Tier, Price]
    start_at: float
    others_per_day: Mapping[Tier, float] = field(default_factory=dict)
    egress: Mapping[Tier, float] = field(default_factory=dict)

    def limit(self, tier: Tier) -> float:
        return self.start_at * self.quotas[tier]

    def others_at(self, tier: Tier, ahead_days: float) -> float:
        """What lies in a tier besides, so many days from now."""
        return self.others[tier] + self.others_per_day.get(tier, 0.0) * ahead_days

    def room(self, tier: Tier) -> float:
        """What the tables may take of a tier through the month."""
        return self.limit(tier) - self.others_at(tier, PLAN_DAYS)


def cost_of(stock: Stock, cutoffs: Cutoffs, prices: Mapping[Tier, Price]) -> float:
    """What a table costs a month under `cutoffs`: its storage, what its rows' moves send, what its readers ask below Core."""
    looks = [stock.bytes_at(cutoffs, ahead) for ahead in LOOKS]
    storage = sum(
        sum(look[k] for look in looks) / len(looks) / GB * prices[tier].storage_per_gb_month for k, tier in enumerate(TIERS)
    )
    core, main = cutoffs.ends
    leaves: list[tuple[Tier, float]] = [("core", core), ("main", main)]
    moved = stock.rows_per_day * PLAN_DAYS / GB
    sent = sum(moved * stock.row_bytes[t] * (prices[t].egress_per_gb or 0.0) for t, end in leaves if end < inf)
    monthly = PLAN_DAYS / max(1.0, stock.asked.days)
    reached = [scans(stock.asked, stock.whole(cutoffs, ahead)) for ahead in LOOKS]
    asked = sum(sum(one[t] for one in reached) / len(reached) * prices[t].requests_per_million for t in TIERS)
    return storage + sent + asked * monthly / 1e6


def scans(asked: Asked, whole: tuple[float, float]) -> Mapping[Tier, int]:
    """How many scans reach each tier: those that allow older rows than the one above has `whole`, and those without a bound."""
    core, main = whole
    total = asked.total + asked.everything
    return {"core": total, "main": total - asked.within(core), "archive": total - asked.within(main)}


def peak(stock: Stock, cutoffs: Cutoffs) -> tuple[float, ...]:
    """The most that it takes of each tier within the month."""
    looks = [stock.bytes_at(cutoffs, ahead) for ahead in LOOKS]
    return tuple(max(look[k] for look in looks) for k in range(len(TIERS)))


def sent(stock: Stock, cutoffs: Cutoffs) -> Mapping[Tier, float]:
    """Bytes that its moves have the tiers send within the month, with those that leave at once by shorter cutoffs.

    Main sends each row that comes, too: it is read back and compared before it is deleted above.
    """
    now, then = (
        [size / stock.row_bytes[tier] for size, tier in zip(stock.bytes_at(ends, ahead), TIERS, strict=True)]
        for ends, ahead in ((stock.now, 0.0), (cutoffs, PLAN_DAYS))
    )
    down = max(0.0, then[1] + then[2] - now[1] - now[2])
    further = max(0.0, then[2] - now[2])
    return {"core": down * stock.row_bytes["core"], "main": (down + further) * stock.row_bytes["main"]}


def days_to_full(world: World, chosen: Mapping[TableName, Cutoffs], tier: Tier) -> float | None:
    """Days until a tier reaches its quota; None: not within ten years."""
    k = TIERS.index(tier)

    def used(ahead: float) -> float:
        return world.others_at(tier, ahead) + sum(s.bytes_at(chosen[s.name], ahead)[k] for s in world.stocks)

    quota, low = world.quotas[tier], 0.0
    if used(0.0) >= quota:
        return 0.0
    for high in range(14, HORIZON_DAYS + 14, 14):
        if used(high) >= quota:
            while high - low > 0.5:  # noqa: PLR2004 - half a day is what it is known to at best
                middle = (low + high) / 2
                low, high = (low, middle) if used(middle) >= quota else (middle, high)  # type: ignore[assignment] # noqa: PLW2901
            return round(float(high), 1)
        low = float(high)
    return None
