"""Series of a tier's size, made and recorded, and what two ways to forecast make of them.

`python tests/growing.py` prints the table of docs/internals/forecast.md: the median absolute error of the days to full, ours and
that of Prometheus's `predict_linear`, on the same samples.
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from tierkeeper.kernel.series import Sample
from tierkeeper.quotas.forecast import forecast

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
MB = 10**6
LATEST_DAYS = 90.0  # a forecast of "never", or of later than that, counts as this
WINDOWS_DAYS = (7.0, 28.0, 56.0)
ROW_BYTES = 140  # of a flight in Postgres, its index included


@dataclass(frozen=True)
class Case:
    """What a sampler saw until `now`, the quota, and in how many days it is reached as the series went on."""

    samples: Sequence[Sample]
    now: datetime
    quota_bytes: int
    days_to_full: float


Grow = Callable[[random.Random, int], float]
"""MB that are added in an hour, numbered from `START`."""


def predict_linear(samples: Sequence[Sample], window_days: float, now: datetime, quota_bytes: int) -> float:
    """Days until `predict_linear(size[window], t)` says `quota_bytes`, as Prometheus computes it.

    Simple linear regression over the samples in the window, its intercept at the time of evaluation
    (promql/functions.go: linearRegression, funcPredictLinear). Infinite for a slope that does not rise.
    """
    xs, ys = [], []
    for s in samples:
        age_days = (now - s.at).total_seconds() / 86_400
        if age_days < window_days:
            xs.append(-age_days)
            ys.append(float(s.bytes))
    n = len(xs)
    if n < 2:
        return float("inf")
    sum_x, sum_y = sum(xs), sum(ys)
    covariance = sum(x * y for x, y in zip(xs, ys, strict=True)) - sum_x * sum_y / n
    variance = sum(x * x for x in xs) - sum_x * sum_x / n
    slope = covariance / variance if variance else 0.0
    intercept = sum_y / n - slope * sum_x / n
    if intercept >= quota_bytes:
        return 0.0
    return (quota_bytes - intercept) / slope if slope > 0 else float("inf")


def ours(case: Case) -> float:
    """Days until it is likely full, as `forecast` says."""
    days = forecast(case.samples, case.quota_bytes, case.now).days_to_full
    return float("inf") if days is None else days


def _weekly(hour: int) -> float:
    return 0.1 if (hour // 24) % 7 >= 5 else 1.36


def _office(hour: int) -> float:
    return 3.0 if 8 <= hour % 24 < 16 else 0.0


def made(
    rng: random.Random,
    *,
    grow: Grow,
    history_days: int = 56,
    noise_mb: float = 0.0,
    run_every_days: float = 0.0,
    run_gives_back: float = 0.0,
    seen: Callable[[int], bool] = lambda _hour: True,
    wild: float = 0.0,
) -> Case:
    """A case of hourly samples; `run_gives_back` is the share of what was added since the last run."""
    hours, level, since = history_days * 24, 120.0, 0.0
    levels = []
    for hour in range(hours + int(LATEST_DAYS) * 24):
        added = grow(rng, hour)
        level, since = level + added, since + added
        if run_every_days and hour % int(run_every_days * 24) == 4:
            level, since = level - run_gives_back * since, 0.0
        levels.append(level)
    until = hours + int(rng.uniform(3, 45) * 24)
    quota = max(levels[hours : until + 1])
    if quota <= max(levels[:hours]):
        quota = max(levels[:hours]) * 1.01
    full = next((h for h in range(hours, len(levels)) if levels[h] >= quota), hours + int(LATEST_DAYS) * 24)
    samples = []
    for hour in range(hours):
        if not seen(hour):
            continue
        size = levels[hour] + rng.gauss(0, noise_mb)
        if wild and rng.random() < wild:
            size = rng.choice((0.0, levels[hour] * 3))
        samples.append(Sample(START + timedelta(hours=hour), max(0, int(size * MB))))
    return Case(samples, START + timedelta(hours=hours - 1), int(quota * MB), (full - hours + 1) / 24)


def line(rng: random.Random) -> Case:
    return made(rng, grow=lambda _r, _h: 5 / 24, noise_mb=2.0)


def uneven(rng: random.Random) -> Case:
    return made(rng, grow=lambda r, _h: max(0.0, r.gauss(5, 10)) / 24)


def weekly(rng: random.Random) -> Case:
    return made(rng, grow=lambda r, h: 5 / 24 * _weekly(h) * _office(h) * r.uniform(0.7, 1.3), history_days=rng.randint(50, 57))


def saw_weekly(rng: random.Random) -> Case:
    back = rng.uniform(0.6, 0.85)
    days = rng.randint(50, 57)
    return made(rng, grow=lambda r, _h: 8 / 24 * r.uniform(0.5, 1.5), run_every_days=7, run_gives_back=back, history_days=days)


def saw_daily(rng: random.Random) -> Case:
    back = rng.uniform(0.6, 0.85)
    return made(rng, grow=lambda r, _h: 12 / 24 * r.uniform(0.5, 1.5), run_every_days=1, run_gives_back=back)


def saw_young(rng: random.Random) -> Case:
    """Before its second run: what counts is what is added."""
    days = rng.randint(10, 13)
    return made(rng, grow=lambda r, _h: 5 / 24 * r.uniform(0.5, 1.5), history_days=days, run_every_days=90, run_gives_back=0)


def gaps(rng: random.Random) -> Case:
    """The sampling host is off for days, the database grows on; with the rhythm of a week."""
    off = {d + k for d in rng.sample(range(3, 50), 4) for k in range(rng.randint(2, 5))}
    return made(rng, grow=lambda _r, h: 5 / 24 * _weekly(h), seen=lambda h: h // 24 not in off, noise_mb=0.5)


def pauses(rng: random.Random) -> Case:
    """The project is asleep: nothing grows, nobody can look."""
    first = rng.randint(12, 40)
    asleep = set(range(first, first + rng.randint(7, 12)))
    return made(rng, grow=lambda _r, h: 0.0 if h // 24 in asleep else 5 / 24, seen=lambda h: h // 24 not in asleep, noise_mb=0.5)


def bursts(rng: random.Random) -> Case:
    return made(rng, grow=lambda r, h: 0.05 + (25 * r.uniform(0.5, 1.5) if h % 120 == 30 else 0))


def outliers(rng: random.Random) -> Case:
    return made(rng, grow=lambda _r, _h: 5 / 24, noise_mb=0.5, wild=0.01)


def step(rng: random.Random) -> Case:
    at = rng.randint(10, 50) * 24 + 7
    return made(rng, grow=lambda _r, h: 5 / 24 + (100 if h == at else 0), noise_mb=0.5)


def recorded(rng: random.Random) -> Case:
    """Flights of 2013 as they would have filled a database: holidays, the rhythm of the week, the seasons."""
    by_day = _flights_by_day()
    first = rng.randint(0, 365 - 56 - 50)
    return made(rng, grow=lambda _r, h: by_day[min(364, first + h // 24)] * ROW_BYTES / MB / 24)


_flights: list[int] = []


def _flights_by_day() -> list[int]:
    from tierkeeper.demo import flights

    if not _flights:
        table = flights.read("flights").select(["month", "day"]).group_by(["month", "day"]).aggregate([([], "count_all")])
        found = {(row["month"], row["day"]): row["count_all"] for row in table.to_pylist()}
        _flights.extend(found[key] for key in sorted(found))
    return _flights


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "straight line, noise": line,
    "uneven days": uneven,
    "weekly rhythm, office hours": weekly,
    "sawtooth, run each week": saw_weekly,
    "sawtooth, run each day": saw_daily,
    "young, before a run": saw_young,
    "gaps and weekly rhythm": gaps,
    "asleep for a week": pauses,
    "bursts": bursts,
    "wild samples": outliers,
    "a single step": step,
    "recorded: flights of 2013": recorded,
}


def errors(
    kind: str,
    count: int,
    seed: int = 1,
    *,
    windows_days: Sequence[float] = WINDOWS_DAYS,
    centre: Callable[[Sequence[float]], float] = median,
) -> tuple[float, dict[float, float]]:
    """The median absolute error in days, ours and `predict_linear`'s by its window."""
    mine: list[float] = []
    peers: dict[float, list[float]] = {window: [] for window in windows_days}
    for case in cases(kind, count, seed):
        mine.append(_off(ours(case), case))
        for window, some in peers.items():
            some.append(_off(predict_linear(case.samples, window, case.now, case.quota_bytes), case))
    return centre(mine), {window: centre(some) for window, some in peers.items()}


def cases(kind: str, count: int, seed: int = 1) -> Iterator[Case]:
    """`count` cases of a kind, the same for the same seed."""
    for i in range(count):
        yield KINDS[kind](random.Random(f"{kind} {seed} {i}"))  # noqa: S311 - series, not secrets


def _off(said: float, case: Case) -> float:
    return abs(min(said, LATEST_DAYS) - min(case.days_to_full, LATEST_DAYS))


def main(count: int) -> None:
    """Prints the table."""
    head = f"{'median absolute error, days':<30}{'ours':>8}" + "".join(f"{f'linear {w:.0f}d':>13}" for w in WINDOWS_DAYS)
    sys.stdout.write(head + "\n")
    for kind in KINDS:
        mine, peers = errors(kind, count)
        sys.stdout.write(f"{kind:<30}{mine:>8.3f}" + "".join(f"{p:>13.3f}" for p in peers.values()) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
