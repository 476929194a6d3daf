"""When a tier will be full, from its history: pure, the same for the same history.

It tells a range and how far to trust it, and says so where the history is too short to tell anything. The likely instant comes
from the growth between the falls and from the falls themselves; the range from days of the history drawn anew, a week at a time,
so that rhythm and bursts stay in it. `docs/internals/forecast.md` has the errors that were measured.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from math import ceil, inf
from statistics import fmean, median, stdev
from typing import Final, Literal

from tierkeeper.kernel.series import Sample
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import format_bytes
from tierkeeper.quotas.growth import DAY, WEEK, Fall, Growth, days, growth, slope

Confidence = Literal["none", "low", "medium", "high"]

SEED: Final = 20130101  # a forecast is the same whenever it is made from the same history
PATHS: Final = 120  # histories drawn anew; more move the ends of the range by less than they mean
EARLY: Final = 0.1  # of the paths are full before the early end of the range, and as many after its late end
WALK_DAYS: Final = 90  # a path is walked day by day for so long, later by its rate: single days no longer matter then
WITHIN_DAY: Final = 0.5  # days by which the ends are moved out: a path knows days, not at what hours they grow
HORIZON_DAYS: Final = 3_650  # what is fuller later than that is not said to fill
MIN_DAYS: Final = 1.0  # of history, before which nothing is said
MIN_POINTS: Final = 5  # hours with samples, as well
SOME_DAYS: Final = 7.0  # a week shows no rhythm, two do
MANY_DAYS: Final = 21.0
STALE_DAYS: Final = 2.0  # since the last sample
STEADY_SHARE: Final = 0.03  # runs that give back all but that much of what is added keep a tier steady
MISSED_RUNS: Final = 2.5  # falls that stay out for so many times their usual distance have ended
LIKELY_FACTOR: Final = 2.0  # `full_before`: the likely instant lies no further off than so many times the asked one
SURGE_HOURS: Final = 6.0  # of samples at the end, which may show that it fills right now
SURGE_HOURS_MAX: Final = 72  # that it may have lasted: then its days are the pace itself, see `growth.RISES`
SURGE_FACTOR: Final = 3.0  # times the fastest such hours before


@dataclass(frozen=True)
class FullAt:
    """When a tier is full: the early end of the range, the likely instant, the late end. None: not within ten years."""

    earliest: datetime | None
    likely: datetime | None
    latest: datetime | None


NEVER: Final = FullAt(None, None, None)


@dataclass(frozen=True)
class Forecast:
    """What is to be expected of a tier at `at`.

    `full`: with the runs going on as they did. `full_without_runs`: if nothing more leaves. `bytes_per_day` is what is added,
    `net_bytes_per_day` what stays of it. `surge_bytes_per_day`: what is added in these hours where that is far beyond the usual.
    `reason` says what the confidence rests on. With confidence "none" there are no figures but the used bytes.
    """

    at: datetime
    used_bytes: int
    quota_bytes: int
    bytes_per_day: float
    net_bytes_per_day: float
    full: FullAt
    full_without_runs: FullAt
    confidence: Confidence
    reason: str
    history_days: float
    runs_per_week: float = 0.0
    surge_bytes_per_day: float | None = None

    @property
    def days_to_full(self) -> float | None:
        """Days from `at` until it is likely full; None where it is not foreseen to be."""
        return None if self.full.likely is None else max(0.0, (self.full.likely - self.at).total_seconds() / DAY)


@dataclass(frozen=True)
class _Road:
    """From what level to what quota, and the runs on the way."""

    level: float
    quota: float
    runs: "_Runs | None"


@dataclass(frozen=True)
class _Runs:
    """How runs give space back: when the next is due, days between them, bytes that each took."""

    next_in_days: float
    every_days: float
    bytes: tuple[float, ...]

    @property
    def usual(self) -> float:
        return fmean(self.bytes)

    @property
    def doubt(self) -> float:
        """The standard error of `usual`: less than that of net growth is none."""
        return stdev(self.bytes) / len(self.bytes) ** 0.5 if len(self.bytes) > 1 else 0.0


def forecast(samples: Sequence[Sample], quota_bytes: int, now: datetime, *, seed: int = SEED) -> Forecast:
    """What `samples` (bytes of a tier over time, in any order, UTC) say of a tier with `quota_bytes` at `now`."""
    past = [s for s in samples if s.at <= now]
    used = max(past, key=lambda s: s.at).bytes if past else 0
    found = growth(past, now)
    short = _too_short(found)
    if found is None or short is not None:
        full = FullAt(now, now, now) if past and used >= quota_bytes else NEVER
        known = found.active_days if found is not None else 0.0
        return Forecast(now, used, quota_bytes, 0.0, 0.0, full, full, "none", short or "there is no history yet", known)
    if used < quota_bytes <= max(found.level, found.last_bytes):
        # It was relieved within this hour, of which most samples still are from before.
        found = replace(found, level=float(used), last_bytes=float(used))
    runs = _runs(found, days(now))
    rate = max(0.0, found.rate)
    stale = max(0.0, days(now) - found.until_day)
    level = max(float(used), found.level) if used >= quota_bytes else found.level + rate * stale
    net = rate - (runs.usual / runs.every_days if runs is not None else 0.0)
    alone = _range(found, _Road(level, quota_bytes, None), now, seed)
    full = _range(found, _Road(level, quota_bytes, runs), now, seed) if runs is not None else alone
    surging = surge(past, now)
    confidence, reason = _confidence(found, stale, alone, now)
    if surging is not None:
        confidence, reason = "low", f"{reason}, but in these hours {format_bytes(int(surging))} a day come, far more than ever"
    return Forecast(
        at=now,
        used_bytes=used,
        quota_bytes=quota_bytes,
        bytes_per_day=rate,
        net_bytes_per_day=net,
        full=full,
        full_without_runs=alone,
        confidence=confidence,
        reason=reason,
        history_days=found.active_days,
        runs_per_week=WEEK / runs.every_days if runs is not None else 0.0,
        surge_bytes_per_day=surging,
    )


def full_before(told: Forecast, instant: datetime) -> bool:
    """Whether the tier is to be feared full before `instant` (the next run), if nothing leaves it until then.

    The early end of the range counts, but only where the likely one is not far off either: noise has a wide range and no likely
    end. A surge counts at its own pace. Without a forecast only a tier that is full is.
    """
    if told.used_bytes >= told.quota_bytes:
        return True
    ahead_days = (instant - told.at).total_seconds() / DAY
    if ahead_days <= 0 or told.confidence == "none":
        return False
    if told.surge_bytes_per_day is not None and told.used_bytes + told.surge_bytes_per_day * ahead_days >= told.quota_bytes:
        return True
    early, likely = told.full_without_runs.earliest, told.full_without_runs.likely
    if early is None or likely is None:
        return False
    return early < instant and likely < told.at + LIKELY_FACTOR * (instant - told.at)


def coming_bytes(told: Forecast, instant: datetime) -> int:
    """By how much the tier is to be expected to grow until `instant` (the next run), if nothing leaves it until then.

    Where it is to be feared full by then it is at least what it lacks; where it is not, less than that: see `full_before`.
    """
    ahead_days = max(0.0, (instant - told.at).total_seconds() / DAY)
    pace = told.bytes_per_day if told.surge_bytes_per_day is None else max(told.bytes_per_day, told.surge_bytes_per_day)
    lacks, usual = max(0, told.quota_bytes - told.used_bytes), int(pace * ahead_days)
    return max(usual, lacks) if full_before(told, instant) else max(0, min(usual, lacks - 1))


def driver(tables: Mapping[TableName, Sequence[Sample]], now: datetime) -> tuple[TableName, float] | None:
    """The table that adds most bytes a day, with how many; None where none is known to grow."""
    rates = {name: found.rate for name, samples in tables.items() if (found := growth(samples, now)) is not None
             and _too_short(found) is None}  # fmt: skip
    best = max(rates, key=lambda name: (rates[name], str(name)), default=None)
    return None if best is None or rates[best] <= 0 else (best, rates[best])


def surge(samples: Sequence[Sample], now: datetime) -> float | None:
    """Bytes a day in the last hours, where that is far beyond all that came before and lasts; None else."""
    until = days(now)
    points = sorted((days(s.at), s.bytes) for s in samples if until - 14 <= days(s.at) <= until)
    hours: dict[int, float] = {int(day * 24): float(size) for day, size in points}  # the last of each hour
    recent = [(h, hours[h]) for h in sorted(hours) if h > until * 24 - SURGE_HOURS - 1]
    if len(recent) < SURGE_HOURS - 1:
        return None
    changes = [(b - a) / (k - h) for (h, a), (k, b) in pairwise(recent)]
    pace = median(changes)
    earlier = sorted(h for h in hours if h <= until * 24 - SURGE_HOURS - 1)
    before = [hours[k] - hours[h] for h, k in pairwise(earlier) if k == h + 1]
    begun = len(before)
    while begun and len(before) - begun < SURGE_HOURS_MAX and before[begun - 1] > pace / SURGE_FACTOR:
        begun -= 1
    before = before[:begun]  # it may last for long: its own first hours are no measure of it
    if pace <= 0 or len(before) < 2 * SURGE_HOURS or sum(c > 0 for c in changes) < len(changes) - 1:
        return None
    windows = [median(before[i : i + len(changes)]) for i in range(len(before) - len(changes) + 1)]
    spread = median(abs(b - median(before)) for b in before)
    fastest = max(windows, default=0.0)
    return pace * 24 if pace > SURGE_FACTOR * max(fastest, spread, 1.0) else None


def _too_short(found: Growth | None) -> str | None:
    """Why nothing can be said yet; None where something can."""
    if found is None:
        return "there is no history yet"
    if found.active_days < MIN_DAYS or found.points < MIN_POINTS:
        hours = found.active_days * 24
        return f"there are {hours:.0f} hours of history only, of which nothing can be said; a forecast takes a day at least"
    return None


def _runs(found: Growth, now_day: float) -> _Runs | None:
    """The rhythm of the falls; None for fewer than two, and for those that have ended."""
    if len(found.falls) < 2:  # noqa: PLR2004 - one fall may stay the only one
        return None
    merged = [found.falls[0]]
    for fall in found.falls[1:]:
        if fall.day - merged[-1].day < 0.25:  # noqa: PLR2004 - a run that takes hours is one run
            merged[-1] = Fall(fall.day, merged[-1].bytes + fall.bytes)
        else:
            merged.append(fall)
    if len(merged) < 2:  # noqa: PLR2004 - as above
        return None
    every = (merged[-1].day - merged[0].day) / (len(merged) - 1)
    since = now_day - merged[-1].day
    if since > MISSED_RUNS * every:
        return None
    return _Runs(max(0.0, every - since), every, tuple(f.bytes for f in merged[1:]))


def _range(found: Growth, road: _Road, now: datetime, seed: int) -> FullAt:
    if road.level >= road.quota:
        return FullAt(now, now, now)
    rng = random.Random(seed)  # noqa: S311 - no secret
    rate, runs = max(0.0, found.rate), road.runs
    first = int(days(now)) + 1  # the weekday on which the first day from now ends
    expected = [rate + found.profile[(first + k) % WEEK] for k in range(WALK_DAYS)]
    likely = _passage(road, expected, rate, () if runs is None else (runs.usual,))
    start = replace(road, level=max(road.level, found.last_bytes))
    ends = sorted(_drawn(found, start, first, rng) for _ in range(PATHS))
    early, late = ends[int(EARLY * PATHS)] - WITHIN_DAY, ends[-1 - int(EARLY * PATHS)] + WITHIN_DAY
    return FullAt(_at(now, max(0.0, min(early, likely))), _at(now, likely), _at(now, max(late, likely)))


def _at(now: datetime, ahead_days: float) -> datetime | None:
    return None if ahead_days > HORIZON_DAYS else now + timedelta(days=ahead_days)


def _drawn(found: Growth, road: _Road, first: int, rng: random.Random) -> float:
    """Days until a path is full: days of the history, a week at a time, at the pace of the history drawn anew."""
    increments, n = found.increments, len(found.increments)
    block = min(WEEK, n)
    starts = range(n - block + 1)
    by_weekday = [[i for i in starts if n < 2 * WEEK or found.weekdays[i] == day] for day in range(WEEK)]

    def draw(ends_on: int, count: int) -> list[float]:
        drawn: list[float] = []
        while len(drawn) < count:
            some = by_weekday[(ends_on + len(drawn)) % WEEK] or starts
            start = some[rng.randrange(len(some))]
            drawn += increments[start : start + block]
        return drawn[:count]

    faster = slope(draw(found.weekdays[0], n)) - slope(increments)
    walk = [i + faster for i in draw(first, WALK_DAYS)]
    for step in found.steps:
        if (when := rng.random() * max(found.active_days, 1.0)) < WALK_DAYS:  # what came once in so long may come again
            walk[int(when)] += step
    runs = road.runs
    falls = () if runs is None else tuple(rng.choices(runs.bytes, k=int(WALK_DAYS / runs.every_days) + len(runs.bytes)))
    return _passage(road, walk, max(0.0, found.rate + faster), falls)


def _passage(road: _Road, walk: Sequence[float], rate: float, falls: Sequence[float]) -> float:
    """Days until the quota is first reached: day by day along `walk` (bytes a day), then at `rate`; inf: never."""
    runs, level, fallen, here = road.runs, road.level, 0, 0.0
    due = inf if runs is None else runs.next_in_days
    for end, added in enumerate(walk, start=1):
        while here < end:
            until = min(float(end), due)
            after = level + added * (until - here)
            if after >= road.quota:
                return here + (road.quota - level) / added
            level, here = after, until
            if runs is not None and due <= here:
                level, due = max(0.0, level - falls[fallen % len(falls)]), due + runs.every_days
                fallen += 1
    return here + _by_rate(replace(road, level=level), rate, falls, due - here)


def _by_rate(road: _Road, rate: float, falls: Sequence[float], due_in: float) -> float:
    """Days until the quota is reached at `rate`, with falls of the mean size of `falls`, the next one in `due_in` days."""
    if rate <= 0:
        return inf
    missing, runs = road.quota - road.level, road.runs
    if runs is None or rate * due_in >= missing:
        return missing / rate
    net = rate * runs.every_days - fmean(falls)
    if net <= max(STEADY_SHARE * rate * runs.every_days, runs.doubt):
        return inf
    missing -= rate * due_in
    cycles = ceil(missing / net)
    return due_in + cycles * runs.every_days - (cycles * net - missing) / rate


def _confidence(found: Growth, stale_days: float, alone: FullAt, now: datetime) -> tuple[Confidence, str]:
    """How far to trust it: by the length of the history, its age, and the width of the range."""
    said = f"{found.active_days:.0f} days of history" if found.active_days >= 2 else "hardly more than a day of history"  # noqa: PLR2004
    if stale_days > STALE_DAYS:
        return "low", f"{said}, whose last sample is {stale_days:.0f} days old"
    if found.active_days < SOME_DAYS:
        return "low", f"{said}; a week at least shows its rhythm"
    if alone.likely is not None and alone.earliest is not None:
        ahead = (alone.likely - now).total_seconds()
        early = (alone.earliest - now).total_seconds()
        if ahead > 0 and early < ahead / 2:
            return "low", f"{said}, in which it grew so unevenly that the early end is less than half as far off"
    if found.active_days < MANY_DAYS:
        return "medium", f"{said}; three weeks would make it surer"
    return "high", said
