"""`adaptive.step` on made-up looks: what it does whatever it is shown, and at the edges that a simulated pool does not reach."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.balance import adaptive
from tierkeeper.balance.adaptive import Inputs, Phase, Seen, State, inputs_line, replay, state_line, step
from tierkeeper.balance.model import WEIGHT_SCALE, Counters, Sample, Takes
from tierkeeper.kernel.errors import UsageError

LOOK = 0.1
PER_LOOK = 10


class Pool:
    """Looks at backends that answer ten requests a look, in 5 ms, unless it is said otherwise."""

    def __init__(self, *names: str, weights: dict[str, int] | None = None, groups: dict[str, int] | None = None) -> None:
        self.state, self.now = State(), 100.0
        self.weights, self.groups = weights or {}, groups or {}
        self.takes = dict.fromkeys(names, Takes.TRAFFIC)
        self.requests = dict.fromkeys(names, 0)
        self.errors = dict.fromkeys(names, 0)

    def look(self, times: int = 1, **seconds: float) -> State:
        """`seconds` by name: how long its answers took; negative for errors."""
        for _ in range(times):
            self.now += LOOK
            backends = {}
            for name, takes in self.takes.items():
                took = seconds.get(name, 0.005)
                share = self.state.shares.get(name, 1.0)
                count = PER_LOOK if share > 0.2 else 1
                self.requests[name] += count
                self.errors[name] += count if took < 0 else 0
                samples = tuple(Sample(503 if took < 0 else 200, abs(took)) for _ in range(count))
                counters = Counters(self.requests[name], self.errors[name], 0, 1)
                backends[name] = Seen(self.weights.get(name, 1), takes, counters, samples, self.groups.get(name, 0))
            self.state = step(self.state, Inputs(self.now, backends))
        return self.state


def test_the_first_look_gives_everybody_a_fair_share() -> None:
    pool = Pool("a", "b", weights={"b": 7})
    assert pool.look().weights == {"a": WEIGHT_SCALE, "b": 7 * WEIGHT_SCALE}


def test_one_that_joins_or_was_out_works_its_way_up() -> None:
    pool = Pool("a", "b", "c")
    pool.look(20)
    pool.takes["c"] = Takes.NOTHING
    pool.look(5)
    pool.takes["c"] = Takes.TRAFFIC
    assert pool.look().shares["c"] < 0.05
    shares = [pool.look().shares["c"] for _ in range(30)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len({round(s, 3) for s in shares}) >= 5
    pool.takes["d"], pool.requests["d"], pool.errors["d"] = Takes.TRAFFIC, 0, 0
    assert pool.look().shares["d"] < 0.05


def test_priorities_are_compared_within_themselves() -> None:
    pool = Pool("a", "b", "far", "farther", groups={"far": 1, "farther": 1})
    state = pool.look(50, far=0.2, farther=0.2)
    assert set(state.shares.values()) == {1.0}
    state = pool.look(10, far=0.2, farther=0.9)
    assert [n for n, s in state.shares.items() if s < 1] == ["farther"]


def test_a_plane_that_counts_from_nought_again_frightens_nobody() -> None:
    pool = Pool("a", "b", "c")
    pool.look(20)
    pool.requests = dict.fromkeys(pool.requests, 0)
    assert set(pool.look(20).shares.values()) == {1.0}


def test_it_says_why() -> None:
    pool = Pool("a", "b", "c")
    pool.look(20)
    assert (pool.look(5, a=0.2).known["a"].cause, pool.state.known["a"].phase) == (adaptive.Cause.SLOW, Phase.SHED)
    pool = Pool("a", "b", "c")
    pool.look(20)
    assert pool.look(5, a=-0.005).known["a"].cause == adaptive.Cause.FAILING


def test_shares_of_configured_weights_of_a_hundred_fit() -> None:
    pool = Pool("a", "b", "c", weights={"a": 1, "b": 100, "c": 100})
    pool.look(20)
    state = pool.look(5, b=0.2)
    assert max(state.weights.values()) <= 10_000
    assert state.weights["b"] / sum(state.weights.values()) <= 0.005
    assert state.weights["c"] == 100 * state.weights["a"]


def test_micro_latencies_are_no_fault() -> None:
    pool = Pool("a", "b", "c")
    assert min(pool.look(100, a=0.001, b=0.0002, c=0.0002).shares.values()) >= 0.4


counters = st.builds(
    Counters,
    requests=st.integers(0, 10**9),
    errors=st.integers(0, 10**9),
    refused=st.integers(0, 10**6),
    in_flight=st.integers(0, 10**5),
)
sample = st.builds(Sample, st.sampled_from([0, 200, 404, 500, 503]), st.floats(0, 1e4, allow_subnormal=False))
seen = st.builds(
    Seen, st.integers(1, 100), st.sampled_from(list(Takes)), counters, st.lists(sample, max_size=4).map(tuple), st.integers(0, 1)
)
looks = st.lists(st.dictionaries(st.sampled_from("abcd"), seen, max_size=4), min_size=1, max_size=8)


@settings(max_examples=60)
@given(looks, st.sampled_from([0, 50, 100]), st.floats(1e-3, 10))
def test_whatever_it_sees_weights_are_whole_and_in_bounds_and_can_be_replayed(
    shown: list[dict[str, Seen]], panic: int, apart: float
) -> None:
    state, lines = State(), []
    for i, backends in enumerate(shown):
        inputs = Inputs(i * apart, backends, panic)
        lines.append(inputs_line(inputs))
        state = step(state, inputs)
        assert set(state.weights) == set(backends)
        assert all(isinstance(w, int) and 1 <= w <= 10_000 for w in state.weights.values())
        assert all(0 < s <= 1 and math.isfinite(s) for s in state.shares.values())
    assert replay(lines) == state
    assert replay([state_line(state)]) == state


@pytest.mark.parametrize("line", ["x", "[]", "{}", '{"format":1}', '{"format":1,"inputs":{}}', '{"format":9,"inputs":{}}'])
def test_what_is_no_record_is_one_clear_error(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        replay(["", line])
    assert caught.value.place == "line 2"


def test_a_line_is_one_line() -> None:
    inputs: Any = Inputs(1.0, {"a\n": Seen(1, Takes.TRAFFIC, Counters(), (Sample(200, 0.1),))})
    line = inputs_line(inputs)
    assert "\n" not in line
    assert json.loads(line)["inputs"]["seconds"] == 1.0
