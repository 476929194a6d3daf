import random
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.quotas.choosing import Option, choose


def brute_force(items: list[list[Option]], limits: list[float]) -> float | None:
    costs = [
        sum(o.cost for o in chosen)
        for chosen in product(*items)
        if all(sum(o.uses[k] for o in chosen) <= limit for k, limit in enumerate(limits))
    ]
    return min(costs, default=None)


def instance(rng: random.Random) -> tuple[list[list[Option]], list[float]]:
    items = [
        [Option(rng.randint(0, 50), tuple(rng.randint(-20, 40) for _ in range(3)), i) for i in range(rng.randint(1, 6))]
        for _ in range(rng.randint(1, 4))
    ]
    return items, [rng.randint(-20, 90) for _ in range(3)]


def test_it_finds_what_brute_force_finds_in_hundreds_of_instances() -> None:
    rng, impossible = random.Random(5), 0  # noqa: S311 - instances, not secrets
    for _ in range(220):
        items, limits = instance(rng)
        best, found = brute_force(items, limits), choose(items, limits)
        if best is None:
            impossible += 1
            assert found is None
            continue
        assert found is not None
        assert found.optimal
        assert abs(found.cost - best) < 1e-6
        assert abs(sum(o.cost for o in found.options) - best) < 1e-6
        assert all(o in options for o, options in zip(found.options, items, strict=True))
        assert all(sum(o.uses[k] for o in found.options) <= limit + 1e-6 for k, limit in enumerate(limits))
    assert 22 < impossible < 170


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_a_search_that_is_cut_short_says_how_far_off_it_may_be(seed: int) -> None:
    items, limits = instance(random.Random(seed))  # noqa: S311 - as above
    best, found = brute_force(items, limits), choose(items, limits, nodes=6)
    if best is not None and found is not None:
        assert found.bound - 1e-6 <= best <= found.cost + 1e-6
        assert found.gap >= found.cost - best - 1e-6


def test_many_items_with_many_options_are_chosen_soon_and_nearly_the_best() -> None:
    rng = random.Random(3)  # noqa: S311 - as above
    items = []
    for _ in range(8):
        size = rng.uniform(1, 100)
        items.append([Option(size * (1 - k / 40), (size * k / 40, size * (40 - k) / 40), k) for k in range(40)])
    found = choose(items, [120.0, 360.0], nodes=3_000)
    assert found is not None
    assert found.gap < 0.01 * found.cost
