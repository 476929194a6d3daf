import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import growing
from growing import KINDS, MB, START, Case
from support import sampled
from tierkeeper.kernel.series import Sample
from tierkeeper.kernel.tables import TableName
from tierkeeper.quotas import forecast as f
from tierkeeper.quotas.forecast import coming, coming_bytes, forecast, full_before
from tierkeeper.quotas.growth import growth, slope

DAY = timedelta(days=1)
BETTER = ("sawtooth, run each week", "sawtooth, run each day", "gaps and weekly rhythm", "weekly rhythm, office hours")


def hourly(levels_mb: Sequence[float]) -> list[Sample]:
    return [Sample(START + timedelta(hours=h), int(mb * MB)) for h, mb in enumerate(levels_mb)]


def told(samples: Sequence[Sample], quota_mb: float = 500) -> f.Forecast:
    return forecast(samples, int(quota_mb * MB), samples[-1].at)


@pytest.mark.parametrize("kind", BETTER)
def test_it_errs_less_than_predict_linear_with_its_best_window(kind: str) -> None:
    mine, peers = growing.errors(kind, 5)
    assert mine < min(peers.values())


def test_on_straight_lines_it_errs_at_most_a_tenth_more() -> None:
    mine, peers = growing.errors("straight line, noise", 16, seed=4, windows_days=(56.0,), centre=fmean)
    assert mine <= 1.1 * peers[56.0]  # its best window is all of the line


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_of_many_series_the_range_holds_most_and_no_window_is_better_everywhere(kind: str) -> None:
    mine, peers = growing.errors(kind, 100, seed=9)
    if kind in BETTER:
        assert mine < min(peers.values())
    assert mine <= 1.1 * sorted(peers.values())[1] + 0.1  # the window that suits one series is not known beforehand
    inside = [_inside(case) for case in growing.cases(kind, 100, seed=9)]
    assert sum(inside) >= 80


def _inside(case: Case) -> bool:
    full, true = forecast(case.samples, case.quota_bytes, case.now).full, case.now + case.days_to_full * DAY
    return full.earliest is not None and full.earliest <= true and (full.latest is None or true <= full.latest)


@pytest.mark.parametrize("kind", KINDS)
def test_the_range_holds_what_comes(kind: str) -> None:
    assert sum(map(_inside, growing.cases(kind, 2, seed=2))) >= 1


@pytest.mark.parametrize("every", [1, 7])
def test_runs_that_give_back_what_comes_keep_a_tier_from_filling(every: int) -> None:
    rng = random.Random(every)  # noqa: S311 - series, not secrets
    case = growing.made(rng, grow=lambda r, _h: r.uniform(0.1, 0.6), run_every_days=every, run_gives_back=1.0)
    found = forecast(case.samples, 2 * max(s.bytes for s in case.samples), case.now)
    assert found.full.likely is None
    assert found.bytes_per_day == pytest.approx(8.4 * MB, rel=0.1)
    assert abs(found.net_bytes_per_day) < 0.1 * found.bytes_per_day
    assert found.runs_per_week == pytest.approx(7 / every, rel=0.1)
    assert found.full_without_runs.likely is not None  # without them it would


def test_an_exact_sawtooth_fills_at_the_top_of_its_last_tooth() -> None:
    levels, level = [], 100.0
    for hour in range(49 * 24):
        level += 0.5 - (70.0 if hour % 168 == 167 else 0.0)  # 84 MB come in a week, 70 go
        levels.append(level)
    found = told(hourly(levels), quota_mb=400)
    assert found.days_to_full is not None
    truth, level = 0, levels[-1]
    while level < 400:
        truth += 1
        level += 0.5 - (70.0 if truth % 168 == 0 else 0.0)
    assert found.days_to_full == pytest.approx(truth / 24, abs=1.0)


def test_a_short_history_is_said_to_be_short_and_gives_no_figure() -> None:
    for samples in ([], hourly([100]), hourly([100, 180, 260, 340])):
        found = forecast(samples, 500 * MB, START + DAY)
        assert found.confidence == "none"
        assert found.full == f.NEVER
        assert found.bytes_per_day == 0
        assert "history" in found.reason
        assert not full_before(found, START + 30 * DAY)


def test_a_tier_that_is_full_is_said_to_be_full_without_any_history() -> None:
    found = forecast(hourly([500]), 500 * MB, START + DAY)
    assert found.full.likely == START + DAY
    assert full_before(found, START + DAY)


def test_confidence_grows_with_the_history_and_goes_with_its_age() -> None:
    line = [100 + h / 24 for h in range(60 * 24)]
    said = {days: told(hourly(line[: days * 24])).confidence for days in (2, 10, 40)}
    assert said == {2: "low", 10: "medium", 40: "high"}
    samples = hourly(line[: 40 * 24])
    late = forecast(samples, 500 * MB, samples[-1].at + 10 * DAY)
    assert late.confidence == "low"
    assert "last sample is 10 days old" in late.reason


@pytest.mark.parametrize("noise_mb", [1, 20])
def test_noise_alone_neither_fills_a_tier_nor_triggers(noise_mb: float) -> None:
    rng = random.Random(7)  # noqa: S311 - as above
    for _ in range(3):
        case = growing.made(rng, grow=lambda _r, _h: 0.0, noise_mb=noise_mb)
        found = forecast(case.samples, int((120 + 4 * noise_mb) * MB), case.now)
        assert found.full.likely is None
        assert not full_before(found, case.now + DAY)


def test_the_trigger_asks_for_the_early_end_and_a_likely_one_that_is_near() -> None:
    found = told(hourly([100 + 10 * h / 24 for h in range(30 * 24)]), quota_mb=430)
    assert found.days_to_full == pytest.approx(3.0, abs=0.1)
    assert full_before(found, found.at + 4 * DAY)
    assert not full_before(found, found.at + DAY)
    assert not full_before(found, found.at)
    wide = replace(found, full_without_runs=f.FullAt(found.at + DAY / 2, found.at + 10 * DAY, None))
    assert not full_before(wide, found.at + DAY)
    assert full_before(wide, found.at + 6 * DAY)


def test_what_begins_to_grow_today_may_be_full_soon() -> None:
    """Nobody knows yet whether it goes on: it is the early end of the range, not the likely one."""
    found = told(hourly([100.0] * 56 * 24 + [100 + 20 * h / 24 for h in range(24)]), quota_mb=220)
    assert found.full.likely is None
    assert found.full.earliest is not None
    assert (found.full.earliest - found.at) / DAY == pytest.approx(5.0 / 1.25 - 0.5, abs=0.1)
    assert found.full_without_runs.earliest == found.full.earliest


def test_a_flood_of_these_hours_triggers_and_one_that_is_over_does_not() -> None:
    calm = [100 + 5 * h / 24 for h in range(30 * 24)]
    flood = calm + [calm[-1] + 12 * k for k in range(1, 9)]
    found = told(hourly(flood))
    assert found.surge_bytes_per_day == pytest.approx(12 * 24 * MB, rel=0.05)
    assert full_before(found, found.at + DAY)
    over = told(hourly(flood + [flood[-1] + k / 5 for k in range(1, 30)]))
    assert over.surge_bytes_per_day is None
    assert not full_before(over, over.at + DAY)
    step = told(hourly([*calm, calm[-1] + 96]))
    assert not full_before(step, step.at + DAY)


@pytest.mark.parametrize("kind", sampled(KINDS, "uneven days", "sawtooth, run each day"))
def test_what_comes_is_the_forecasts_own_however_little_of_it_is_drawn(kind: str) -> None:
    (case,) = growing.cases(kind, 1, seed=3)
    used, feared = case.samples[-1].bytes, 0
    for lacks_mb in (-1, 0.01, 6, 25, 400):
        for ahead in (DAY / 4, 2 * DAY):
            quota_bytes, instant = int(used + lacks_mb * MB), case.now + ahead
            whole = forecast(case.samples, quota_bytes, case.now)
            assert coming(case.samples, quota_bytes, case.now, instant) == coming_bytes(whole, instant)
            feared += full_before(whole, instant) and lacks_mb > 0
    assert feared


@pytest.mark.parametrize("hours", [14, 60, 100, 200])
def test_growth_that_has_just_begun_is_seen_as_long_as_it_lasts(hours: int) -> None:
    """5 MB an hour after a month of next to nothing: neither its first hours nor its first days make it the usual."""
    noise = random.Random(5)  # noqa: S311
    calm = [100 + h / 240 + noise.uniform(-0.1, 0.1) for h in range(30 * 24)]
    level = calm[-1] + 5 * hours
    found = told(hourly(calm + [calm[-1] + 5 * k for k in range(1, hours + 1)]), level + 100)
    assert full_before(found, found.at + DAY)
    assert found.confidence == "low" or found.days_to_full == pytest.approx(100 / 120, abs=0.2)


def test_a_tier_that_was_relieved_a_minute_ago_is_not_said_to_be_full() -> None:
    grows = hourly([300 + h / 4 for h in range(30 * 24)])
    at = grows[-1].at + timedelta(hours=1)
    over = [Sample(at + timedelta(minutes=5 * k), 490 * MB) for k in range(4)]
    found = told([*grows, *over, Sample(at + timedelta(minutes=20), 300 * MB)], 485)
    assert found.full.earliest is not None
    assert found.full.earliest > found.at + 10 * DAY
    assert not full_before(found, found.at + DAY)


def test_slow_days_do_not_hide_that_it_grows() -> None:
    noise = random.Random(6)  # noqa: S311
    days = [0.0]
    for day in range(40):
        days.append(days[-1] + (noise.uniform(4, 6) if day < 36 else 0.2))
    levels = [100 + days[h // 24] + (days[h // 24 + 1] - days[h // 24]) * (h % 24) / 24 for h in range(40 * 24)]
    assert told(hourly(levels)).bytes_per_day > 3 * MB


def test_the_driver_is_the_table_that_adds_most() -> None:
    small = hourly([50 + h / 24 for h in range(240)])
    large = hourly([400.0] * 240)
    falling = hourly([400 - h / 24 for h in range(240)])
    names = [TableName("public", n) for n in ("small", "large", "falling")]
    found = f.driver(dict(zip(names, (small, large, falling), strict=True)), small[-1].at)
    assert found is not None
    assert found[0] == names[0]
    assert found[1] == pytest.approx(MB, rel=0.01)
    assert f.driver({names[1]: large}, large[-1].at) is None


series = st.lists(st.tuples(st.integers(0, 60 * 24 * 12), st.integers(0, 10**12)), min_size=1, max_size=40)


@settings(max_examples=50)
@given(series, st.integers(1, 10**12), st.integers(2, 1000), st.randoms(use_true_random=False))
def test_any_series_gets_an_answer_whatever_its_order_and_unit(
    raw: list[tuple[int, int]], quota: int, factor: int, rng: random.Random
) -> None:
    samples = [Sample(START + timedelta(minutes=5 * at), size) for at, size in dict(raw).items()]
    now = max(s.at for s in samples)
    found = forecast(samples, quota, now)
    full = found.full
    ends = [e for e in (full.earliest, full.likely, full.latest) if e is not None]
    assert ends == sorted(ends)
    assert all(e >= now for e in ends)
    assert full.likely is None or full.earliest is not None
    assert found.bytes_per_day >= 0
    shuffled = list(samples)
    rng.shuffle(shuffled)
    assert forecast(shuffled, quota, now) == found


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_the_slope_is_that_of_least_squares(levels: list[float]) -> None:
    n, mean = len(levels), sum(levels) / len(levels)
    xs = [k - (n - 1) / 2 for k in range(n)]
    exact = sum(x * (y - mean) for x, y in zip(xs, levels, strict=True)) / sum(x * x for x in xs)
    assert slope([b - a for a, b in pairwise(levels)]) == pytest.approx(exact, abs=1e-3, rel=1e-6)


def test_falls_are_kept_apart_and_spikes_are_not_growth() -> None:
    levels = [100 + h / 24 for h in range(20 * 24)]
    levels[100] = 900
    levels = [mb - (10 if h >= 300 else 0) for h, mb in enumerate(levels)]
    found = growth(hourly(levels), START + 20 * DAY)
    assert found is not None
    assert [round(fall.bytes / MB) for fall in found.falls] == [10]
    assert found.rate == pytest.approx(MB, rel=0.01)
