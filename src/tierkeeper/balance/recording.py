"""The record of what `adaptive` decided and from what, and the proof that it can be followed.

A line has what one step looked at and the weights that came of it; the first one of a pool in each file has the state before it
too. So each file can be replayed by itself.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tierkeeper.balance.kept import Record, now_text
from tierkeeper.balance.model import Counters, Sample, Takes
from tierkeeper.balance.weighing import Look, Weigher


@dataclass(frozen=True)
class Step:
    """One step of a pool: what it looked at, and the weights that came of it."""

    pool: str
    seconds: float
    panic_percent: int
    looks: Mapping[str, Look]
    weights: Mapping[str, int]


class Steps:
    """Writes the steps of all pools."""

    def __init__(self, record: Record, weigher: Weigher) -> None:
        self._record, self._weigher = record, weigher
        self._chained: set[str] = set()

    def add(self, step: Step, before: Any) -> None:
        """One step; `before` is the state that it began with."""
        pool, line = step.pool, {"at": now_text(), **asdict(step)}
        if pool not in self._chained:
            line["before"] = self._weigher.dump(before)
        if self._record.add(line):
            self._chained.clear()  # the other pools tell their states anew
            if "before" not in line:
                return
        self._chained.add(pool)

    def forget(self, pool: str) -> None:
        """The pool begins anew, or ends: its next line has its state."""
        self._chained.discard(pool)


def replayed(path: Path, weigher: Weigher) -> Iterator[tuple[str, Mapping[str, int], Mapping[str, int]]]:
    """Of each step in the file: the pool, the weights that were recorded, and those that the same inputs give again."""
    states: dict[str, Any] = {}
    with path.open(encoding="utf-8") as lines:
        for text in lines:
            line = json.loads(text)
            pool = line["pool"]
            if "before" in line:
                states[pool] = weigher.load(line["before"])
            if pool not in states:
                continue  # the file was begun anew between two lines of this pool
            looks = {name: _look(told) for name, told in line["looks"].items()}
            states[pool], weights = weigher.step(states[pool], line["seconds"], looks, line["panic_percent"])
            yield pool, line["weights"], weights


def _look(told: Mapping[str, Any]) -> Look:
    samples = tuple(Sample(**s) for s in told["samples"])
    return Look(told["weight"], Takes(told["takes"]), Counters(**told["counters"]), samples, told["group"])
