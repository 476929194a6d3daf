"""What the balancer keeps on disk."""

import json
from pathlib import Path

import pytest

from tierkeeper.balance.adaptive import Inputs, Seen, State, replay, step
from tierkeeper.balance.kept import Kept, Record, Steps
from tierkeeper.balance.model import Counters, Sample, Takes
from tierkeeper.balance.primary import Remembered
from tierkeeper.kernel.errors import UsageError


def test_what_is_remembered_is_read_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert (kept.remembered(), kept.drained(), kept.status()) == ({}, frozenset(), None)
    kept.remember({"db": Remembered("7", 3, "a:1"), "other": Remembered()})
    kept.drain(frozenset({("db", "a:1")}))
    again = Kept(tmp_path)
    assert again.remembered() == {"db": Remembered("7", 3, "a:1"), "other": Remembered()}
    assert again.drained() == {("db", "a:1")}


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"db": {"system": "7"}}', '{"db": {"system": "7", "timeline": "x", "holder": null}}']
)
def test_a_damaged_memory_of_primaries_is_no_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "primaries.json").write_text(text)
    with pytest.raises(UsageError, match="damaged"):
        Kept(tmp_path).remembered()


def test_a_damaged_list_of_what_is_drained_sends_nobody_traffic(tmp_path: Path) -> None:
    (tmp_path / "drained.json").write_text('[["api"')
    with pytest.raises(UsageError, match="drain anew"):
        Kept(tmp_path).drained()


def test_a_record_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.jsonl", limit_bytes=2000)
    fresh = [record.write(json.dumps({"n": n, "text": "x" * 50})) for n in range(200)]
    record.close()
    assert fresh.count(True) > 5
    sizes = [p.stat().st_size for p in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 2000
    lines = [json.loads(line)["n"] for name in ("r.jsonl.1", "r.jsonl") for line in (tmp_path / name).read_text().splitlines()]
    assert lines == list(range(lines[0], 200))
    record.add({"n": 200})
    assert json.loads((tmp_path / "r.jsonl").read_text().splitlines()[-1])["n"] == 200
    record.close()


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path / "no" / "such" / "folder")
    record.add({"n": 1})
    assert record.lost == 1


def test_every_file_of_the_record_replays_to_the_same_weights(tmp_path: Path) -> None:
    steps = Steps(Record(tmp_path / "steps.jsonl", limit_bytes=170_000))
    states = {"api": State(), "web": State()}
    for n in range(300):
        for pool, before in list(states.items()):
            slow = (Sample(200, 0.1 if n % 70 > 30 else 0.005),) * 10
            backends = {
                "a": Seen(1, Takes.TRAFFIC, Counters(requests=n * 10), (Sample(200, 0.005),) * 10),
                "b": Seen(1, Takes.TRAFFIC, Counters(requests=n * 10), slow),
            }
            inputs = Inputs(n / 10, backends)
            states[pool] = step(before, inputs)
            steps.add(pool, before, inputs, states[pool].weights)
    steps.close()
    for name in ("steps.jsonl.1", "steps.jsonl"):
        lines = (tmp_path / name).read_text().splitlines()
        found = [json.loads(line) for line in lines]
        assert [sum("inputs" in one for one in found if one["pool"] == pool) > 20 for pool in states] == [True, True]
        assert [sum("state" in one for one in found if one["pool"] == pool) for pool in states] == [1, 1]
        assert len({str(one.get("weights")) for one in found}) > 5
        assert [replay(lines, pool) != State() for pool in states] == [True, True]
    assert {pool: replay(lines, pool) for pool in states} == states
    with pytest.raises(UsageError, match="other weights"):
        replay([line for line in lines if '"state"' not in line], "api")


def test_a_step_that_is_lost_is_followed_by_its_state(tmp_path: Path) -> None:
    steps = Steps(Record(tmp_path / "steps.jsonl"))
    state = State()
    for n in range(4):
        many = 30_000 if n == 2 else 1
        inputs = Inputs(n / 10, {"a": Seen(1, Takes.TRAFFIC, Counters(requests=n), (Sample(200, 0.01),) * many)})
        before, state = state, step(state, inputs)
        steps.add("api", before, inputs, state.weights)
    steps.close()
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert ["state" in json.loads(line) for line in lines] == [True, False, False, True, False]
    assert replay(lines, "api") == state
