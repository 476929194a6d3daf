"""Counts that only grow, and samples that are a fair draw."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.balance.envoy import samples
from tierkeeper.balance.envoy.admin import Host
from tierkeeper.balance.envoy.budget import Budget
from tierkeeper.balance.envoy.counting import Tally, adapted
from tierkeeper.balance.envoy.documents import Layout, pool_key
from tierkeeper.balance.envoy.names import Names, settled
from tierkeeper.balance.envoy.samples import Receiver, percents, read
from tierkeeper.balance.model import Backend, Pool, Sample

POOL = Pool("web", "http", "0.0.0.0", 80, (Backend("app:80", "app", 80),))  # noqa: S104
KEY = pool_key("web")


def host(cluster: str = KEY, address: str = "10.0.0.1:80", flags: frozenset[str] = frozenset(), **counts: int) -> Host:
    return Host(address, cluster, counts, flags)


def look(tally: Tally, *hosts: Host, at: str = "10.0.0.1", pool: Pool = POOL):
    return tally.look([pool], {"app": at}, hosts, {(KEY, f"{at}:80"): (Sample(200, 0.1),)})["web"]["app:80"]


@given(st.lists(st.one_of(st.integers(0, 1000), st.none()), max_size=30))
def test_counts_never_fall_whatever_becomes_of_envoy(seen) -> None:
    tally, before = Tally(), 0
    for count in seen:
        if count is None:
            tally.restarted()
            continue
        now = look(tally, host(rq_total=count, rq_error=count // 2)).counters
        assert now.requests >= before
        assert now.requests >= count
        before = now.requests


def test_a_restart_and_a_new_address_count_from_nothing() -> None:
    tally = Tally()
    assert look(tally, host(rq_total=10)).counters.requests == 10
    assert look(tally, host(rq_total=12)).counters.requests == 12
    assert tally.fresh() == {"web": 2}
    tally.restarted()
    assert look(tally, host(rq_total=30)).counters.requests == 42
    assert look(tally, host(address="10.0.0.2:80", rq_total=5), at="10.0.0.2").counters.requests == 47
    assert look(tally, at="10.0.0.2").counters.requests == 47
    assert look(tally, host(address="10.0.0.2:80", rq_total=3), at="10.0.0.2").counters.requests == 50


def test_a_pool_whose_cluster_changed_is_both_of_them() -> None:
    tally = Tally()
    old, new = host(f"{KEY}-1", cx_total=7, cx_active=2), host(f"{KEY}-2", cx_total=1, cx_active=1)
    tcp = Pool("web", "tcp", "0.0.0.0", 80, POOL.backends)  # noqa: S104
    counters = look(tally, old, new, pool=tcp).counters
    assert (counters.requests, counters.in_flight, counters.connections) == (8, 3, 3)


def test_gauges_and_ejection() -> None:
    reading = look(Tally(), host(flags=frozenset({"failed_outlier_check"}), rq_active=3, cx_active=2, cx_connect_fail=4))
    assert (reading.counters.in_flight, reading.counters.connections, reading.counters.refused) == (3, 2, 4)
    assert reading.counters.ejected
    assert reading.samples == (Sample(200, 0.1),)


@pytest.mark.parametrize(
    ("record", "sample"),
    [
        ({"c": "200", "f": "-", "d": "1500", "t": "9"}, Sample(200, 0.0015)),
        ({"c": "503", "f": "-", "d": "1500", "t": "9"}, Sample(503, 0.0015)),
        ({"c": "503", "f": "UC", "d": "-", "t": "40"}, Sample(0, 0.04)),
        ({"c": "503", "f": "UF,URX", "d": "-", "t": "3"}, Sample(0, 0.003)),
        ({"c": "504", "f": "UT", "d": "-", "t": "60000"}, Sample(0, 60.0)),
        ({"c": "0", "f": "DC", "d": "-", "t": "9"}, None),
        ({"c": "200", "f": "DC", "d": "1000", "t": "9"}, Sample(200, 0.001)),
        ({"c": "0", "f": "-", "d": "-", "t": "5"}, Sample(0, 0.005)),
        ({"c": "200", "f": "-", "d": "-", "t": "5", "h": "-"}, None),
        ({}, None),
    ],
)
def test_what_a_record_says(record, sample) -> None:
    found = read({"p": "p1", "h": "10.0.0.1:80", **record} if record else {})
    assert found == (None if sample is None else (("p1", "10.0.0.1:80"), sample))


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1e6), min_size=1, max_size=20), st.floats(1, 1e5))
def test_the_budget_holds_and_quiet_pools_are_seen_whole(rates, budget) -> None:
    chosen = percents(rates, budget)
    assert sum(rates[name] * percent / 100 for name, percent in chosen.items()) <= budget * 1.0001
    assert all(chosen[name] == 100 for name, rate in rates.items() if rate <= budget / len(rates))
    assert all(0 < percent <= 100 for percent in chosen.values())


def test_a_share_is_written_anew_only_where_it_is_off() -> None:
    assert adapted({}, {"web": 10}, 1.0) == {"web": 100.0}
    assert adapted({"web": 100.0}, {"web": 1000}, 1.0) is None
    assert adapted({"web": 10.0}, {"web": 21_000}, 1.0) is None
    assert adapted({"web": 10.0, "other": 3.0}, {"web": 40_000}, 1.0) == {"web": 5.0, "other": 3.0}
    assert adapted({}, {"web": 10}, 0.0) is None


def test_what_is_kept_is_a_fair_draw(monkeypatch) -> None:
    monkeypatch.setattr(samples.limits, "SAMPLES_KEPT", 100)
    receiver = Receiver(Layout("/nowhere"))
    entries = [[0, {"p": "p1", "h": "a:1", "c": "200", "f": "-", "d": str(1 + i), "t": "1"}] for i in range(10_000)]
    receiver._keep(["samples", entries, {}])
    [kept] = receiver.take().values()
    assert len(kept) == 100
    thirds = Counter(int(sample.seconds * 1e6) * 3 // 10_001 for sample in kept)
    assert all(15 <= thirds[third] <= 55 for third in range(3))
    assert receiver.take() == {}


@pytest.mark.parametrize("message", [None, 5, [], ["a"], ["a", 5], ["a", [5, [], [1], [1, 2]]], {"a": 1}])
def test_what_is_no_message_is_nothing(message) -> None:
    receiver = Receiver(Layout("/nowhere"))
    receiver._keep(message)
    assert receiver.take() == {}


def test_an_address_stays_while_the_name_has_it() -> None:
    assert settled("10.0.0.1", ["10.0.0.2", "10.0.0.1"]) == "10.0.0.1"
    assert settled("10.0.0.1", ["10.0.0.2"]) == "10.0.0.2"
    assert settled("10.0.0.1", []) == "10.0.0.1"
    assert settled(None, ["10.0.0.2"]) == "10.0.0.2"


def test_a_name_server_that_is_away_is_bridged_by_what_was_known() -> None:
    def away(name: str) -> list[str]:
        raise OSError(name)

    names = Names(away)
    assert names.learn(["app", "10.0.0.9", "other"], {"app": "10.0.0.1"}) == ["other"]
    assert names.known() == {"app": "10.0.0.1", "10.0.0.9": "10.0.0.9"}


def spend(account: Budget, requests: int, retries: int) -> None:
    account.look(requests, account._retries + retries, 0.1)


def test_the_death_of_a_server_is_paid_from_what_was_saved_and_a_service_at_fault_is_not() -> None:
    account = Budget()
    for _ in range(50):
        spend(account, 100, 0)
    spend(account, 400, 300)  # all that one of three had
    assert account.open
    for _ in range(50):
        spend(account, 300, 200 if account.open else 0)
    assert not account.open
    total = repeated = 0
    for _ in range(2_000):
        now = 200 if account.open else 0
        spend(account, 100 + now, now)
        total, repeated = total + 100, repeated + now
    assert 0.1 < repeated / total <= 0.2


def test_a_tenth_that_fails_is_always_repeated_and_a_restart_of_envoy_costs_nothing() -> None:
    account = Budget()
    for turn in range(100):
        spend(account, 110, 10)
        if turn == 50:
            account.look(0, 0, 0.1)
        assert account.open
