"""When a tier will be full, from its history: pure, the same for the same history.

It tells a range and how far to trust it, and says so where the history is too short to tell anything. The likely instant comes
from the growth between the falls and from the falls themselves; the range from days of the history drawn anew, a week at a time,
so that rhythm and bursts stay in it. `docs/internals/forecast.md` has the errors that were measured.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
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
SURGE_DOUBT: Final = 1.25  # a surge's few hours tell its pace no better: by so much it may be faster
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


@dataclass(frozen=True)
class _Course:
    """What a forecast is made from, before anything is drawn."""

    now: datetime
    used: int
    quota: int
    found: Growth
    runs: _Runs | None
    level: float
    surging: float | None

    @property
    def rate(self) -> float:
        return max(0.0, self.found.rate)

    @property
    def stale_days(self) -> float:
        return max(0.0, days(self.now) - self.found.until_day)

    def road(self, *, alone: bool) -> _Road:
        return _Road(self.level, self.quota, None if alone else self.runs)


def forecast(samples: Sequence[Sample], quota_bytes: int, now: datetime, *, seed: int = SEED) -> Forecast:
    """What `samples` (bytes of a tier over time, in any order, UTC) say of a tier with `quota_bytes` at `now`."""
    course = _course(samples, quota_bytes, now)
    if isinstance(course, Forecast):
        return course
    alone = _range(course.found, course.road(alone=True), now, seed)
    return _told(course, alone, alone if course.runs is None else _range(course.found, course.road(alone=False), now, seed))


def coming(samples: Sequence[Sample], quota_bytes: int, now: datetime, instant: datetime, *, seed: int = SEED) -> int:
    """`coming_bytes` of their forecast. The range is only drawn where it has a say: that takes most of a forecast's time."""
    course = _course(samples, quota_bytes, now)
    if isinstance(course, Forecast):
        return coming_bytes(course, instant)
    road = course.road(alone=True)
    alone = FullAt(None, _at(now, _likely(course.found, road, now)), None)
    if road.level >= road.quota or _is_near(alone.likely, now, instant):
        alone = _range(course.found, road, now, seed)
    return coming_bytes(_told(course, alone, alone), instant)


def _course(samples: Sequence[Sample], quota_bytes: int, now: datetime) -> _Course | Forecast:
    """Where nothing can be said yet, that at once."""
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
    course = _Course(now, used, quota_bytes, found, _runs(found, days(now)), 0.0, surge(past, now))
    grown = found.level + course.rate * course.stale_days
    return replace(course, level=max(float(used), found.level) if used >= quota_bytes else grown)


def _told(course: _Course, alone: FullAt, full: FullAt) -> Forecast:
    runs, surging = course.runs, course.surging
    if surging is not None:
        alone, full = _sooner(course, surging, alone), _sooner(course, surging, full)
    confidence, reason = _confidence(course.found, course.stale_days, alone, course.now)
    if surging is not None:
        confidence, reason = "low", f"{reason}, but in these hours {format_bytes(int(surging))} a day come, far more than ever"
    return Forecast(
        at=course.now,
        used_bytes=course.used,
        quota_bytes=course.quota,
        bytes_per_day=course.rate,
        net_bytes_per_day=course.rate - (runs.usual / runs.every_days if runs is not None else 0.0),
        full=full,
        full_without_runs=alone,
        confidence=confidence,
        reason=reason,
        history_days=course.found.active_days,
        runs_per_week=WEEK / runs.every_days if runs is not None else 0.0,
        surge_bytes_per_day=surging,
    )


def _sooner(course: _Course, pace: float, full: FullAt) -> FullAt:
    """`full` with the early end that a surge makes, if it goes on: nobody knows yet whether it does."""
    early = _at(course.now, max(0.0, (course.quota - course.used) / (SURGE_DOUBT * pace) - WITHIN_DAY))
    return full if early is None or (full.earliest is not None and full.earliest < early) else replace(full, earliest=early)


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
    return early is not None and early < instant and _is_near(likely, told.at, instant)


def _is_near(likely: datetime | None, now: datetime, instant: datetime) -> bool:
    return likely is not None and likely < now + LIKELY_FACTOR * (instant - now)


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
    if found.active_days < MIN_DAYS:
        hours = found.active_days * 24
        return f"there are {hours:.0f} hours of history only, of which nothing can be said; a forecast takes a day at least"
    if found.points < MIN_POINTS:
        return f"there are samples of {found.points} hours only, of which nothing can be said; a forecast takes {MIN_POINTS}"
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
    likely = _likely(found, road, now)
    start = replace(road, level=max(road.level, found.last_bytes))
    ends = sorted(_drawn(found, start, _first(now), rng, PATHS))
    early, late = ends[int(EARLY * PATHS)] - WITHIN_DAY, ends[-1 - int(EARLY * PATHS)] + WITHIN_DAY
    return FullAt(_at(now, max(0.0, min(early, likely))), _at(now, likely), _at(now, max(late, likely)))


def _first(now: datetime) -> int:
    """The weekday on which the first day from now ends."""
    return int(days(now)) + 1


def _likely(found: Growth, road: _Road, now: datetime) -> float:
    """Days until the growth of the history, gone on evenly, has reached the quota."""
    rate, runs, first = max(0.0, found.rate), road.runs, _first(now)
    expected = [rate + found.profile[(first + k) % WEEK] for k in range(WALK_DAYS)]
    return _passage(road, expected, rate, () if runs is None else (runs.usual,))


def _at(now: datetime, ahead_days: float) -> datetime | None:
    return None if ahead_days > HORIZON_DAYS else now + timedelta(days=ahead_days)


def _drawn(found: Growth, road: _Road, first: int, rng: random.Random, paths: int) -> Iterator[float]:
    """Days until a path is full, of each: days of the history, a week at a time, at the pace of the history drawn anew."""
    increments, n = found.increments, len(found.increments)
    block, pace = min(WEEK, n), slope(increments)
    starts = range(n - block + 1)
    by_weekday = [[i for i in starts if n < 2 * WEEK or found.weekdays[i] == day] or starts for day in range(WEEK)]

    def draw(ends_on: int, count: int) -> list[float]:
        drawn: list[float] = []
        while len(drawn) < count:
            some = by_weekday[(ends_on + len(drawn)) % WEEK]
            start = rng.choice(some)
            drawn += increments[start : start + block]
        return drawn[:count]

    for _ in range(paths):
        faster = slope(draw(found.weekdays[0], n)) - pace
        walk = [i + faster for i in draw(first, WALK_DAYS)]
        for step in found.steps:
            if (when := rng.random() * max(found.active_days, 1.0)) < WALK_DAYS:  # what came once in so long may come again
                walk[int(when)] += step
        runs = road.runs
        falls = () if runs is None else tuple(rng.choices(runs.bytes, k=int(WALK_DAYS / runs.every_days) + len(runs.bytes)))
        yield _passage(road, walk, max(0.0, found.rate + faster), falls)


def _passage(road: _Road, walk: Sequence[float], rate: float, falls: Sequence[float]) -> float:
    """Days until the quota is first reached: day by day along `walk` (bytes a day), then at `rate`; inf: never."""
    runs, level, fallen, here = road.runs, road.level, 0, 0.0
    due = inf if runs is None else runs.next_in_days
    for end, added in enumerate(walk, start=1):
        while here < end:
            until = due if due < end else end
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
