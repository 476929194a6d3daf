"""What a tier's history says of its growth: spikes, falls and silences taken apart from what is added each day. Pure.

Sizes fall when a run gives space back, so that a line through all samples tells nothing of a tier that is filled and emptied.
Growth is what is added between the falls; the falls are kept apart, since they say whether the runs keep up with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate, groupby, pairwise
from math import sqrt
from operator import mul
from statistics import fmean, median
from typing import Final

from tierkeeper.kernel.series import Sample

DAY: Final = 86_400.0
WEEK: Final = 7
WINDOW_DAYS: Final = 56  # eight weeks: what came before says little of what comes; less would miss the weekly rhythm
BUCKET_SECONDS: Final = 3_600.0  # samples of a few minutes are taken together, so that their noise is not read as growth
FINE_PIECES: Final = 5  # a history of fewer days is cut into so many pieces
MAD_TO_SIGMA: Final = 1.4826  # of normal noise
FALL_SIGMAS: Final = 5.0  # a fall beyond that is a run that gave space back, what is less is noise
FALL_SHARE: Final = 0.01  # of the level, at least: autovacuum cuts less than that off the tails of tables
PAUSE_SHARE: Final = 0.1  # a silence with less than that of the usual growth was a pause: nothing grew
SILENCE_DAYS: Final = 1.5  # without a sample, and longer than usual
STEP_SIGMAS: Final = 8.0  # a day that far above the others is a step, if it is the only one of its kind
STEPS: Final = 1  # so many in the window are steps, more are how this tier grows (bursts)
WHITE: Final = 0.35  # residuals of consecutive days that agree less than that are noise of measuring, and are averaged out
WALKING: Final = 0.7  # and beyond that are the growth itself, so that the last sample is what counts
FEW: Final = 10  # days, from which neither is told
TURNS: Final = (14, 21, 28)  # days ago at which the pace may have changed
TURN_SIGMAS: Final = 4.0  # by which the mean of the days since must differ, else they are taken together
RISES: Final = (3, 5, 7)  # days ago at which it may have begun to grow faster: a wall does not wait for two weeks of proof
RISE_SIGMAS: Final = 8.0  # of so few days; days that are slower prove nothing, they may be holidays
SURE_SIGMAS: Final = 2.0  # of its doubt a slope must have, else it is none
CHANCE: Final = 3.0  # times what chance makes of weekdays that are alike is no rhythm yet
EPOCH: Final = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday


@dataclass(frozen=True)
class Point:
    """Days (since `EPOCH`, or of activity), and bytes."""

    day: float
    bytes: float


@dataclass(frozen=True)
class Fall:
    """When a tier's size fell, in days since `EPOCH`, and by how many bytes."""

    day: float
    bytes: float


@dataclass(frozen=True)
class Growth:
    """What is left of a history once it is taken apart.

    `rate`: bytes a day that are added between falls, and `level`: bytes at `until_day`, the last sample's instant, its noise
    averaged out where it is noise. `increments`: bytes a day in each piece of the history, oldest first, without the single
    `steps`; `weekdays` when each ended (0 to 6), and `profile` by how much each weekday differs from the mean day.
    """

    rate: float
    level: float
    last_bytes: float
    until_day: float
    increments: tuple[float, ...]
    weekdays: tuple[int, ...]
    profile: tuple[float, ...]
    steps: tuple[float, ...]
    falls: tuple[Fall, ...]
    active_days: float
    points: int


@dataclass(frozen=True)
class _Curve:
    """The size as if it had never fallen and never paused. `active` counts the days in which something could grow; `calendar`
    gives each of its points its day since `EPOCH`."""

    active: list[Point]
    calendar: list[Point]

    @property
    def span(self) -> float:
        return self.active[-1].day - self.active[0].day


def days(instant: datetime) -> float:
    """Days from `EPOCH` to `instant`."""
    return (instant - EPOCH).total_seconds() / DAY


def growth(samples: Sequence[Sample], now: datetime) -> Growth | None:
    """Takes the last weeks of `samples` before `now` apart; None where less than two of them are at different times."""
    until = days(now)
    dated = ((days(s.at), float(s.bytes)) for s in samples)
    points = _despiked(_buckets(sorted(one for one in dated if until - WINDOW_DAYS <= one[0] <= until)))
    if len(points) < 2:  # noqa: PLR2004 - a line has two ends
        return None
    curve, falls = _corrected(points)
    if curve.span <= 0:
        return None
    piece = 1.0 if curve.span >= FINE_PIECES else curve.span / FINE_PIECES
    raw = [b - a for a, b in pairwise(_samples(curve.active, piece))]
    weekdays = [int(day) % WEEK for day in _samples(curve.calendar, piece)[1:]]
    cleaned, steps = _without_steps(raw) if piece == 1.0 else (raw, [])
    profile = weekly_profile(cleaned, weekdays) if piece == 1.0 else (0.0,) * WEEK
    # What is no trend (steps, the rhythm of the week), as it adds up until each end of a piece; 0 at the last one.
    extra = list(accumulate([0.0, *(r - c + profile[w] for r, c, w in zip(raw, cleaned, weekdays, strict=True))]))
    trend = [
        level - (before + after) / 2 + extra[-1]
        for level, before, after in zip(_means(curve.active, piece), extra[:-1], extra[1:], strict=True)
    ]
    turn = _turn([c - profile[w] for c, w in zip(cleaned, weekdays, strict=True)]) if piece == 1.0 else 0
    pace = _pace(trend[turn:])
    base = points[-1].bytes - curve.active[-1].bytes
    return Growth(
        rate=pace / piece,
        level=_level([t + base for t in trend[turn:]], pace, points[-1].bytes),
        last_bytes=points[-1].bytes,
        until_day=points[-1].day,
        increments=tuple(c / piece for c in cleaned[turn:]),
        weekdays=tuple(weekdays[turn:]),
        profile=tuple(p / piece for p in profile),
        steps=tuple(steps),
        falls=tuple(falls),
        active_days=curve.span,
        points=len(points),
    )


def slope(increments: Sequence[float]) -> float:
    """The slope of the least-squares line through the sums of `increments`, for each of them.

    Written over the increments it is their mean, those in the middle weighing most.
    """
    weights, whole = _weights(len(increments))
    return sum(map(mul, weights, increments)) / whole if increments else 0.0


@cache
def _weights(n: int) -> tuple[tuple[int, ...], int]:
    """Of n increments each one's, and their sum: a forecast's range asks hundreds of times for the same n."""
    weights = tuple((k + 1) * (n - k) for k in range(n))
    return weights, sum(weights)


def weekly_profile(increments: Sequence[float], weekdays: Sequence[int]) -> tuple[float, ...]:
    """By how much each weekday differs from the mean day, drawn towards nothing as far as chance would explain it."""
    groups = [[i for i, w in zip(increments, weekdays, strict=True) if w == day] for day in range(WEEK)]
    if min(len(g) for g in groups) < 2:  # noqa: PLR2004 - of one day nobody can say what its weekday does
        return (0.0,) * WEEK
    centres = [median(g) if len(g) > 2 else fmean(g) for g in groups]  # noqa: PLR2004 - a holiday is no rhythm
    mean = fmean(centres)
    between = fmean((c - mean) ** 2 for c in centres)
    within = fmean(fmean((i - c) ** 2 for i in g) / max(1, len(g) - 1) for g, c in zip(groups, centres, strict=True))
    kept = max(0.0, 1 - CHANCE * within / between) if between > 0 else 0.0
    return tuple(kept * (c - mean) for c in centres)


def _buckets(dated: Sequence[tuple[float, float]]) -> list[Point]:
    """One point for each hour with samples: the median of its samples, so that a wild one does not count."""
    hours = (list(some) for _, some in groupby(dated, key=lambda one: int(one[0] * DAY // BUCKET_SECONDS)))
    return [
        Point(*some[0]) if len(some) == 1 else Point(fmean(day for day, _ in some), median(size for _, size in some))
        for some in hours
    ]


def _noise(points: Sequence[Point]) -> float:
    """The spread of the changes between neighbours, robust against whatever is rare."""
    changes = [b.bytes - a.bytes for a, b in pairwise(points)]
    centre = median(changes)
    return MAD_TO_SIGMA * median(abs(c - centre) for c in changes)


def _despiked(points: Sequence[Point]) -> list[Point]:
    """Without the points that stand far off both their neighbours on the same side: a wrong measure, or scratch space."""
    if len(points) < 3:  # noqa: PLR2004 - a point with two neighbours
        return list(points)
    far = max(STEP_SIGMAS * _noise(points), FALL_SHARE * median(p.bytes for p in points))
    kept = [points[0]]
    for before, point, after in zip(points, points[1:], points[2:], strict=False):
        up, down = point.bytes - before.bytes, point.bytes - after.bytes
        alike = abs(up - down) < 0.5 * max(abs(up), abs(down))  # it went back to where it came from
        if not (min(abs(up), abs(down)) > far and up * down > 0 and alike):
            kept.append(point)
    return [*kept, points[-1]]


def _corrected(points: Sequence[Point]) -> tuple[_Curve, list[Fall]]:
    """The curve without falls and pauses, and the falls.

    What was added while the size fell is not known: it is taken for the usual. A silence in which it fell, or hardly grew, is
    time of which nothing is known, and is left out.
    """
    changes = [(b.day - a.day, b.bytes - a.bytes) for a, b in pairwise(points)]
    least = max(FALL_SIGMAS * _noise(points), FALL_SHARE * median(p.bytes for p in points))
    silence = max(SILENCE_DAYS, 3 * median(dt for dt, _ in changes))
    known = [(dt, change) for dt, change in changes if change >= -least]
    heard = [(dt, change) for dt, change in known if dt <= silence] or known
    usual = max(0.0, sum(c for _, c in heard) / sum(dt for dt, _ in heard)) if heard else 0.0
    falls: list[Fall] = []
    day, level = 0.0, points[0].bytes
    active, calendar = [Point(day, level)], [Point(day, points[0].day)]
    for (dt, change), point in zip(changes, points[1:], strict=True):
        fell = change < -least
        if fell:
            falls.append(Fall(point.day, -change + usual * dt))
        if dt > silence and (fell or change < PAUSE_SHARE * usual * dt):
            calendar[-1] = Point(day, point.day)
            continue
        day, level = day + dt, level + (usual * dt if fell else change)
        active.append(Point(day, level))
        calendar.append(Point(day, point.day))
    return _Curve(active, calendar), falls


def _ends(curve: Sequence[Point], piece: float) -> list[float]:
    """The ends of all whole pieces, counted back from the end of the curve, oldest first."""
    end, count = curve[-1].day, int((curve[-1].day - curve[0].day) / piece + 1e-9)
    return [max(curve[0].day, end - k * piece) for k in range(count, -1, -1)]


def _samples(curve: Sequence[Point], piece: float) -> list[float]:
    """The curve at the ends of its pieces."""
    levels, at = [], 0
    for day in _ends(curve, piece):
        while at < len(curve) - 2 and curve[at + 1].day < day:
            at += 1
        levels.append(_value(curve[at], curve[at + 1], day))
    return levels


def _means(curve: Sequence[Point], piece: float) -> list[float]:
    """The mean of the curve in each of its pieces: the noise of many samples goes, the trend stays."""
    levels, at = [], 0
    for low, high in pairwise(_ends(curve, piece)):
        while at < len(curve) - 2 and curve[at + 1].day <= low:
            at += 1
        area, here, i = 0.0, low, at
        while here < high and i < len(curve) - 1:
            until = min(high, curve[i + 1].day)
            area += (until - here) * (_value(curve[i], curve[i + 1], here) + _value(curve[i], curve[i + 1], until)) / 2
            here, i = until, i + 1
        levels.append(area / (high - low))
    return levels


def _value(a: Point, b: Point, day: float) -> float:
    return a.bytes + (b.bytes - a.bytes) * (day - a.day) / (b.day - a.day) if b.day > a.day else b.bytes


def _without_steps(increments: Sequence[float]) -> tuple[list[float], list[float]]:
    """The increments with a single one that is far off set to the usual, and by how much it was off."""
    centre = median(increments)
    spread = MAD_TO_SIGMA * median(abs(i - centre) for i in increments)
    spread = max(spread, 0.1 * abs(centre), 1.0)
    off = [k for k, i in enumerate(increments) if abs(i - centre) > STEP_SIGMAS * spread]
    if len(off) > STEPS:
        return list(increments), []
    return [centre if k in off else i for k, i in enumerate(increments)], [increments[k] - centre for k in off]


def _turn(increments: Sequence[float]) -> int:
    """How many of the oldest days to leave out, since the pace has changed after them."""
    best, where = TURN_SIGMAS, 0
    for ago in (*TURNS, *RISES):
        old, new = increments[:-ago], increments[-ago:]
        if len(old) < WEEK:
            continue
        spread = max(_deviation(old), _deviation(new), 1e-9) * (1 / len(old) + 1 / len(new)) ** 0.5
        apart = (fmean(new) - fmean(old)) / spread
        if ago in RISES and apart < RISE_SIGMAS:
            continue
        if abs(apart) > best:
            best, where = abs(apart), len(old)
    return where


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation; that of `statistics` reckons in fractions, which takes a hundred times as long."""
    mean = fmean(values)
    return sqrt(fmean((v - mean) ** 2 for v in values))


def _pace(trend: Sequence[float]) -> float:
    """The slope of the line through `trend`, for each of its pieces; nothing where noise explains it as well."""
    pace = slope([b - a for a, b in pairwise(trend)])
    if len(trend) < FEW:
        return pace
    n, mean = len(trend), fmean(trend)
    off = [t - mean - (k - (n - 1) / 2) * pace for k, t in enumerate(trend)]
    square = sum(o * o for o in off)
    if square <= 0:
        return pace
    alike = max(0.0, sum(a * b for a, b in pairwise(off)) / square)  # neighbours that agree tell less than so many
    doubt = (12 * square / (n - 2) / (n**3 - n) * (1 + alike) / (1 - alike)) ** 0.5
    return pace if abs(pace) > SURE_SIGMAS * doubt else 0.0


def _level(trend: Sequence[float], pace: float, last_bytes: float) -> float:
    """Bytes at the end: the line's where days differ by the noise of measuring only, else the last sample's."""
    if len(trend) < FEW:
        return last_bytes
    says = [t + (len(trend) - k - 0.5) * pace for k, t in enumerate(trend)]  # what each day's mean says of the end
    line = fmean(says)
    off = [s - line for s in says]
    square = sum(o * o for o in off)
    spread = MAD_TO_SIGMA * median(abs(o) for o in off)
    if square <= 0 or abs(off[-1]) > FALL_SIGMAS * spread:
        return last_bytes
    alike = sum(a * b for a, b in pairwise(off)) / square
    walks = min(1.0, max(0.0, (alike - WHITE) / (WALKING - WHITE)))
    return line + walks * (last_bytes - line)
