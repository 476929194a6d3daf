"""Whom the Chooser takes, by each algorithm, and whom it never takes."""

import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.balance.model import Backend, Pool, Share, Takes
from tierkeeper.balance.plan import (
    FAILURES,
    OUT_MOST_SECONDS,
    OUT_SECONDS,
    RETRY_BURST,
    RETRY_FLOOR,
    RETRY_SHARE,
    Chooser,
    RetryBudget,
)

ALGORITHMS = ("round_robin", "weighted", "least_request", "random_two", "consistent_hash", "adaptive")


def pool(weights: tuple[int, ...] = (1, 1, 1), priorities: tuple[int, ...] | None = None, **given: Any) -> Pool:
    priorities = priorities or (0,) * len(weights)
    backends = [Backend(f"b{i}:80", f"b{i}", 80, w, p) for i, (w, p) in enumerate(zip(weights, priorities, strict=True))]
    return Pool("p", "http", "", 0, tuple(backends), **given)


def dice(seed: int = 1) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same each time


def counted(chooser: Chooser, times: int = 3000, now: float = 0.0, keys: bool = False) -> Counter[str]:
    drawn = dice()
    found: Counter[str] = Counter()
    for i in range(times):
        chosen = chooser.choose(now, drawn.random, key=f"k{i}" if keys else None)
        assert chosen is not None
        found[chosen.host] += 1
    return found


def fail(chooser: Chooser, number: int, now: float, times: int = FAILURES) -> None:
    for _ in range(times):
        backend = chooser.pool.backends[number]
        chooser.began(backend, now)
        chooser.ended(backend, now, 0.01, False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(data=st.data())
def test_never_one_that_was_tried_or_takes_nothing_and_always_one_while_there_is_one(algorithm: Any, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    priorities = tuple(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    chooser = Chooser(pool((1,) * count, priorities, algorithm=algorithm, panic_percent=data.draw(st.sampled_from([0, 50, 100]))))
    takes = data.draw(st.lists(st.sampled_from(list(Takes)), min_size=count, max_size=count))
    names = [b.name for b in chooser.pool.backends]
    chooser.update(0.0, {n: Share(t) for n, t in zip(names, takes, strict=True)})
    tried = data.draw(st.sets(st.sampled_from(names)))
    chosen = chooser.choose(1.0, dice(data.draw(st.integers(0, 99))).random, "key", tried)
    left = [n for n, t in zip(names, takes, strict=True) if t is Takes.TRAFFIC and n not in tried]
    if chosen is not None:
        assert chosen.name not in tried
        assert takes[names.index(chosen.name)] is not Takes.NOTHING_NEW
        if chooser.pool.panic_percent == 0:
            assert chosen.name in left
    if left:
        assert chosen is not None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_equal_backends_get_alike(algorithm: Any) -> None:
    found = counted(Chooser(pool(algorithm=algorithm)), keys=True)
    assert all(abs(found[b] - 1000) < 150 for b in ("b0", "b1", "b2"))


def test_round_robin_takes_each_in_its_turn() -> None:
    chooser = Chooser(pool())
    taken = [chooser.choose(0, dice().random) for _ in range(6)]
    assert [b.host for b in taken if b] == ["b0", "b1", "b2"] * 2


def test_weighted_is_exact_and_smooth() -> None:
    chooser = Chooser(pool((5, 1, 1), algorithm="weighted"))
    taken = "".join(b.host[1] for b in (chooser.choose(0, dice().random) for _ in range(7)) if b)
    assert taken == "0010200"


def test_least_request_takes_the_idlest_for_its_weight() -> None:
    chooser = Chooser(pool((1, 4), algorithm="least_request"))
    taken = []
    for _ in range(10):
        chosen = chooser.choose(0, dice().random)
        assert chosen is not None
        chooser.began(chosen, 0)
        taken.append(chosen.host)
    assert Counter(taken) == {"b1": 8, "b0": 2}


def test_of_two_at_random_the_idler_one() -> None:
    chooser = Chooser(pool((1,) * 4, algorithm="random_two"))
    for _ in range(50):
        chooser.began(chooser.pool.backends[0], 0)
    found = counted(chooser)
    assert found["b0"] == 0
    assert set(found) == {"b1", "b2", "b3"}


def test_a_key_stays_where_it_is_and_only_those_of_one_that_leaves_move() -> None:
    chooser = Chooser(pool((1,) * 5, algorithm="consistent_hash"))

    def placed() -> dict[str, str]:
        chosen = {f"k{i}": chooser.choose(0, dice(i).random, f"k{i}") for i in range(2000)}
        return {k: b.host for k, b in chosen.items() if b}

    before = placed()
    assert placed() == before
    chooser.update(0, {"b2:80": Share(Takes.NOTHING)})
    after = placed()
    assert {k for k in before if after[k] != before[k]} == {k for k, host in before.items() if host == "b2"}
    chooser.update(0, {"b2:80": Share()})
    assert placed() == before


def test_a_hashed_weight_is_a_share() -> None:
    found = counted(Chooser(pool((1, 3), algorithm="consistent_hash")), keys=True)
    assert 0.70 < found["b1"] / 3000 < 0.80


def test_adaptive_leaves_the_slow_one_to_a_request_now_and_then() -> None:
    chooser, drawn, now = Chooser(pool(algorithm="adaptive")), dice(), 0.0
    found: Counter[str] = Counter()
    for _ in range(3000):
        now += 0.01
        chosen = chooser.choose(now, drawn.random)
        assert chosen is not None
        chooser.began(chosen, now)
        chooser.ended(chosen, now, 0.055 if chosen.host == "b0" else 0.005, True)
        found[chosen.host] += 1
    assert 5 < found["b0"] < 60


def test_the_next_priority_is_for_when_too_few_of_the_first_are_up() -> None:
    chooser = Chooser(pool((1,) * 4, (0, 0, 1, 1)))
    assert set(counted(chooser)) == {"b0", "b1"}
    chooser.update(0, {"b0:80": Share(Takes.NOTHING)})
    assert set(counted(chooser)) == {"b1"}
    chooser.update(0, {"b1:80": Share(Takes.NOTHING)})
    assert set(counted(chooser)) == {"b2", "b3"}
    chooser.update(0, {"b0:80": Share()})
    assert set(counted(chooser)) == {"b0"}


def test_tries_again_go_on_to_the_next_priority() -> None:
    chooser = Chooser(pool((1, 1), (0, 1)))
    assert chooser.choose(0, dice().random, tried=["b0:80"]) == chooser.pool.backends[1]


def test_where_too_few_are_up_all_take_traffic_but_the_drained() -> None:
    chooser = Chooser(pool((1,) * 4))
    chooser.update(0, {f"b{i}:80": Share(Takes.NOTHING) for i in (0, 1, 2)})
    assert set(counted(chooser)) == {"b0", "b1", "b2", "b3"}
    chooser.update(0, {"b0:80": Share(Takes.NOTHING_NEW)})
    assert set(counted(chooser)) == {"b1", "b2", "b3"}


def test_without_panic_nobody_that_is_out_is_asked() -> None:
    chooser = Chooser(pool(panic_percent=0))
    chooser.update(0, {f"b{i}:80": Share(Takes.NOTHING) for i in (0, 1)})
    assert set(counted(chooser)) == {"b2"}
    chooser.update(0, {"b2:80": Share(Takes.NOTHING)})
    assert chooser.choose(0, dice().random) is None


def test_failures_in_a_row_put_one_out_ever_longer_and_one_request_tries_it() -> None:
    chooser = Chooser(pool(panic_percent=0))
    fail(chooser, 0, 10.0, FAILURES - 1)
    assert "b0" in counted(chooser, now=10.0)
    fail(chooser, 0, 10.0, 1)
    assert "b0" not in counted(chooser, now=10.0 + OUT_SECONDS * 0.99)
    assert chooser.up(10.5) == {"b0:80": False, "b1:80": True, "b2:80": True}
    now, waits = 10.0, []
    for _ in range(6):
        began = now
        while not chooser.up(now)["b0:80"]:
            now += 0.25
        waits.append(now - began)
        chooser.began(chooser.pool.backends[0], now)
        assert not chooser.up(now)["b0:80"], "while one request tries it the others stay away"
        chooser.ended(chooser.pool.backends[0], now, 0.01, False)
    assert waits == [1.0, 2.0, 4.0, 8.0, OUT_MOST_SECONDS, OUT_MOST_SECONDS]
    while not chooser.up(now)["b0:80"]:
        now += 0.25
    chooser.began(chooser.pool.backends[0], now)
    chooser.ended(chooser.pool.backends[0], now, 0.01, True)
    assert chooser.up(now)["b0:80"]
    fail(chooser, 0, now, FAILURES - 1)
    assert chooser.up(now)["b0:80"]


def test_slow_start_grows_with_time() -> None:
    chooser = Chooser(replace(pool((1, 1), algorithm="weighted"), slow_start_seconds=10.0))
    assert counted(chooser)["b0"] == 1500
    chooser.update(100.0, {"b0:80": Share(Takes.NOTHING)})
    chooser.update(100.0, {"b0:80": Share()})
    shares = [counted(chooser, now=now)["b0"] / 3000 for now in (100.0, 102.0, 105.0, 110.0)]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.1 / 1.1, abs=0.01)
    assert shares[2] == pytest.approx(0.5 / 1.5, abs=0.01)
    assert shares[3] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("rate", [1, 10, 100, 1000])
def test_tries_again_are_a_fifth_of_the_requests_and_a_few(rate: int) -> None:
    budget, seconds, again = RetryBudget(), 60, 0
    for now in itertools.accumulate([1 / rate] * (rate * seconds)):
        budget.asked(now)
        again += sum(budget.take(now) for _ in range(5))
    most = max(RETRY_SHARE * rate, RETRY_FLOOR) * seconds
    assert 0.95 * most <= again <= most + RETRY_BURST
