"""What `adaptive` and the Chooser promise, on simulated pools: the sick one's share, how soon, and that nothing else moves."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from balancing import BALANCERS, Choosing, Fault, RoundRobin, Trace, Weighted, World, simulate

SEEDS = (1, 2, 3)
FAULTS = {
    "gray": Fault(0, 6, 14, added_seconds=0.05),
    "hangs": Fault(0, 6, 14, hangs=True),
    "refuses": Fault(0, 6, 14, refuses=True),
    "errors": Fault(0, 6, 14, error_share=0.1),
    "capped": Fault(0, 6, 14, slots=1, slower=12),
}
POOL = World(rate=600, seconds=20)


@cache
def ran(world: World, balancer: str = "adaptive") -> tuple[Trace, Weighted | None]:
    made = BALANCERS[balancer](world)
    trace = simulate(world, made)
    return trace, made if isinstance(made, Weighted) else None


def sick(fault: str, seed: int, pool: World = POOL) -> World:
    return replace(pool, seed=seed, faults=(FAULTS[fault],))


@pytest.mark.parametrize("fault", ["gray", "hangs", "refuses", "capped"])
def test_the_sick_one_is_shed_in_half_a_second_and_back_in_five(fault: str) -> None:
    for seed in SEEDS:
        trace, _ = ran(sick(fault, seed))
        shed, back = trace.first_below(0, 0.015, 6), trace.first_above(0, 0.9 / 3, 14)
        assert shed is not None, seed
        assert shed <= 0.5, seed
        assert trace.share(0, 7, 14) <= 0.005, seed
        assert back is not None, seed
        assert back <= 5, seed


def test_one_that_fails_a_tenth_is_shed_soon_and_mostly_back_in_five() -> None:
    """Three errors have to come, and none for as long as the trickle needs to show it: chance has its part."""
    found = [ran(sick("errors", seed))[0] for seed in range(1, 8)]
    sheds = [trace.first_below(0, 0.03, 6) for trace in found]
    assert statistics.median(s for s in sheds if s is not None) <= 0.5
    assert max(s for s in sheds if s is not None) <= 1.0
    assert statistics.median(trace.share(0, 7, 14) for trace in found) <= 0.005
    assert max(trace.share(0, 7, 14) for trace in found) <= 0.02
    assert statistics.median(trace.first_above(0, 0.9 / 3, 14) or 9.0 for trace in found) <= 5
    assert max(trace.errors(7, 14) for trace in found) <= 0.1 * 0.02


@pytest.mark.parametrize("fault", ["gray", "capped"])
def test_the_slowest_hundredth_is_hardly_slower_while_one_is_sick(fault: str) -> None:
    pool = replace(POOL, rate=1000)
    for seed in SEEDS:
        trace, _ = ran(sick(fault, seed, pool))
        assert trace.percentile(0.99, 7, 14) <= 1.2 * trace.percentile(0.99, 1, 6), seed


@pytest.mark.parametrize(
    "world",
    [
        World(rate=1000, seconds=25),
        World(rate=20, seconds=200),
        World(rate=600, seconds=60, heavy_share=0.05, slots=64),
        World(rate=60, seconds=150, heavy_share=0.02, slots=64),
        World(rate=600, seconds=60, errors=0.001),
        World(rate=1000, seconds=30, slots=2, service_seconds=0.005),
        World(rate=600, seconds=30, weights=(1, 3, 10)),
        World(rate=500, seconds=6, backends=100),
    ],
    ids=[
        "busy",
        "quiet",
        "heavy tail",
        "thin and heavy",
        "one in a thousand fails",
        "near its limit",
        "configured weights",
        "hundred",
    ],
)
def test_where_all_are_well_weights_stay_put(world: World) -> None:
    for seed in SEEDS[: 1 if world.backends > 3 else 3]:
        trace, balancer = ran(world.with_seed(seed))
        assert balancer is not None
        assert balancer.changes == [], seed
        total = sum(world.weights or (1,) * world.backends)
        for b, weight in enumerate((world.weights or (1,) * world.backends)[:3]):
            assert trace.share(b, 1, world.seconds) == pytest.approx(weight / total, rel=0.05, abs=0.001)


def test_where_errors_are_everybodys_nobody_is_blamed_for_long() -> None:
    changes = 0
    for seed in SEEDS:
        trace, balancer = ran(World(rate=600, seconds=60, errors=0.03, seed=seed))
        assert balancer is not None
        assert all(trace.share(b, 5, 60) > 0.25 for b in range(3))
        changes += len(balancer.changes)
    assert changes <= 20


def test_one_that_is_well_at_a_trickle_and_not_under_load_is_seldom_tried() -> None:
    """A ramp takes some eight changes; without a hold there would be one every four seconds."""
    trace, balancer = ran(World(rate=1000, seconds=45, faults=(Fault(0, 5, 45, slots=1, slower=1.2),)))
    assert balancer is not None
    assert len(balancer.changes) <= 30
    assert trace.share(0, 6, 45) <= 0.015
    assert trace.percentile(0.99, 6, 45) <= 1.2 * trace.percentile(0.99, 1, 5)


def test_one_that_was_tried_in_vain_is_back_soon_when_its_cap_is_gone() -> None:
    """The less of its share a try in vain had cost, the sooner the next one comes."""
    for seed in SEEDS:
        trace, _ = ran(World(rate=900, seconds=24, faults=(Fault(0, 4, 12, slots=1, slower=2.6),)).with_seed(seed))
        back = trace.first_above(0, 0.3, 12)
        assert back is not None
        assert back <= 6
        assert trace.percentile(0.99, 5, 12) <= 1.2 * trace.percentile(0.99, 1, 4)


def test_one_that_is_held_is_tried_when_another_has_gone() -> None:
    """Else the third of three would carry all by itself, beside one that is well by now."""
    world = World(rate=900, seconds=20, faults=(Fault(0, 2, 11.5, slots=1, slower=1.2), Fault(1, 12, 20, refuses=True)))
    for seed in SEEDS:
        trace, _ = ran(world.with_seed(seed))
        back = trace.first_above(0, 0.45, 12)
        assert back is not None
        assert back <= 4


@pytest.mark.parametrize("ill", ["gray", "refuses"])
def test_where_all_are_sick_alike_all_share(ill: str) -> None:
    for seed in SEEDS:
        trace, _ = ran(replace(POOL, seed=seed, faults=tuple(replace(FAULTS[ill], backend=b) for b in range(3))))
        assert all(abs(trace.share(b, 7, 14) - 1 / 3) < 0.02 for b in range(3))


def test_two_of_three_that_fail_are_more_than_can_be_shed() -> None:
    trace, balancer = ran(replace(POOL, faults=tuple(replace(FAULTS["refuses"], backend=b) for b in range(2))))
    assert balancer is not None
    assert all(abs(trace.share(b, 7, 14) - 1 / 3) < 0.02 for b in range(3))


def test_one_alone_keeps_all() -> None:
    _, balancer = ran(replace(POOL, backends=1, rate=150, faults=(FAULTS["gray"],)))
    assert balancer is not None
    assert balancer.changes == []


def test_of_two_the_sick_one_is_shed_too() -> None:
    trace, _ = ran(replace(POOL, backends=2, faults=(FAULTS["gray"],)))
    assert trace.share(0, 7, 14) <= 0.005
    assert trace.share(0, 18, 20) == pytest.approx(0.5, abs=0.02)


def test_of_a_hundred_with_little_traffic_each_the_sick_one_is_found() -> None:
    world = World(rate=1000, seconds=8, backends=100, faults=(Fault(0, 2, 5, added_seconds=0.05),))
    trace, balancer = ran(world)
    assert balancer is not None
    assert trace.share(0, 3, 5) <= 0.005
    assert trace.share(0, 3, 5) < trace.share(1, 3, 5) / 3
    assert {name for _, weights in balancer.changes for name, weight in weights.items() if weight < 50} == {"b0"}


def test_slower_hardware_has_a_moderate_share_and_keeps_it() -> None:
    for seed in SEEDS:
        trace, balancer = ran(World(rate=600, seconds=40, hardware=(2.0, 1.0, 1.0), seed=seed))
        assert balancer is not None
        assert 0.12 <= trace.share(0, 20, 40) <= 0.3
        assert len(balancer.changes) <= 3


def test_one_that_flaps_comes_back_ever_more_seldom_and_in_the_end() -> None:
    flaps = tuple(Fault(0, 5 + 3 * i, 7 + 3 * i, added_seconds=0.05) for i in range(10))
    trace, balancer = ran(World(rate=600, seconds=75, faults=flaps))
    assert balancer is not None
    assert trace.share(0, 7, 34) < 0.05
    assert len(balancer.changes) <= 60
    assert trace.share(0, 70, 75) == pytest.approx(1 / 3, abs=0.01)


def test_a_restart_that_begins_cold_gets_its_share_when_it_is_warm() -> None:
    world = World(rate=600, seconds=25, faults=(Fault(0, 5, 6, refuses=True), Fault(0, 6, 9, slower=5.0)))
    for seed in SEEDS:
        trace, _ = ran(world.with_seed(seed))
        assert trace.share(0, 6, 9) < 0.05, seed
        back = trace.first_above(0, 0.3, 9)
        assert back is not None, seed
        assert back <= 5, seed


@pytest.mark.parametrize("fault", list(FAULTS))
def test_nobody_starves(fault: str) -> None:
    trace, _ = ran(sick(fault, 1))
    assert trace.longest_silence(0, 6, 14) <= 1.5


def test_a_backend_that_comes_back_is_not_fallen_upon() -> None:
    """In no tenth of a second it gets more than twice its fair share, and it does not go from a trickle to all at once."""
    trace, _ = ran(sick("gray", 1, replace(POOL, rate=1000)))
    for tenth in range(140, 190):
        assert trace.share(0, tenth / 10, tenth / 10 + 0.1) <= 2 / 3
    shares = [trace.share(0, 14 + k / 5, 14.2 + k / 5) for k in range(25)]
    assert sum(0.02 < s < 0.28 for s in shares) >= 3


def test_every_change_can_be_replayed_to_the_bit() -> None:
    from tierkeeper.balance import adaptive

    world = replace(POOL, seconds=12, rate=300, faults=(replace(FAULTS["gray"], start=3, end=6),))
    balancer = Weighted(world)
    balancer.record = True
    simulate(world, balancer)
    assert len(balancer.changes) >= 5
    assert adaptive.replay(balancer.lines) == balancer.state
    half = len(balancer.lines) // 2
    checkpoint = adaptive.state_line(adaptive.replay(balancer.lines[:half]))
    assert adaptive.replay([checkpoint, *balancer.lines[half:]]) == balancer.state


OTHERS: dict[str, Callable[[World], Choosing | RoundRobin]] = {
    "round robin": RoundRobin,
    "least request": lambda w: Choosing(w, "least_request"),
}


@pytest.mark.parametrize("mine", ["adaptive", "peak-EWMA of two"])
@pytest.mark.parametrize("fault", ["gray", "capped"])
def test_both_are_far_better_than_what_looks_at_no_latency(mine: str, fault: str) -> None:
    world = sick(fault, 1, replace(POOL, rate=1000, faults=()))
    own, _ = ran(world, mine)
    for name in OTHERS:
        other, _ = ran(world, name)
        assert own.percentile(0.99, 7, 14) * 1.5 < other.percentile(0.99, 7, 14), name


def test_the_choosers_own_sheds_what_is_slow_or_fails_and_takes_it_back() -> None:
    for fault in ("gray", "errors"):
        trace, _ = ran(sick(fault, 1), "peak-EWMA of two")
        assert trace.share(0, 7, 14) <= 0.01, fault
        assert trace.share(0, 18, 20) > 0.25, fault
