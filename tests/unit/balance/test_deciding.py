"""Shares from what is known of each backend."""

from collections.abc import Mapping

from tierkeeper.balance.deciding import DRAINED_PRIMARY, Decision, Known, Memory, decide
from tierkeeper.balance.health import Health, Standing
from tierkeeper.balance.model import Pool, Share, Takes
from tierkeeper.balance.pools import Ask, Service, node, obeyed, pools
from tierkeeper.balance.primary import Claim, Remembered
from tierkeeper.balance.tended import shared

IN, OUT = Health(Standing.IN, "well"), Health(Standing.OUT, "it answers with status 500")


def service(protocol: str, reads: bool = True) -> Service:
    scheme = {"http": "http://", "tcp": "", "postgres": "postgresql://u@"}[protocol]
    nodes = tuple(node(f"{scheme}{name}:1", weight, 0) for name, weight in (("a", 1), ("b", 2), ("c", 1)))
    base = Pool("db", "http", "127.0.0.1", 1, tuple(n.backend for n in nodes))
    made = pools(base, protocol, ("127.0.0.1", 2) if reads and protocol == "postgres" else None)  # type: ignore[arg-type]
    return Service("db", Ask(protocol), nodes, made)  # type: ignore[arg-type]


def taking(decision: Decision, pool: str = "db") -> dict[str, Takes]:
    return {name: share.takes for name, share in decision.routing[pool].items()}


def decided(known: Mapping[str, Known], protocol: str = "http", memory: Memory | None = None) -> Decision:
    return decide(service(protocol), known, memory or Memory())


def test_weights_are_the_configured_ones_times_a_hundred() -> None:
    decision = decided({name: Known(IN) for name in ("a:1", "b:1", "c:1")})
    assert decision.routing == {"db": {"a:1": Share(weight=100), "b:1": Share(weight=200), "c:1": Share(weight=100)}}


def test_what_is_out_takes_nothing_and_what_is_drained_nothing_new() -> None:
    decision = decided({"a:1": Known(OUT), "b:1": Known(IN, drained=True), "c:1": Known()})
    assert taking(decision) == {"a:1": Takes.NOTHING, "b:1": Takes.NOTHING_NEW, "c:1": Takes.NOTHING_NEW}
    assert [decision.verdicts[n].state for n in ("a:1", "b:1", "c:1")] == ["out", "drained", "unknown"]
    both = decided({"a:1": Known(OUT, drained=True), "b:1": Known(IN), "c:1": Known(IN)})
    assert taking(both)["a:1"] is Takes.NOTHING
    assert "status 500" in both.verdicts["a:1"].why


def test_who_was_not_asked_yet_waits_and_makes_no_panic() -> None:
    (pool,) = service("http").pools
    grown = decided({"a:1": Known(IN), "b:1": Known(), "c:1": Known()}).routing["db"]
    assert [name for name, takes in obeyed(pool, grown).items() if takes is Takes.TRAFFIC] == ["a:1"]
    fresh = decided({"a:1": Known(), "b:1": Known(), "c:1": Known()}).routing["db"]
    assert set(obeyed(pool, fresh).values()) == {Takes.TRAFFIC}, "where nobody was asked, all that there are take it"


def claim(writable: bool, lsn: int = 100, timeline: int = 1) -> Claim:
    return Claim(writable, lsn, timeline, "s")


def test_postgres_writes_go_to_the_primary_alone_and_reads_to_replicas() -> None:
    known = {"a:1": Known(IN, claim(True)), "b:1": Known(IN, claim(False)), "c:1": Known(OUT, claim(False))}
    decision = decided(known, "postgres")
    assert taking(decision) == {"a:1": Takes.TRAFFIC, "b:1": Takes.NOTHING, "c:1": Takes.NOTHING}
    assert taking(decision, "db/reads") == {"a:1": Takes.NOTHING, "b:1": Takes.TRAFFIC, "c:1": Takes.NOTHING}
    assert [decision.verdicts[n].role for n in ("a:1", "b:1", "c:1")] == ["primary", "replica", None]
    assert not decision.urgent


def test_a_drained_primary_is_replaced_by_nobody_and_that_is_said() -> None:
    known = {"a:1": Known(IN, claim(True), drained=True), "b:1": Known(IN, claim(False)), "c:1": Known(OUT)}
    decision = decided(known, "postgres")
    assert taking(decision) == {"a:1": Takes.NOTHING_NEW, "b:1": Takes.NOTHING, "c:1": Takes.NOTHING}
    assert decision.ruling is not None
    assert DRAINED_PRIMARY in decision.ruling.why


def test_where_no_replica_may_the_primary_takes_the_reads() -> None:
    lagging = {"a:1": Known(IN, claim(True, 99_000_000)), "b:1": Known(IN, claim(False)), "c:1": Known(OUT)}
    decision = decided(lagging, "postgres")
    assert taking(decision, "db/reads") == {"a:1": Takes.TRAFFIC, "b:1": Takes.NOTHING, "c:1": Takes.NOTHING}
    assert "behind" in decision.verdicts["b:1"].why
    drained = {"a:1": Known(IN, claim(True)), "b:1": Known(IN, claim(False), drained=True), "c:1": Known(OUT)}
    reads = taking(decided(drained, "postgres"), "db/reads")
    assert (reads["a:1"], reads["b:1"]) == (Takes.TRAFFIC, Takes.NOTHING_NEW)


def test_a_primary_that_is_out_or_of_an_old_timeline_takes_nothing_at_all() -> None:
    away = {"a:1": Known(OUT, claim(True)), "b:1": Known(IN, claim(False)), "c:1": Known(IN, claim(False))}
    decision = decided(away, "postgres")
    assert set(taking(decision).values()) == {Takes.NOTHING}
    assert decision.urgent
    old = {"a:1": Known(IN, claim(True)), "b:1": Known(OUT), "c:1": Known(OUT)}
    decision = decided(old, "postgres", Memory(Remembered("s", 2, "b:1")))
    assert set(taking(decision).values()) | set(taking(decision, "db/reads").values()) == {Takes.NOTHING}
    assert decision.verdicts["a:1"].role == "not the primary"


def test_a_drained_primary_ends_what_it_has_begun() -> None:
    known = {"a:1": Known(IN, claim(True), drained=True), "b:1": Known(IN, claim(False)), "c:1": Known(OUT)}
    assert taking(decided(known, "postgres"))["a:1"] is Takes.NOTHING_NEW


def test_shares_are_of_the_first_priority_that_takes_any() -> None:
    shares = {"a": Share(weight=100), "b": Share(weight=300), "c": Share(weight=100)}
    priorities = {"a": 0, "b": 0, "c": 1}
    assert [shared(shares, n, priorities).share for n in "abc"] == [0.25, 0.75, 0.0]
    shares = {"a": Share(Takes.NOTHING), "b": Share(Takes.NOTHING), "c": Share(weight=100)}
    assert [shared(shares, n, priorities).share for n in "abc"] == [0.0, 0.0, 1.0]
