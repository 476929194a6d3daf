import random
import tomllib
from itertools import pairwise, product

import pytest

from tierkeeper.kernel.policy import TIERS
from tierkeeper.kernel.tables import TableName
from tierkeeper.quotas import stock as s
from tierkeeper.quotas.propose import optimise, what_if
from tierkeeper.quotas.stock import Asked, Bounds, Cutoffs, Slice, Stock, World
from tierkeeper.tiers.price import NOTHING, Price

MB = 10**6
GRID = (7, 30, 90)
PRICES = {
    "core": Price(storage_per_gb_month=10.0),
    "main": Price(storage_per_gb_month=1.0, requests_per_million=5.0),
    "archive": Price(storage_per_gb_month=0.1, requests_per_million=50.0),
}
FLIGHTS = TableName("public", "flights")


def stock(name: str = "flights", **more: object) -> Stock:
    """A year of rows, 1,000 a day of 1 kB, of which Core keeps 30 days and Main all the others."""
    given = {
        "now": Cutoffs(30, 365),
        "slices": (Slice(0, 365, 365_000),),
        "row_bytes": {"core": 1_000.0, "main": 1_000.0, "archive": 200.0},
        "rows_per_day": 1_000.0,
        "asked": Asked(((7, 900), (30, 50), (90, 40), (400, 10)), everything=3, days=30),
    }
    return Stock(TableName("public", name), **{**given, **more})  # type: ignore[arg-type]


def world(*stocks: Stock, core_mb: float = 500, main_mb: float = 10_000, archive_mb: float = 100_000, **more: object) -> World:
    given = {
        "others": {"core": 20.0 * MB, "main": 0.0, "archive": 0.0},
        "quotas": {"core": int(core_mb * MB), "main": int(main_mb * MB), "archive": int(archive_mb * MB)},
        "prices": PRICES,
        "start_at": 0.85,
    }
    return World(stocks, **{**given, **more})  # type: ignore[arg-type]


def test_rows_lie_where_their_age_puts_them() -> None:
    one = stock()
    assert one.bytes_at(Cutoffs(30, 90), 0) == pytest.approx((30 * MB, 60 * MB, 0.2 * 275 * MB))
    assert one.bytes_at(Cutoffs(30, 90), 10) == pytest.approx((30 * MB, 60 * MB, 0.2 * 285 * MB))  # ten days more, all old
    assert one.bytes_at(Cutoffs(None, None), 10) == pytest.approx((375 * MB, 0, 0))
    assert stock(undated_rows=5_000).bytes_at(Cutoffs(30, 90), 0)[0] == pytest.approx(35 * MB)


def test_what_lies_deeper_than_its_age_asks_does_not_come_back() -> None:
    """Rows that left early, or by a shorter cutoff: a longer one fills Core with what comes, and no faster."""
    one = stock(slices=(Slice(0, 10, 10_000), Slice(10, 60, 50_000, "main"), Slice(60, 365, 305_000, "archive")))
    assert one.bytes_at(Cutoffs(30, 90), 0) == pytest.approx((10 * MB, 50 * MB, 0.2 * 305 * MB))
    assert one.bytes_at(Cutoffs(30, 90), 10) == pytest.approx((20 * MB, 50 * MB, 0.2 * 305 * MB))
    assert one.bytes_at(Cutoffs(30, 90), 30) == pytest.approx((30 * MB, 60 * MB, 0.2 * 305 * MB))
    assert one.bytes_at(Cutoffs(30, 90), 40) == pytest.approx((30 * MB, 60 * MB, 0.2 * 315 * MB))
    assert one.bytes_at(Cutoffs(5, 20), 0) == pytest.approx((5 * MB, 15 * MB, 0.2 * 345 * MB))
    assert one.younger(100) == pytest.approx(100_000)
    told = what_if(world(one), {FLIGHTS: Cutoffs(90, 365)})
    assert told.after["core"].used_bytes == pytest.approx(60 * MB, rel=0.001)  # 20 besides, ten days, and thirty that come


def test_reads_of_rows_that_have_left_already_are_paid_for_and_told() -> None:
    """Core's cutoff is 90 days, and what is older than 30 lies in Main: a read of 90 days reaches it for two months."""
    left = stock(now=Cutoffs(90, 365), slices=(Slice(0, 30, 30_000), Slice(30, 365, 335_000, "main")))
    there = stock(now=Cutoffs(90, 365))
    prices = {**PRICES, "main": Price(requests_per_million=1e6)}  # one each, and nothing else
    free = {**PRICES, "main": Price()}
    paid = [s.cost_of(one, one.now, prices) - s.cost_of(one, one.now, free) for one in (left, there)]
    assert paid == [pytest.approx(40 + 13), pytest.approx(13)]  # a month: forty of 90 days, ten of 400, three of everything
    (note,) = [n for n in what_if(world(left), {}).notes if "have left it already" in n]
    assert note.startswith("40 of the reads")
    assert "30 days" in note
    assert "over in 59 days" in note
    assert "tierkeeper move public.flights --from main --to core" in note
    assert any("have left it already" in n for n in optimise(world(left), 0.98).notes)
    assert not any("have left it already" in n for n in what_if(world(there), {}).notes)
    shorter = what_if(world(left), {FLIGHTS: Cutoffs(30, 365)})
    assert not any("have left it already" in n for n in shorter.notes)


def test_slices_may_lie_over_each_other() -> None:
    one = stock(slices=(Slice(0, 1, 50), Slice(1, 9, 50), Slice(0, 4, 40)))
    assert one.younger(1) == pytest.approx(50 + 10)
    assert one.younger(5) == pytest.approx(50 + 25 + 40)
    assert one.younger(100) == pytest.approx(140)


def test_the_cheapest_cutoffs_keep_the_promise_and_no_more() -> None:
    found = optimise(world(stock()), 0.95)
    assert found.feasible
    assert found.optimal
    (change,) = found.changes  # 30 days keep just 95 % of the reads; no row older than 90 days was read at Main
    assert (change.proposed_core_days, change.proposed_main_days) == (30, 90)
    loose = optimise(world(stock()), 0.90)
    (change,) = loose.changes
    assert (change.proposed_core_days, change.proposed_reads_in_core) == (7, 0.9)
    assert loose.cost_per_month_after is not None
    assert loose.cost_per_month_before is not None
    assert loose.cost_per_month_after < loose.cost_per_month_before
    assert tomllib.loads(loose.toml)["tables"][0]["core"] == "7 days"


def test_it_proposes_nothing_that_the_tables_entry_would_refuse() -> None:
    free = optimise(world(stock()), 0.5)
    kept = optimise(world(stock(bounds=Bounds(core=14, main=100, archive=200))), 0.5)
    assert [(c.proposed_core_days, c.proposed_main_days) for c in free.changes] == [(7, 90)]
    assert [(c.proposed_core_days, c.proposed_main_days) for c in kept.changes] == [(14, 120)]


def test_where_nothing_costs_anything_nothing_is_changed() -> None:
    free = world(stock(), prices=dict.fromkeys(TIERS, NOTHING))
    assert optimise(free, 0.95).changes == []


def test_what_saves_as_good_as_nothing_is_told_as_such() -> None:
    cheap, dear = (optimise(world(stock(), prices={**PRICES, "main": Price(price)}), 0.95) for price in (0.05, 50.0))
    assert cheap.changes and dear.changes
    assert "as good as the same" in cheap.notes[-1]
    assert not any("as good as the same" in note for note in dear.notes)


def test_a_promise_that_the_quota_forbids_says_the_nearest() -> None:
    found = optimise(world(stock(), core_mb=40), 0.95)  # 34 MB, of which 20 are others': 14 days at most
    assert not found.feasible
    (unmet,) = found.unmet
    assert unmet.constraint == "reads_in_core"
    assert unmet.wanted == 0.95
    assert unmet.possible == 0.9
    assert "90.0%" in unmet.cause
    assert optimise(world(stock(), core_mb=40), unmet.possible).feasible
    (none,) = optimise(world(stock(asked=Asked(((90, 1),))), core_mb=40), 0.95).unmet
    assert "at most 0.0% of" in none.cause


def test_a_quota_that_cannot_be_kept_says_by_how_much() -> None:
    found = optimise(world(stock(undated_rows=500_000)), 0.5)
    (unmet,) = found.unmet
    assert unmet.constraint == "core"
    assert unmet.possible == pytest.approx(521 * MB, rel=0.01)
    assert "96" in unmet.cause  # MB more than 85 % of 500
    both = optimise(world(stock(), others={"core": 600.0 * MB, "main": 11_000.0 * MB, "archive": 0.0}), 0.5)
    assert [u.constraint for u in both.unmet] == ["core", "main"]


def test_quotas_couple_the_tables() -> None:
    one, two = stock("one"), stock("two", asked=Asked(((7, 10), (90, 5)), days=30))
    place = world(one, two, core_mb=75)  # 44 MB beside the others': one of them may keep a month, not both
    found = optimise(place, 0.94)
    assert found.reads_in_core_after == round(960 / 1015, 4)
    assert found.after["core"].used_bytes <= found.after["core"].limit_bytes
    assert optimise(place, 0.95).unmet[0].possible == round(960 / 1015, 4)


def test_more_reads_reach_the_archive_only_where_the_quotas_leave_no_other_way() -> None:
    found = optimise(world(stock(), core_mb=70, main_mb=50), 0.95)
    assert found.feasible
    assert found.changes[0].proposed_main_days is not None
    assert found.changes[0].proposed_main_days < 90
    assert any("reach the archive" in note for note in found.notes)


def brute_force(place: World, promise: float) -> float | None:
    def ways(one: Stock) -> list[Cutoffs]:
        edges = {int(-(-oldest // 1)) for oldest, _ in one.asked.reads if oldest <= GRID[-1]}
        grid = sorted({*GRID, *edges, *(d for d in (one.now.core, one.now.main) if d)})
        return [Cutoffs(c, m) for c in grid for m in grid if m >= c]

    total = sum(one.asked.total for one in place.stocks)
    spared = sum(one.asked.within(one.now.ends[1]) for one in place.stocks)
    best: dict[bool, float] = {}  # by whether no more reads reach the archive than now
    for chosen in product(*map(ways, place.stocks)):
        pairs = list(zip(place.stocks, chosen, strict=True))
        if sum(o.asked.within(c.ends[0]) for o, c in pairs) < promise * total - 1e-9:
            continue
        used = [place.others_at(t, 30) + sum(s.peak(o, c)[k] for o, c in pairs) for k, t in enumerate(TIERS)]
        if any(u > place.limit(t) * (1 + 1e-9) for u, t in zip(used, TIERS, strict=True)):
            continue
        if any(sum(s.sent(o, c)[t] for o, c in pairs) > most * (1 + 1e-9) for t, most in place.egress.items()):
            continue
        cost = sum(s.cost_of(o, c, place.prices) for o, c in pairs)
        spares = sum(o.asked.within(c.ends[1]) for o, c in pairs) >= spared
        best[spares] = min(best.get(spares, cost), cost)
    return best.get(True, best.get(False))


def random_world(rng: random.Random) -> World:
    def one(i: int) -> Stock:
        edges = sorted(rng.uniform(0, 400) for _ in range(4))
        rows = tuple(Slice(a, b + 1, rng.randint(100, 200_000)) for a, b in pairwise(edges))
        reads = tuple((float(rng.choice((1, 5, 20, 60, 200))), rng.randint(0, 50)) for _ in range(3))
        core = rng.choice(GRID)
        now = Cutoffs(core, rng.choice([d for d in GRID if d >= core]))
        return stock(f"t{i}", now=now, slices=rows, rows_per_day=rng.uniform(0, 3_000), asked=Asked(reads, days=30))

    prices = {t: Price(rng.uniform(0, 5), rng.uniform(0, 1), rng.uniform(0, 9_000)) for t in TIERS}
    quotas = {"core_mb": rng.uniform(50, 500), "main_mb": rng.uniform(50, 900), "archive_mb": rng.uniform(30, 500)}
    egress = {t: rng.uniform(20, 900) * MB for t in ("core", "main") if rng.random() < 0.3}
    growing = {"core": rng.choice((0.0, rng.uniform(0, 2) * MB))}
    return world(*(one(i) for i in range(rng.randint(1, 2))), prices=prices, egress=egress, others_per_day=growing, **quotas)


def test_it_proposes_what_brute_force_finds_in_many_worlds() -> None:
    rng, impossible = random.Random(11), 0  # noqa: S311 - worlds, not secrets
    for _ in range(80):
        place, promise = random_world(rng), rng.choice((0.3, 0.6, 0.8, 0.95))
        best, found = brute_force(place, promise), optimise(place, promise, GRID)
        assert found.feasible == (best is not None)
        if best is None:
            impossible += 1
            assert found.unmet
            continue
        assert found.optimal
        assert found.cost_per_month_after is not None
        fixed = sum(place.others_at(t, 15) / s.GB * place.prices[t].storage_per_gb_month for t in TIERS)
        assert found.cost_per_month_after == pytest.approx(best + fixed, abs=2e-4)  # amounts are rounded
    assert 8 < impossible < 64


def test_what_if_shows_both_sides_and_the_time_to_full() -> None:
    growing = world(stock(slices=(Slice(0, 100, 100_000),), now=Cutoffs(None, None)), core_mb=300)
    found = what_if(growing, {FLIGHTS: Cutoffs(45, None)})
    assert found.before["core"].days_to_full == pytest.approx(180, abs=1)  # 120 MB of 300, one a day
    assert found.after["core"].days_to_full is None
    assert found.after["core"].used_bytes == pytest.approx(65 * MB, rel=0.01)
    assert found.changes[0].proposed_core_days == 45
    assert found.within_quotas
    assert found.reads_in_core_before == 1.0
    assert found.reads_in_core_after == 0.95


def test_a_budget_of_egress_bounds_how_much_leaves_at_once() -> None:
    """By 7 days instead of 30, 23 MB leave at once and 30 more in the month; by 30 days the month's 30 alone."""
    one = stock()
    assert s.sent(one, Cutoffs(7, 365))["core"] == pytest.approx(53 * MB)
    assert s.sent(one, Cutoffs(30, 365)) == pytest.approx({"core": 30 * MB, "main": (30 + 30) * MB})
    assert s.sent(one, Cutoffs(90, 365)) == pytest.approx({"core": 0, "main": 30 * MB})  # a month's old rows go on as before
    free, bound = (optimise(world(one, egress=egress), 0.5) for egress in ({}, {"core": 40.0 * MB}))
    assert [c.proposed_core_days for c in free.changes] == [7]
    assert bound.feasible
    assert all(c.proposed_core_days is not None and c.proposed_core_days > 18 for c in bound.changes)
    none = optimise(world(one, egress={"core": 10.0 * MB}, core_mb=90), 0.5)  # a month and a half at most fits into Core
    (unmet,) = none.unmet
    assert (unmet.constraint, unmet.wanted) == ("egress of core", 10 * MB)
    assert 10 * MB < unmet.possible <= 30 * MB
    assert "10.0 MB are left" in unmet.cause


def test_what_no_cutoff_moves_grows_on_as_its_history_does() -> None:
    still, growing = (
        what_if(world(stock(), others_per_day=others), {FLIGHTS: Cutoffs(30, 365)}) for others in ({}, {"core": 5.0 * MB})
    )
    assert still.before["core"].days_to_full is None
    assert growing.before["core"].days_to_full == pytest.approx((500 - 50) / 5, abs=1)
    assert growing.before["core"].used_bytes == pytest.approx(50 * MB + 30 * 5 * MB, rel=0.01)


def test_without_asked_ages_it_says_so() -> None:
    found = optimise(world(stock(asked=Asked())), 0.95)
    assert found.feasible
    assert found.reads_in_core_after is None
    assert "no ages were asked for yet" in found.notes[0]
    assert "and do not count: 3" in optimise(world(stock()), 0.5).notes[0]
