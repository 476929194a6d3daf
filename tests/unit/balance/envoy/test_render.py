"""What Envoy is told: properties of the documents."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.balance.envoy import limits
from tierkeeper.balance.envoy.clusters import cluster, cluster_name
from tierkeeper.balance.envoy.documents import Layout, discovery, listener_name, pool_key
from tierkeeper.balance.envoy.endpoints import complete, endpoints, takers, verdict_routes
from tierkeeper.balance.envoy.listeners import listener, rates, routes, secret
from tierkeeper.balance.envoy.render import bootstrap, documents, watches
from tierkeeper.balance.model import Backend, Certificate, Pool, Share, Takes
from tierkeeper.balance.pools import obeyed

LAYOUT = Layout("/state")
TRAFFIC, OUT, DRAINED = Share(), Share(Takes.NOTHING), Share(Takes.NOTHING_NEW)


def pool(count: int = 3, **options) -> Pool:
    members = tuple(Backend(f"10.0.0.{i}:80", f"10.0.0.{i}", 80, weight=i + 1) for i in range(count))
    return Pool(**{"name": "web", "wire": "http", "host": "0.0.0.0", "port": 8080, "backends": members, **options})  # noqa: S104


def addresses(*pools: Pool) -> dict[str, str]:
    return {host: "192.0.2.1" if host[0].isalpha() else host for p in pools for host in (p.host, *(b.host for b in p.backends))}


def rendered(*pools: Pool, shares=None):
    made = shares or complete(pools, {}, {})
    return documents(
        LAYOUT,
        pools,
        made,
        addresses(*pools),
        system_ca="/ca.pem",
        percents={},
        copies={p.name: p.certificate for p in pools if p.certificate is not None},
    )


words = st.sampled_from([TRAFFIC, OUT, DRAINED])


@given(st.lists(st.tuples(words, st.integers(0, 3)), min_size=1, max_size=12), st.integers(0, 100), st.booleans())
def test_panic_never_wakes_the_drained_and_never_touches_sessions(told, percent, cuts) -> None:
    members = tuple(Backend(f"b{i}:1", f"b{i}", 1, priority=rank) for i, (_, rank) in enumerate(told))
    shares = {b.name: word for b, (word, _) in zip(members, told, strict=True)}
    made = replace(pool(), backends=members, panic_percent=percent, cuts_sessions=cuts)
    takes = obeyed(made, shares)
    assert all(takes[n] is Takes.NOTHING_NEW for n, s in shares.items() if s.takes is Takes.NOTHING_NEW)
    assert all(takes[n] is Takes.TRAFFIC for n, s in shares.items() if s.takes is Takes.TRAFFIC)
    if cuts:
        assert takes == {n: s.takes for n, s in shares.items()}
    elif any(s.takes is not Takes.NOTHING_NEW for s in shares.values()):
        assert takers(made, shares) > 0, "somebody always takes traffic unless all are drained"


@pytest.mark.parametrize(
    ("told", "ranks", "out"),
    [
        ((OUT, TRAFFIC), (0, 0), 1),  # exactly half is enough
        ((OUT, OUT, TRAFFIC), (0, 0, 0), 0),
        ((OUT, OUT, OUT, TRAFFIC), (0, 0, 0, 1), 3),  # the next priority is whole: no panic
        ((OUT, DRAINED, TRAFFIC), (0, 0, 0), 1),  # the drained do not count
        ((OUT, OUT), (0, 1), 0),
    ],
)
def test_panic(told, ranks, out) -> None:
    members = tuple(Backend(f"b{i}:1", f"b{i}", 1, priority=rank) for i, rank in enumerate(ranks))
    shares = {b.name: word for b, word in zip(members, told, strict=True)}
    takes = obeyed(replace(pool(), backends=members), shares)
    assert sum(t is Takes.NOTHING for t in takes.values()) == out


def test_a_routing_says_what_changes_and_the_rest_stays() -> None:
    p = pool()
    first = complete((p,), {"web": {"10.0.0.0:80": OUT}, "gone": {"x": OUT}}, {})
    assert first == {"web": {"10.0.0.0:80": OUT, "10.0.0.1:80": Share(weight=200), "10.0.0.2:80": Share(weight=300)}}
    second = complete((p,), {"web": {"10.0.0.1:80": DRAINED}}, first)
    assert second == {"web": {**first["web"], "10.0.0.1:80": DRAINED}}


def test_endpoints_have_weight_health_and_a_priority_without_gaps() -> None:
    p = pool(3)
    p = replace(p, backends=(*p.backends[:2], replace(p.backends[2], priority=7, tls=True)))
    shares = {"10.0.0.0:80": Share(weight=1), "10.0.0.1:80": DRAINED, "10.0.0.2:80": OUT}
    told = endpoints(p, shares, addresses(p))["endpoints"]
    assert [group["priority"] for group in told] == [0, 1]
    flat = [e for group in told for e in group["lb_endpoints"]]
    assert [e["health_status"] for e in flat] == ["HEALTHY", "DRAINING", "UNHEALTHY"]
    assert [e["load_balancing_weight"] for e in flat] == [1, 100, 100]
    assert ["metadata" in e for e in flat] == [False, False, True]
    assert not any("health_check_config" in e["endpoint"] for e in flat)


def test_only_an_answer_is_a_verdict() -> None:
    """A check that times out, in an Envoy that is busy or was asleep, must cut nothing."""
    [check] = cluster(pool(cuts_sessions=True, wire="tcp"), LAYOUT, "")["health_checks"]
    assert check["unhealthy_threshold"] >= 1_000_000  # a status that is not expected counts at once, whatever stands here
    assert check["interval"] == check["unhealthy_interval"] == check["no_traffic_interval"] == "0.1s"


def test_each_verdict_has_its_host_and_its_endpoint() -> None:
    p = pool(cuts_sessions=True, wire="tcp")
    shares = {"web": {"10.0.0.0:80": TRAFFIC, "10.0.0.1:80": DRAINED, "10.0.0.2:80": OUT}}
    hosts = verdict_routes((p, pool()), shares)["virtual_hosts"]
    assert [h["routes"][0]["direct_response"]["status"] for h in hosts] == [200, 200, 503]
    told = endpoints(p, shares["web"], addresses(p))["endpoints"][0]["lb_endpoints"]
    assert [e["endpoint"]["health_check_config"]["hostname"] for e in told] == [h["domains"][0] for h in hosts]
    other = verdict_routes((replace(p, name="other"),), {"other": shares["web"]})["virtual_hosts"]
    assert {h["name"] for h in other}.isdisjoint({h["name"] for h in hosts})


def test_no_more_tries_than_hosts_and_only_what_may_be_repeated() -> None:
    def retries(p: Pool, count: int) -> list[tuple[int, str]]:
        told = [r["route"].get("retry_policy", {}) for r in routes(p, count)["virtual_hosts"][0]["routes"]]
        return [(r.get("num_retries", 0), r.get("retry_on", "")) for r in told]

    safe, other = "reset,gateway-error,connect-failure,refused-stream", "connect-failure,refused-stream"
    assert retries(pool(max_retries=5), 3) == [(2, safe), (2, other)]
    assert retries(pool(max_retries=1), 3) == [(1, safe), (1, other)]
    assert retries(pool(max_retries=0), 3) == retries(pool(), 1) == retries(pool(), 0) == [(0, ""), (0, "")]


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("round_robin", "round_robin"), ("weighted", "round_robin"), ("adaptive", "round_robin"),
        ("least_request", "least_request"), ("random_two", "least_request"), ("consistent_hash", "ring_hash"),
    ],
)  # fmt: skip
def test_each_algorithm_has_its_policy_and_slow_start_where_envoy_can(algorithm, kind) -> None:
    made = cluster(pool(algorithm=algorithm, slow_start_seconds=5), LAYOUT, "")
    policy = made["load_balancing_policy"]["policies"][0]["typed_extension_config"]
    assert policy["name"] == kind
    assert ("slow_start_config" in policy["typed_config"]) == (algorithm not in ("consistent_hash", "adaptive"))
    assert made["common_lb_config"]["update_merge_window"] == "0s"


@pytest.mark.parametrize(
    ("count", "percent", "share"), [(1, 50, 0), (2, 50, 50), (3, 0, 66), (3, 50, 50), (10, 30, 70), (2, 100, 0)]
)
def test_the_last_backend_is_never_left_out_by_its_failures(count, percent, share) -> None:
    made = cluster(pool(count, panic_percent=percent), LAYOUT, "")
    assert made["outlier_detection"]["max_ejection_percent"] == share


def test_a_cluster_that_cuts_sessions_changes_its_name_with_its_content() -> None:
    p = pool(wire="tcp", cuts_sessions=True)
    assert cluster_name(p, LAYOUT) != cluster_name(replace(p, algorithm="least_request"), LAYOUT)
    assert cluster_name(p, LAYOUT) == cluster_name(replace(p, backends=p.backends[:1], max_retries=9), LAYOUT)
    assert listener(p, "0.0.0.0", LAYOUT)["filter_chains"][0]["filters"][0]["typed_config"]["cluster"] == cluster_name(p, LAYOUT)  # noqa: S104
    assert "outlier_detection" not in cluster(p, LAYOUT, "")
    plain = pool()
    assert cluster_name(plain, LAYOUT) == cluster_name(replace(plain, algorithm="least_request"), LAYOUT)


def test_tls_to_backends_is_verified_by_authority_and_name() -> None:
    p = pool(1)
    by_name = replace(p.backends[0], host="app.internal", tls=True)
    by_address = replace(p.backends[0], host="10.0.0.9", tls=True)
    made = cluster(replace(p, backends=(*p.backends, by_name, by_address)), LAYOUT, "/system.pem")["transport_socket_matches"]
    assert [m["transport_socket"]["name"] for m in made] == ["tls", "tls", "raw_buffer"]
    contexts = [m["transport_socket"]["typed_config"] for m in made[:2]]
    checks = [c["common_tls_context"]["validation_context"] for c in contexts]
    assert {c["trusted_ca"]["filename"] for c in checks} == {"/system.pem"}
    assert [c["match_typed_subject_alt_names"] for c in checks] == [
        [{"san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.9"}}],
        [{"san_type": "DNS", "matcher": {"exact": "app.internal"}}],
    ]
    assert [c.get("sni") for c in contexts] == [None, "app.internal"]
    own = cluster(replace(p, backends=(by_name,), backend_ca="/own.pem"), LAYOUT, "/system.pem")
    assert "/system.pem" not in json.dumps(own)
    assert "transport_socket_matches" not in cluster(p, LAYOUT, "")


def test_files_are_as_many_as_are_counted_and_all_different() -> None:
    secure = pool(name="secure", port=8443, certificate=Certificate("/c/chain.pem", "/c/key.pem"))
    session = pool(name="pg", port=5432, wire="tcp", cuts_sessions=True)
    made = rendered(pool(), secure, session)
    assert len(made) + 1 == watches((pool(), secure, session))  # and one for the folder of the certificate
    assert {n[:4] for n in made} == {"lds", "cds", "rtds", "verd", "eds-", "rds-", "sds-"}
    assert len({entry["name"] for entry in made["lds"]}) == 3
    assert next(iter(made)) == "verdict"


def test_names_of_users_never_reach_envoy_and_never_meet() -> None:
    odd = pool(name="a.b/c d\n", port=1)
    assert "a.b" not in json.dumps(rendered(odd))
    assert pool_key("a.b") != pool_key("a") != pool_key("b")
    assert listener_name(odd, "::") != listener_name(replace(odd, port=2), "::")


def test_a_version_is_that_of_the_content() -> None:
    one, same, other = ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}], [{"a": 2}])
    assert discovery(one)["version_info"] == discovery(same)["version_info"] != discovery(other)["version_info"]


def test_envoy_reads_the_copy_of_a_certificate_and_none_that_has_no_copy() -> None:
    copy = Certificate("/s/certificates/k/1.pem", "/s/certificates/k/1.key")
    told = secret(pool(), copy)["tls_certificate"]
    assert (told["certificate_chain"]["filename"], told["private_key"]["filename"]) == (copy.chain, copy.key)


def test_rates_are_whole_percents_and_never_nothing() -> None:
    assert rates({"p1": 0.01, "p2": 33.4, "p3": 100.0})["layer"] == {"samples": {"p1": 1, "p2": 33, "p3": 100}}


def test_the_bootstrap_opens_no_port_and_knows_no_pool() -> None:
    text = json.dumps(bootstrap(LAYOUT, 1_048_576))
    assert "socket_address" not in text
    assert json.dumps(bootstrap(LAYOUT, 3_000)).count("1000") == 1
    assert f'"max_active_downstream_connections": {limits.CONNECTIONS_MAX}' in text


def test_both_families_of_addresses_are_served_where_all_are() -> None:
    assert listener(pool(host="::"), "::", LAYOUT)["address"]["socket_address"]["ipv4_compat"] is True
    assert "ipv4_compat" not in listener(pool(), "::1", LAYOUT)["address"]["socket_address"]
