"""One service as the brain knows it."""

from dataclasses import replace
from datetime import UTC, datetime

from tierkeeper.balance.adaptive import State
from tierkeeper.balance.asking import Heard
from tierkeeper.balance.checks import Report
from tierkeeper.balance.deciding import Known
from tierkeeper.balance.health import DOUBT_SECONDS, Answer, Standing
from tierkeeper.balance.model import Counters, Observation, Pool, Reading
from tierkeeper.balance.pools import Ask, Service, node, pools
from tierkeeper.balance.primary import Claim, Remembered
from tierkeeper.balance.tended import ROLE_SECONDS, Tended


def service(protocol: str = "http", *names: str, algorithm: str = "round_robin") -> Service:
    scheme = {"http": "http://", "postgres": "postgresql://u@"}[protocol]
    nodes = tuple(node(f"{scheme}{name}", 1, 0) for name in names or ("a:1", "b:1"))
    base = Pool("s", "http", "127.0.0.1", 1, tuple(n.backend for n in nodes), algorithm=algorithm)  # type: ignore[arg-type]
    return Service("s", Ask(protocol), nodes, pools(base, protocol, ("127.0.0.1", 2)))  # type: ignore[arg-type]


def tended(one: Service) -> Tended:
    made = Tended(one)
    made.follow(one, frozenset())
    return made


def well(name: str, claim: Claim | None = None) -> Report:
    return Report(("s", name), Heard(Answer(True, "well", 0.01), claim))


def ill(name: str, *, lost: bool = False) -> Report:
    return Report(("s", name), Heard(Answer(False, "no connection")), lost)


def test_a_lost_session_and_a_refused_connection_are_two_failures() -> None:
    db = tended(service("postgres"))
    db.hear(well("a:1", Claim(True, 5, 1, "x")), 0.0)
    db.hear(ill("a:1", lost=True), 1.0)
    assert db.known["a:1"].health.standing is Standing.OUT
    assert db.known["a:1"].claim is None, "what it said before it fell is not held to be so"
    db.hear(well("b:1", Claim(False, 5, 1, "x")), 0.0)
    db.hear(Report(("s", "b:1"), well("b:1").heard, lost=True), 1.0)
    assert db.known["b:1"].health.fails == 0, "a session may end while its server is well"


def test_one_failure_leaves_what_it_said_standing() -> None:
    db = tended(service("postgres"))
    db.hear(well("a:1", Claim(True, 5, 1, "x")), 0.0)
    db.hear(ill("a:1"), 1.0)
    assert db.decide(1.0).ruling is not None
    assert db.decision is not None
    assert db.decision.ruling is not None
    assert db.decision.ruling.primary == "a:1"
    db.hear(ill("a:1"), 1.25)
    assert (db.decide(1.25).ruling or db.decision.ruling).primary is None


def full(name: str, *, lost: bool = False) -> Report:
    return Report(("s", name), Heard(Answer(False, "it gives no further connection"), lives=True), lost)


def test_a_server_that_lets_the_check_not_in_is_as_it_was() -> None:
    db = tended(service("postgres"))
    db.hear(well("a:1", Claim(True, 5, 1, "x")), 0.0)
    for second in range(1, 5):
        db.hear(full("a:1", lost=True), float(second))
    decision = db.decide(5.0)
    assert decision.ruling is not None
    assert (decision.ruling.primary, db.known["a:1"].health.standing) == ("a:1", Standing.IN)
    db.hear(well("b:1", Claim(True, 5, 2, "x")), 5.0)
    assert (db.decide(6.0).ruling or decision.ruling).primary == "b:1", "a promotion elsewhere demotes it all the same"
    db.hear(ill("a:1"), 6.0)
    db.hear(ill("a:1"), 6.25)
    db.hear(full("a:1"), 6.5)
    assert db.known["a:1"].health.is_out, "one that was dead says who it is before it takes anything"


def test_at_the_start_only_the_last_primary_is_believed_without_a_word() -> None:
    db = tended(service("postgres"))
    db.remembered = Remembered("x", 3, "a:1")
    db.hear(full("a:1"), 0.0)
    db.hear(full("b:1"), 0.0)
    ruling = db.decide(0.0).ruling
    assert ruling is not None
    assert (ruling.primary, db.known["b:1"].health.standing) == ("a:1", Standing.OUT)
    unknown = tended(service("postgres"))
    unknown.hear(full("a:1"), 0.0)
    assert unknown.known["a:1"].health.is_out


def test_postgres_is_asked_each_second_and_often_while_nobody_takes_writes() -> None:
    db = tended(service("postgres"))
    for name, writable in (("a:1", True), ("b:1", False)):
        db.hear(well(name, Claim(writable, 5, 1, "x")), 0.0)
    db.decide(0.0)
    assert db.pace("a:1", 100.0) == ROLE_SECONDS
    for now in (101.0, 101.2):
        db.hear(ill("a:1"), now)
    db.decide(101.2)
    assert db.pace("b:1", 102.0) == DOUBT_SECONDS
    assert tended(service()).service.ask.interval_seconds == 30


def test_what_stays_is_known_and_what_is_new_is_not() -> None:
    api = tended(service())
    api.hear(well("a:1"), 0.0)
    api.states["s"] = State(weights={"a:1": 7})
    api.follow(replace(service("http", "a:1", "c:1")), frozenset({"c:1"}))
    assert (api.known["a:1"].is_in, api.known["c:1"], "b:1" in api.known) == (True, Known(drained=True), False)
    assert api.states == {}, "a weight that was learned outlives its algorithm"
    api.hear(well("b:1"), 1.0)
    assert "b:1" not in api.known
    api.follow(service("postgres", "a:1"), frozenset())
    assert not api.known["a:1"].is_in, "what is well over HTTP is not a primary"


def test_evidence_is_of_the_last_second_and_of_all_ports() -> None:
    db = tended(service("postgres"))
    for name, writable in (("a:1", True), ("b:1", False)):
        db.hear(well(name, Claim(writable, 5, 1, "x")), 0.0)

    def see(now: float, refused: int) -> None:
        readings = {pool: {"a:1": Reading(Counters(refused=refused))} for pool in ("s", "s/reads")}
        db.see(Observation(now, readings))

    see(0.0, 100)
    assert db.known["a:1"].is_in, "what was before the first look is no evidence"
    see(0.5, 101)
    assert db.known["a:1"].is_in
    see(3.0, 101)
    see(3.1, 102)
    assert db.known["a:1"].is_in, "three refusals in three seconds"
    see(3.2, 103)
    assert db.known["a:1"].health.is_out


def test_who_takes_traffic_in_a_panic_is_shown_with_it() -> None:
    api = tended(service("http", "a:1", "b:1", "c:1"))
    for name in ("a:1", "b:1", "c:1"):
        api.hear(ill(name) if name != "c:1" else well(name), 0.0)
    api.decide(0.0)

    def shown() -> dict[str, tuple[float, bool]]:
        told = api.shown(lambda _: datetime(2014, 1, 1, tzinfo=UTC), 0.0, lambda _: None)
        return {b.name: (b.ports["s"].share, "all the same" in b.why) for b in told.backends}

    assert shown() == {"a:1": (0.3333, True), "b:1": (0.3333, True), "c:1": (0.3333, False)}
    api.drain("c:1", drained=True)
    api.decide(0.0)
    assert shown() == {"a:1": (0.5, True), "b:1": (0.5, True), "c:1": (0.0, False)}
    for _ in range(2):
        api.hear(well("b:1"), 0.0)
    api.decide(0.0)
    assert shown() == {"a:1": (0.0, False), "b:1": (1.0, False), "c:1": (0.0, False)}
