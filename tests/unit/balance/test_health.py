"""One backend's standing: falls, returns, flaps, and what traffic may say against it."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.balance.health import (
    DOUBT_SECONDS,
    HOLD_MOST_SECONDS,
    Answer,
    Evidence,
    Health,
    Standing,
    after_answer,
    after_evidence,
    against,
    pace_seconds,
    seen,
)
from tierkeeper.balance.model import Counters
from tierkeeper.balance.pools import Ask

ASK = Ask("http", fall=2, rise=3)
WELL, ILL = Answer(True, "it answers with status 200", 0.01), Answer(False, "it answers with status 500")


def after(health: Health, *answers: Answer, begin: float = 0.0, every: float = 1.0) -> Health:
    for number, answer in enumerate(answers):
        health = after_answer(health, answer, begin + number * every, ASK)
    return health


def test_the_first_check_decides() -> None:
    assert after(Health(), WELL).standing is Standing.IN
    out = after(Health(), ILL)
    assert (out.standing, out.why, out.falls) == (Standing.OUT, "it answers with status 500", ())


def test_it_falls_after_so_many_in_a_row_and_not_before() -> None:
    inside = after(Health(), WELL)
    assert after(inside, ILL, begin=1).standing is Standing.IN
    assert after(inside, ILL, WELL, ILL, begin=1).standing is Standing.IN
    fallen = after(inside, ILL, ILL, begin=1)
    assert (fallen.standing, fallen.since, fallen.falls) == (Standing.OUT, 2.0, (2.0,))


def test_it_is_in_again_after_so_many_in_a_row_and_says_how_far_it_is() -> None:
    out = after(Health(), WELL, ILL, ILL)
    assert "1 of 3" in after(out, WELL, begin=3).why
    assert after(out, WELL, WELL, ILL, WELL, WELL, begin=3).standing is Standing.OUT
    assert after(out, WELL, WELL, WELL, begin=3).standing is Standing.IN


def test_each_further_fall_keeps_it_out_longer_up_to_a_bound() -> None:
    health, out_seconds, now = after(Health(), WELL), list[float](), 0.0
    for _ in range(10):
        while health.standing is Standing.IN:
            now += 0.25
            health = after_answer(health, ILL, now, ASK)
        began = now
        while health.is_out:
            now += 0.25
            health = after_answer(health, WELL, now, ASK)
            assert now - began < HOLD_MOST_SECONDS + 2, "it never comes back"
        out_seconds.append(now - began)
    assert out_seconds == sorted(out_seconds)
    assert out_seconds[0] < 1
    assert out_seconds[4] > 8 * out_seconds[0]
    calm = after_answer(health, ILL, now + 1000, ASK)
    assert len(after_answer(calm, ILL, now + 1001, ASK).falls) == 1, "old falls are held against it"


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 5), st.integers(1, 5))
def test_whatever_comes_it_is_out_only_after_falls_and_always_says_why(answers: list[bool], fall: int, rise: int) -> None:
    ask, health = Ask("tcp", fall=fall, rise=rise), Health()
    for number, ok in enumerate(answers):
        before = health
        health = after_answer(health, WELL if ok else ILL, number * 0.25, ask)
        assert health.why
        if before.standing is Standing.IN and health.is_out:
            assert answers[number - fall + 1 : number + 1] == [False] * fall
        if before.is_out and not health.is_out:
            assert answers[number - rise + 1 : number + 1] == [True] * rise
            assert number * 0.25 >= before.held_until
        assert health.held_until - number * 0.25 <= HOLD_MOST_SECONDS


def test_one_that_is_well_for_long_comes_back_whatever_its_past() -> None:
    draw, health = random.Random(1), Health()  # noqa: S311 - a repeatable draw
    for number in range(4000):
        health = after_answer(health, WELL if draw.random() < 0.4 else ILL, number * 0.25, ASK)
    for number in range(4000, 4000 + int((HOLD_MOST_SECONDS + 2) / 0.25)):
        health = after_answer(health, WELL, number * 0.25, ASK)
    assert health.standing is Standing.IN


GOOD = Evidence(100, 0)


@pytest.mark.parametrize(
    ("evidence", "others", "is_against"),
    [
        (Evidence(20, 12), [GOOD], True),
        (Evidence(20, 12), [Evidence(20, 10)], False),  # the others fail as well
        (Evidence(20, 12), [], False),  # there is nobody else
        (Evidence(20, 12), [Evidence(3, 0)], False),  # of the others too little is known
        (Evidence(9, 9), [GOOD], False),
        (Evidence(100, 49), [GOOD], False),
        (Evidence(0, 0, refused=3), [], True),
        (Evidence(0, 0, refused=2), [], False),
        (Evidence(50, 1, refused=3), [GOOD], False),  # most get through: a full backlog is no death
        (Evidence(0, 0, ejected=True), [GOOD], False),
    ],
)
def test_what_traffic_meets(evidence: Evidence, others: list[Evidence], is_against: bool) -> None:
    assert (against(evidence, others) is not None) is is_against


def test_traffic_takes_one_out_for_a_moment_at_least() -> None:
    health = after_evidence(after(Health(), WELL), Evidence(20, 20), [GOOD], 5.0)
    assert (health.standing, health.held_until > 5.0) == (Standing.OUT, True)
    early = after(health, WELL, WELL, WELL, begin=5.1, every=0.25)
    assert early.is_out
    assert after_answer(early, WELL, health.held_until, ASK).standing is Standing.IN


def test_counts_that_begin_anew_are_no_negative_traffic() -> None:
    counts = [
        (0.0, Counters(requests=1000, errors=10)),
        (0.5, Counters(requests=5, errors=1)),
        (1.0, Counters(requests=9, errors=3)),
    ]
    assert seen(counts) == Evidence(9, 3)
    assert seen([]) == Evidence()
    assert seen(counts[:1]) == Evidence(), "what was before we looked is no news"


def test_the_pace() -> None:
    inside = after(Health(), WELL)
    assert pace_seconds(Health(), 0, 30) == DOUBT_SECONDS
    assert pace_seconds(inside, 100, 30) == 30
    assert pace_seconds(inside, 100, 0.1, urgent=True) == 0.1
    assert pace_seconds(inside, 100, 30, urgent=True) == DOUBT_SECONDS
    assert pace_seconds(after(inside, ILL, begin=1), 1, 30) == DOUBT_SECONDS
    doubted = after_evidence(inside, Evidence(10, 1), [], 100)
    assert pace_seconds(doubted, 101, 30) == DOUBT_SECONDS
    assert pace_seconds(doubted, 110, 30) == 30
    out = after(inside, ILL, ILL, begin=1)
    paces = [pace_seconds(out, out.since + age, 30) for age in (0, 29, 60, 120, 1000, 1e9)]
    assert paces == sorted(paces)
    assert (paces[0], paces[1], paces[-1]) == (DOUBT_SECONDS, DOUBT_SECONDS, 30)
    assert pace_seconds(replace(out, wells=1), 1e9, 30) == DOUBT_SECONDS, "one that comes back is asked at once again"
