"""What the balancer keeps on disk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tierkeeper.balance.kept import Kept, Record
from tierkeeper.balance.model import Counters, Sample, Takes
from tierkeeper.balance.primary import Remembered
from tierkeeper.balance.recording import Step, Steps, replayed
from tierkeeper.balance.weighing import Look
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
    fresh = [record.add({"n": n, "text": "x" * 50}) for n in range(200)]
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
    assert record.add({"n": 1}) is False
    assert record.lost == 1


@dataclass(frozen=True)
class Sums:
    """A learner whose weights depend on all that it has seen: one step left out, and all that follow are different."""

    def begin(self) -> Any:
        return 1

    def step(self, state: Any, seconds: float, looks: Any, panic_percent: int) -> tuple[Any, dict[str, int]]:
        counted = sum(k.counters.requests + len(k.samples) for k in looks.values())
        state = (state * 31 + int(seconds * 10) + panic_percent + counted) % 9973
        return state, {name: 1 + (state + n) % 10_000 for n, name in enumerate(looks)}

    def dump(self, state: Any) -> Any:
        return {"sum": state}

    def load(self, document: Any) -> Any:
        return document["sum"]


def test_every_file_of_the_record_replays_to_the_same_weights(tmp_path: Path) -> None:
    weigher = Sums()
    steps = Steps(Record(tmp_path / "steps.jsonl", limit_bytes=40_000), weigher)
    states = {"api": weigher.begin(), "web": weigher.begin()}
    for n in range(300):
        for pool, before in list(states.items()):
            look = Look(1, Takes.TRAFFIC, Counters(requests=n * 7), (Sample(200, 0.01),) * (n % 4), 0)
            states[pool], weights = weigher.step(before, n / 10, {"a": look, "b": look}, 50)
            steps.add(Step(pool, n / 10, 50, {"a": look, "b": look}, weights), before)
    for name in ("steps.jsonl.1", "steps.jsonl"):
        found = list(replayed(tmp_path / name, weigher))
        assert len(found) > 20
        assert {pool for pool, _, _ in found} == {"api", "web"}
        assert [recorded for _, recorded, _ in found] == [again for _, _, again in found]
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    (tmp_path / "torn").write_text("\n".join([*lines[:4], *lines[8:]]))
    found = list(replayed(tmp_path / "torn", weigher))
    assert [r for _, r, _ in found] != [a for _, _, a in found], "the proof proves nothing"
