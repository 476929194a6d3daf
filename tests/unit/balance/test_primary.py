"""Who takes writes: never a node whose timeline is below one that was seen, whatever becomes of the cluster."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import sampled
from tierkeeper.balance.primary import Claim, Remembered, Ruling, rule

NODES = ("a", "b", "c")
SYSTEM = "7000000000000000001"


def ruled(remembered: Remembered, claims: Mapping[str, Claim], **more: int) -> Ruling:
    return rule(remembered, claims, frozenset(NODES), more.get("max_lag", 1000), more.get("seen_lsn", 0))


def primary(timeline: int, lsn: int = 0, system: str | None = SYSTEM) -> Claim:
    return Claim(True, lsn, timeline, system)


def replica(timeline: int, lsn: int = 0, system: str | None = SYSTEM) -> Claim:
    return Claim(False, lsn, timeline, system)


def test_the_one_that_says_so_takes_writes_and_replicas_take_reads() -> None:
    ruling = ruled(Remembered(), {"a": primary(1, 5000), "b": replica(1, 4500), "c": replica(1, 3000)})
    assert (ruling.primary, ruling.readers) == ("a", {"b"})
    assert "2,000 bytes" in ruling.against["c"]
    assert ruling.remembered == Remembered(SYSTEM, 1, "a")


def test_a_promoted_one_takes_over_and_the_old_one_gets_nothing_ever_again() -> None:
    before = Remembered(SYSTEM, 1, "a")
    ruling = ruled(before, {"a": primary(1), "b": primary(2), "c": replica(1)})
    assert (ruling.primary, "a" in ruling.readers) == ("b", False)
    resurrected = ruled(ruling.remembered, {"a": primary(1), "c": replica(2)})
    assert resurrected.primary is None
    assert "timeline 2 was seen" in resurrected.why
    assert ruled(resurrected.remembered, {"a": replica(2), "b": primary(2)}).primary == "b"


def test_a_replica_on_a_new_timeline_is_proof_enough() -> None:
    ruling = ruled(Remembered(SYSTEM, 1, "a"), {"a": primary(1), "c": replica(2)})
    assert (ruling.primary, ruling.remembered) == (None, Remembered(SYSTEM, 2, None))
    assert ruled(ruling.remembered, {"a": primary(1), "b": primary(2)}).primary == "b"


def test_of_two_on_one_timeline_the_first_keeps_it() -> None:
    both = {"a": primary(3), "b": primary(3)}
    assert ruled(Remembered(SYSTEM, 3, "b"), both).primary == "b"
    nobody = ruled(Remembered(SYSTEM, 2, "c"), both)
    assert (nobody.primary, nobody.remembered.holder) == (None, None)
    assert "a and b" in nobody.why
    alone = ruled(Remembered(SYSTEM, 3, "b"), {"a": primary(3)})
    assert alone.primary is None
    assert "promote it" in alone.why
    gone = rule(Remembered(SYSTEM, 3, "old"), {"a": primary(3)}, frozenset(NODES), 1000)
    assert gone.primary == "a", "a holder that is configured no more holds nothing"


def test_another_system_takes_nothing_and_teaches_nothing() -> None:
    stranger = ruled(
        Remembered(SYSTEM, 1, "a"), {"a": primary(1, 10), "b": primary(9, 10, "other"), "c": replica(9, 10, "other")}
    )
    assert (stranger.primary, stranger.readers, stranger.remembered.timeline) == ("a", frozenset(), 1)
    alone = ruled(Remembered(SYSTEM, 1, "a"), {"b": primary(9, 10, "other")})
    assert (alone.primary, alone.remembered.timeline) == (None, 1)
    unknown = ruled(Remembered(), {"a": primary(1), "b": primary(9, 0, "other")})
    assert (unknown.primary, unknown.readers, unknown.remembered) == (None, frozenset(), Remembered())


def test_a_service_trusts_no_node_that_another_of_its_system_has_seen_demoted() -> None:
    was = Remembered(SYSTEM, 2, "b")

    def renamed(claims: Mapping[str, Claim], *elsewhere: Remembered, known: Remembered | None = None) -> Ruling:
        return rule(known or Remembered(), claims, frozenset(NODES), 1000, elsewhere=elsewhere)

    assert renamed({"a": primary(1)}, was).primary is None, "the resurrected one, under another name of the service"
    assert renamed({"a": primary(1)}, Remembered(SYSTEM, 2, None)).primary is None, "a timeline that only a replica showed"
    assert renamed({"a": primary(2), "b": primary(2)}, was).primary == "b", "of twins the one that had it first"
    assert renamed({"a": primary(2), "b": primary(2)}, was, known=Remembered(SYSTEM, 2, "a")).primary == "a"
    assert renamed({"a": primary(3)}, was).remembered == Remembered(SYSTEM, 3, "a")
    assert renamed({"a": primary(1)}, replace(was, system="other")).primary == "a", "another system's timelines say nothing"
    assert renamed({"a": primary(1, system=None)}, Remembered(None, 2, "b")).primary == "a", "nor do those of nobody knows which"


def test_a_replica_of_a_demoted_node_takes_no_reads() -> None:
    follows_old, follows_new = replace(replica(1, 100), follows=1), replace(replica(2, 100), follows=2)
    ruling = ruled(Remembered(SYSTEM, 1, "a"), {"b": primary(2, 100), "a": follows_old, "c": follows_new})
    assert ruling.readers == {"c"}
    assert "follows a log of timeline 1" in ruling.against["a"]
    assert ruled(Remembered(SYSTEM, 2, "b"), {"a": follows_old}).readers == frozenset(), "nor while the new primary is away"
    assert ruled(Remembered(SYSTEM, 1, "a"), {"b": primary(2, 100), "a": replica(1, 100)}).readers == {"a"}, (
        "the control file learns of a timeline late: it is no proof against a replica"
    )


def test_what_a_node_may_not_say_is_no_reason_against_it() -> None:
    bare = ruled(Remembered(), {"a": Claim(True, 10), "b": Claim(False, 10)})
    assert (bare.primary, bare.readers) == ("a", {"b"})
    assert ruled(Remembered(None, 2, "b"), {"a": Claim(True, 10)}).primary is None


def test_without_a_primary_replicas_are_measured_by_what_was_seen() -> None:
    ruling = ruled(Remembered(SYSTEM, 1, "a"), {"b": replica(1, 9500), "c": replica(1, 100)}, seen_lsn=10_000)
    assert ruling.readers == {"b"}


@dataclass
class Cluster:
    """A real cluster as far as promotions go, and a brain that may be restarted and remembers what it has written down."""

    timeline: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 1))
    writable: dict[str, bool] = field(default_factory=lambda: {"a": True, "b": False, "c": False})
    up: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(NODES, True))
    remembered: Remembered = field(default_factory=Remembered)
    seen: int = 0

    def do(self, event: tuple[str, str]) -> None:
        what, name = event
        if what == "kill":
            self.up[name] = False
        elif what == "raise":
            self.up[name] = True
        elif what == "promote" and self.up[name] and not self.writable[name]:
            # A standby knows the timelines of whoever it follows, and takes the next that it knows of none for.
            self.timeline[name] += 1
            self.writable[name] = True
        elif what == "follow":
            leaders = [n for n in NODES if n != name and self.up[n] and self.writable[n]]
            if leaders:
                leader = max(leaders, key=lambda n: self.timeline[n])
                self.writable[name], self.timeline[name] = False, max(self.timeline[name], self.timeline[leader])

    def look(self) -> Ruling:
        claims = {n: Claim(self.writable[n], 0, self.timeline[n], SYSTEM) for n in NODES if self.up[n]}
        before = self.remembered
        ruling = ruled(before, claims)
        self.seen = max([self.seen, *(c.timeline or 0 for c in claims.values())])
        self.remembered = ruling.remembered
        self._judge(before, claims, ruling)
        return ruling

    def _judge(self, before: Remembered, claims: Mapping[str, Claim], ruling: Ruling) -> None:
        assert ruling.remembered.timeline == self.seen
        if ruling.primary is None:
            return
        chosen = claims[ruling.primary]
        assert chosen.writable
        assert chosen.timeline == self.seen, "a write to a node below a timeline that was seen"
        if before.holder is not None and before.timeline == self.seen:
            assert ruling.primary == before.holder, "two histories of one timeline were written to"
        assert ruling.primary not in ruling.readers
        assert not [n for n in ruling.readers if claims[n].writable]


EVENTS = [(what, name) for what in ("kill", "raise", "promote", "follow") for name in NODES]


@pytest.mark.parametrize("length", sampled((3, 4, 5), 3))
def test_every_sequence_of_events_keeps_writes_on_the_newest_timeline(length: int) -> None:
    for events in itertools.product(EVENTS, repeat=length):
        cluster = Cluster()
        cluster.look()
        for event in events:
            cluster.do(event)
            cluster.look()


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans()), max_size=60))
def test_long_histories_too_also_where_the_brain_looks_seldom(events: Sequence[tuple[tuple[str, str], bool]]) -> None:
    cluster = Cluster()
    cluster.look()
    for event, looks in events:
        cluster.do(event)
        if looks:
            cluster.look()
            cluster.remembered = replace(cluster.remembered)


def test_a_cluster_that_was_left_in_order_takes_writes() -> None:
    cluster = Cluster()
    assert cluster.look().primary == "a"
    for event in (("kill", "a"), ("promote", "b"), ("follow", "c")):
        cluster.do(event)
        cluster.look()
    assert cluster.look().primary == "b"
    cluster.do(("raise", "a"))
    assert cluster.look().primary == "b"
    cluster.do(("follow", "a"))
    assert cluster.look().readers == {"a", "c"}
