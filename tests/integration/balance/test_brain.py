"""The brain over a plane in memory: real backends are asked, and what is published is looked at."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from backends import HttpBackend, hanging
from brains import ASK, MemoryPlane, running, service
from support import eventually
from tierkeeper.balance.adaptive import replay
from tierkeeper.balance.kept import Kept
from tierkeeper.balance.model import Share, Takes
from tierkeeper.balance.pools import Service
from tierkeeper.demo.server import free_port
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.ports import ABANDONED
from tierkeeper.kernel.results import BalanceEvent


@pytest.fixture
def two() -> Iterator[tuple[HttpBackend, HttpBackend]]:
    with HttpBackend() as one, HttpBackend() as other:
        yield one, other


def test_it_serves_by_what_it_heard_before_it_began(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    other.status = 503
    with running(tmp_path, service("api", [one.url, other.url]), plane=MemoryPlane(start_seconds=0.3)) as run:
        assert 1 <= len(one.requests) <= 3, "nobody says yet how often to ask, and that is no reason to ask without end"
        assert run.plane.takes("api") == {one.name: Takes.TRAFFIC, other.name: Takes.NOTHING}
        assert run.plane.published == []
        assert any("503" in told for told in run.told("state"))
    assert run.plane.stopped
    assert run.events[-1].event == "ended"


def test_a_fall_and_a_return_are_found_within_a_second_whatever_the_interval(
    tmp_path: Path, two: tuple[HttpBackend, HttpBackend]
) -> None:
    one, other = two
    with running(tmp_path, service("api", [one.url, other.url], replace(ASK, interval_seconds=0.4))) as run:
        other.status = 500
        began = time.monotonic()
        assert eventually(lambda: run.plane.taking("api") == {one.name}, 5)
        assert time.monotonic() - began < 0.4 + 0.25 + 0.35
        other.status = 200
        assert eventually(lambda: run.plane.taking("api") == {one.name, other.name}, 5)
    changes = [json.loads(line) for line in (tmp_path / "changes.jsonl").read_text().splitlines()]
    shares = [c for c in changes if c["event"] == "share"]
    assert [(c["to"]["takes"], c["backend"]) for c in shares] == [("nothing", other.name), ("traffic", other.name)]
    assert "500" in shares[0]["why"]


def test_one_that_hangs_delays_no_other(tmp_path: Path) -> None:
    with ExitStack() as stack:
        good = stack.enter_context(HttpBackend())
        hung = [stack.enter_context(hanging()) for _ in range(8)]
        addresses = [good.url, *(f"http://127.0.0.1:{port}" for port in hung)]
        ask = replace(ASK, interval_seconds=0.1, timeout_seconds=0.4)
        with running(tmp_path, service("api", addresses, ask)) as run:
            assert run.plane.taking("api") == {good.name}
            before = len(good.requests)
            time.sleep(0.6)
            assert len(good.requests) - before >= 4
            assert all("no answer within 0.4 s" in told for told in run.told("state"))


def test_what_traffic_meets_takes_one_out_whose_check_goes_well(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    with running(tmp_path, service("api", [one.url, other.url])) as run:
        run.plane.meets("api", one.name, requests=50)
        run.plane.meets("api", other.name, requests=50, errors=40)
        assert eventually(lambda: run.plane.taking("api") == {one.name}, 2)
        assert any("40 of 50 requests" in told for told in run.told("state"))
        asked = len(other.requests)
        assert eventually(lambda: len(other.requests) > asked + 1, 2), "one in doubt is asked often"
        (stands,) = [b for b in run.brain.do(run.brain.status).services[0].backends if b.name == other.name]
        assert stands.again_at is not None


def test_where_all_fail_nobody_is_blamed(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    with running(tmp_path, service("api", [one.url, other.url])) as run:
        for backend in (one, other):
            run.plane.meets("api", backend.name, requests=50, errors=40)
        time.sleep(0.4)
        assert run.plane.taking("api") == {one.name, other.name}


def test_refused_connections_take_one_out_at_once(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    with running(tmp_path, service("api", [one.url, other.url])) as run:
        run.plane.meets("api", other.name, refused=5)
        assert eventually(lambda: run.plane.taking("api") == {one.name}, 1)


def test_a_drain_outlives_the_brain(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    api = service("api", [one.url, other.url])
    with running(tmp_path, api) as run:
        result = run.brain.do(lambda: run.brain.drain("api", other.name, drained=True))
        assert (result.changed, result.drained) == (True, True)
        assert eventually(lambda: run.plane.takes("api")[other.name] is Takes.NOTHING_NEW, 1)
        assert run.brain.do(lambda: run.brain.drain("api", other.name, drained=True)).changed is False
        for wrong in (("apis", other.name), ("api", "127.0.0.1:1")):
            with pytest.raises(UsageError) as error:
                run.brain.do(lambda wrong=wrong: run.brain.drain(*wrong, drained=True))  # type: ignore[misc]
            assert ("api" in error.value.remedy) or (one.name in error.value.remedy)
    with running(tmp_path, api) as run:
        assert run.plane.takes("api")[other.name] is Takes.NOTHING_NEW
        run.brain.do(lambda: run.brain.drain("api", other.name, drained=False))
        assert eventually(lambda: run.plane.taking("api") == {one.name, other.name}, 1)
    assert Kept(tmp_path).drained() == frozenset()


def test_a_turn_that_fails_ends_nothing_and_is_told_once(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    with running(tmp_path, service("api", [one.url, other.url], replace(ASK, interval_seconds=0.1))) as run:
        run.plane.fails["tend"] = ValueError("a fault of ours")
        assert eventually(lambda: bool(run.told("fault")), 2)
        time.sleep(0.5)
        assert len(run.told("fault")) == 1
        assert "ValueError" in run.told("fault")[0]
        assert "a fault of ours" not in run.told("fault")[0], "what an exception quotes may be a secret"
        run.plane.fails.clear()
        assert eventually(lambda: bool(run.told("well")), 5)
        other.status = 500
        assert eventually(lambda: run.plane.taking("api") == {one.name}, 3)


def test_what_could_not_be_published_is_published_later(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    with running(tmp_path, service("api", [one.url, other.url], replace(ASK, interval_seconds=0.1))) as run:
        run.plane.fails["publish"] = Failed("the plane", "it takes nothing", "See its log")
        other.status = 500
        assert eventually(lambda: bool(run.told("fault")), 3)
        assert run.plane.taking("api") == {one.name, other.name}
        run.plane.fails.clear()
        assert eventually(lambda: run.plane.taking("api") == {one.name}, 4)


def test_a_plane_that_restarts_is_no_fault(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    with running(tmp_path, service("api", [two[0].url])) as run:
        run.plane.fails["observe"] = NotNow("the plane", "it restarts", "Wait")
        run.plane.says.append("it had died and was started again")
        assert eventually(lambda: bool(run.told("plane")), 2)
        assert run.told("fault") == []


def test_a_plane_that_stands_still_is_told(
    tmp_path: Path, two: tuple[HttpBackend, HttpBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tierkeeper.balance.brain.BLIND_SECONDS", 0.3)
    with running(tmp_path, service("api", [two[0].url])) as run:
        run.plane.fails["observe"] = NotNow("the plane", "it does not answer", "Wait")
        assert eventually(lambda: bool(run.told("fault")), 2)
        assert run.brain.do(run.brain.status).notes == ["the plane: it does not answer"]
        run.plane.fails.clear()
        assert eventually(lambda: bool(run.told("well")), 2)
        assert run.brain.do(run.brain.status).notes == []


def test_nobody_who_reads_is_no_reason_to_end(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two

    def tell(event: object) -> None:
        raise BrokenPipeError(event)

    with running(tmp_path, service("api", [one.url, other.url], replace(ASK, interval_seconds=0.1)), tell=tell) as run:
        other.status = 500
        assert eventually(lambda: run.plane.taking("api") == {one.name}, 3)
        assert run.brain.do(run.brain.status).notes == []


def test_a_brain_that_fails_leaves_traffic_as_it_was(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two

    def tell(event: BalanceEvent) -> None:
        if event.event in ("state", "fault"):
            raise RuntimeError

    with running(tmp_path, service("api", [one.url, other.url], replace(ASK, interval_seconds=0.1)), tell=tell) as run:
        other.status = 500
        assert eventually(lambda: bool(run.error), 3)
    assert not run.plane.stopped


def test_only_what_changes_is_published(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    with running(tmp_path, service("api", [w.url for w in two], replace(ASK, interval_seconds=0.1))) as run:
        time.sleep(0.4)
        assert run.plane.published == []


def test_a_reload_keeps_what_stays(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    with running(tmp_path, service("api", [one.url])) as run, HttpBackend() as third:
        run.services[:] = [service("api", [one.url, other.url]), service("more", [third.url])]
        assert run.brain.do(run.brain.reload).services == ["api", "more"]
        assert run.plane.takes("api")[one.name] is Takes.TRAFFIC
        assert eventually(lambda: run.plane.taking("api") == {one.name, other.name}, 2)
        assert eventually(lambda: run.plane.taking("more") == {third.name}, 2)
        run.services[:] = [service("api", [other.url])]
        run.brain.do(run.brain.reload)
        assert [s.name for s in run.brain.do(run.brain.status).services] == ["api"]
        asked = len(third.requests)
        time.sleep(0.4)
        assert len(third.requests) == asked, "it is still asked after it has left"


@pytest.mark.parametrize("where", ["load", "plane"])
def test_a_reload_that_is_refused_changes_nothing(tmp_path: Path, two: tuple[HttpBackend, HttpBackend], where: str) -> None:
    one, other = two
    with running(tmp_path, service("api", [one.url]), service("gone", [one.url])) as run:
        before = run.brain.do(run.brain.status).services
        refusal = UsageError("balance.services[0].listen", "the port is taken", "Write another one")
        if where == "plane":
            run.plane.fails["reload"] = refusal
            run.services[:] = [service("api", [one.url, other.url]), service("new", [other.url])]
        else:

            def refuse() -> Sequence[Service]:
                raise refusal

            run.brain.load = refuse
        with pytest.raises(UsageError, match="port is taken"):
            run.brain.do(run.brain.reload)
        after = run.brain.do(run.brain.status).services
        assert [(s.name, [b.name for b in s.backends]) for s in after] == [(s.name, [b.name for b in s.backends]) for s in before]
        assert run.plane.taking("api") == {one.name}


def test_learned_weights_hold_are_recorded_and_end_with_their_algorithm(
    tmp_path: Path, two: tuple[HttpBackend, HttpBackend]
) -> None:
    one, other = two
    api = service("api", [one.url, other.url], algorithm="adaptive")

    def is_shed() -> bool:
        run.plane.meets("api", one.name, requests=20, seconds=0.005)
        run.plane.meets("api", other.name, requests=20, seconds=0.1)
        return run.plane.routing["api"][other.name].weight < run.plane.routing["api"][one.name].weight / 50

    with running(tmp_path, api) as run:
        assert eventually(is_shed, 2)
        assert eventually(lambda: bool(run.told("weight")), 1)
        assert "of a fair share (shed to a trickle: it is far slower than its peers)" in run.told("weight")[0]
        shown = {b.name: b for b in run.brain.do(run.brain.status).services[0].backends}
        assert shown[other.name].ports["api"].share < 0.02
        assert shown[other.name].why.endswith("; shed to a trickle: it is far slower than its peers")
        assert ";" not in shown[one.name].why
        run.services[:] = [service("api", [one.url, other.url])]
        run.brain.do(run.brain.reload)
        assert run.plane.routing["api"][other.name] == Share(weight=100)
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert replay(lines, "api").weights[one.name] > 50 * replay(lines, "api").weights[other.name]
    with pytest.raises(UsageError, match="other weights"):
        replay([line.replace("[200,0.1]", "[200,0.005]") for line in lines], "api")
    shares = [c for c in map(json.loads, (tmp_path / "changes.jsonl").read_text().splitlines()) if c["event"] == "share"]
    assert "shed to a trickle: it is far slower than its peers" in {c["why"] for c in shares if c["backend"] == other.name}


def test_what_keeps_it_from_beginning_is_raised_and_leaves_nothing(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    plane = MemoryPlane(fails={"start": UsageError("balance.services[0].listen", "the port is taken", "Free it")})
    with running(tmp_path, service("api", [two[0].url]), plane=plane) as run:
        assert eventually(lambda: bool(run.error))
    assert isinstance(run.error[0], UsageError)
    assert not plane.stopped, "a plane that an earlier brain left running goes on"
    assert not [t for t in threading.enumerate() if t.name.startswith("check ")] or eventually(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("check ")], 2
    )


def test_the_last_status_stays_for_whoever_asks_later(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    with running(tmp_path, service("api", [two[0].url, f"http://127.0.0.1:{free_port()}"])):
        assert eventually(lambda: (Kept(tmp_path).status() or {}).get("running") is True, 3)
    document = Kept(tmp_path).status() or {}
    assert document["running"] is False
    states = {b["name"]: b["state"] for b in document["services"][0]["backends"]}
    assert sorted(states.values()) == ["in", "out"]


def test_where_what_it_runs_in_has_failed_traffic_goes_on(tmp_path: Path, two: tuple[HttpBackend, HttpBackend]) -> None:
    with running(tmp_path, service("api", [two[0].url])) as run:
        run.ends_because = ABANDONED
    assert not run.plane.stopped
    assert (Kept(tmp_path).status() or {})["running"] is True


def test_only_one_brain_decides(tmp_path: Path) -> None:
    with Kept(tmp_path).alone(), pytest.raises(UsageError, match="another"), Kept(tmp_path).alone():
        pass
