"""What `adaptive` is told and what it remembers: values, and their form as one line of JSON. Pure.

A line is either the inputs of one look or a state to begin from. Numbers are written so that they read back to the bit.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from tierkeeper.balance.model import Counters, Sample, Takes
from tierkeeper.kernel.errors import UsageError

FORMAT: Final = 1
DISTANT: Final = -1e9  # seconds: long before anything


class Phase(StrEnum):
    """What a backend is taken for."""

    WELL = "well"
    SHED = "shed"
    RAMP = "coming back"


class Cause(StrEnum):
    """Why one was shed last."""

    NONE = ""
    SLOW = "slow"
    FAILING = "failing"
    PILING = "requests pile up"
    STALLED = "does not answer"


@dataclass(frozen=True)
class Seen:
    """One backend at one look. `group` is its priority: backends are compared within it."""

    weight: int
    takes: Takes
    counters: Counters
    samples: tuple[Sample, ...] = ()
    group: int = 0


@dataclass(frozen=True)
class Inputs:
    """All backends of a pool at one look; `seconds` on the monotonic clock. `panic_percent` as the pool's."""

    seconds: float
    backends: Mapping[str, Seen]
    panic_percent: int = 50


def keep(values: float, span_seconds: float, window_seconds: float, window_samples: float) -> float:
    """How much of an average stays when so many values come in a span: by time or by count, whichever forgets less."""
    return max(1 / (1 + span_seconds / window_seconds), 1 / (1 + values / window_samples))


@dataclass(frozen=True)
class Average:
    """A mean of latencies with its spread, over a window: `count` samples are in it, older ones less."""

    count: float = 0.0
    mean: float = 0.0
    square: float = 0.0

    @property
    def spread(self) -> float:
        """The standard deviation of one sample."""
        return math.sqrt(max(0.0, self.square - self.mean * self.mean))

    def take(self, values: Sequence[float], span_seconds: float, window_seconds: float, window_samples: float) -> "Average":
        """With `values` of the last `span_seconds`; without any, nothing is forgotten."""
        if not values:
            return self
        kept = self.count * keep(len(values), span_seconds, window_seconds, window_samples)
        count = kept + len(values)
        mean = (kept * self.mean + math.fsum(values)) / count
        square = (kept * self.square + math.fsum(v * v for v in values)) / count
        return Average(count, mean, square)


@dataclass(frozen=True)
class Known:
    """What is known of one backend after a look. Times in seconds on the clock of the inputs."""

    counters: Counters
    phase: Phase = Phase.WELL
    cause: Cause = Cause.NONE
    since_seconds: float = 0.0  # when the phase began
    level: float = 1.0  # of its fair share, on the way back
    grade: float = 1.0
    graded_seconds: float = DISTANT
    fast: Average = Average()
    late: float = 0.0  # of the samples of the fast average, the share that looks slow by itself
    slow: Average = Average()
    error_share: float = 0.0
    error_slow: float = 0.0
    error_score: float = 0.0
    rate: float = 0.0  # requests a second
    answered_seconds: float = 0.0  # when it last answered, or had nothing to answer
    waiting: float = 0.0  # requests in flight that are nothing new: what is more has piled up lately
    stepped_seconds: float = 0.0  # when its level last changed
    well: float = 0.0  # samples in favour while it is shed
    unwell: float = 0.0  # by how much those against it outnumber the others
    well_needed: float = 0.0
    unwell_seconds: float = 0.0  # when something last spoke against it
    returned_seconds: float = DISTANT  # when it last had its fair share back
    vain: int = 0  # tries to come back, in vain
    hold_seconds: float = DISTANT  # until then it is not tried
    trickle: float = 1.0  # of its fair share, while it is shed


@dataclass(frozen=True)
class State:
    """The weights that hold, and what they stand on. The empty one is the state before the first look.

    `weights`: from 1 to 10,000; alike by configured weight are alike here. `shares`: of its fair share, 1.0 for all of it.
    `panic`: in which groups so few are well that all take traffic.
    """

    seconds: float = 0.0
    known: Mapping[str, Known] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    panic: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of a record, and its number from 1: a state, or inputs with the weights that came of them if those were told."""

    number: int
    told: Inputs | State
    weights: Mapping[str, int] | None = None


def why(known: Known) -> str | None:
    """Why a backend has less than its fair share, in words; None where it has it."""
    if known.phase is Phase.SHED:
        return f"shed to a trickle: {_SAID[known.cause]}"
    if known.phase is Phase.RAMP and known.level < 1:
        return (
            f"on its way back from a trickle ({_SAID[known.cause]})" if known.cause is not Cause.NONE else "new: its share grows"
        )
    return f"it has {known.grade:.0%} of its fair share: it is slower than its peers" if known.grade < 1 else None


_SAID: Final = {
    Cause.NONE: "it was not well",
    Cause.SLOW: "it is far slower than its peers",
    Cause.FAILING: "its requests fail more often than its peers'",
    Cause.PILING: "requests pile up at it",
    Cause.STALLED: "it does not answer",
}


def inputs_line(inputs: Inputs, **beside: object) -> str:
    """`inputs` as one line of JSON, without the line's end. A hundred backends take some 15 kB.

    `beside` is told too: `pool` keeps the looks of several pools apart, `weights` are checked at a replay.
    """
    backends = {
        name: {
            "weight": seen.weight,
            "takes": seen.takes.value,
            "group": seen.group,
            "counters": asdict(seen.counters),
            "samples": [[s.status, s.seconds] for s in seen.samples],
        }
        for name, seen in inputs.backends.items()
    }
    return _line(inputs={"seconds": inputs.seconds, "panic_percent": inputs.panic_percent, "backends": backends}, **beside)


def state_line(state: State, **beside: object) -> str:
    """`state` as one line of JSON: what a record begins with, unless it begins with the empty one. `beside` as of inputs."""
    return _line(state=asdict(state), **beside)


def _line(**content: object) -> str:
    return json.dumps({"format": FORMAT, **content}, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_lines(lines: Iterable[str], pool: str | None = None) -> Iterator[Line]:
    """What `inputs_line` and `state_line` wrote of one pool. Raises UsageError for a line that is neither (place: its number)."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
            if document["format"] != FORMAT:
                raise UsageError(f"line {number}", f"its format is {document['format']!r}", f"Give a record of format {FORMAT}")
            if document.get("pool") != pool:
                continue
            told = _state(document["state"]) if "state" in document else _inputs(document["inputs"])
            yield Line(number, told, document.get("weights"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            cause = f"this is no record of `adaptive` ({type(error).__name__})"
            raise UsageError(f"line {number}", cause, "Give the lines as they were recorded") from None


def _inputs(document: Mapping[str, Any]) -> Inputs:
    backends = {
        name: Seen(
            seen["weight"],
            Takes(seen["takes"]),
            Counters(**seen["counters"]),
            tuple(Sample(status, seconds) for status, seconds in seen["samples"]),
            seen["group"],
        )
        for name, seen in document["backends"].items()
    }
    return Inputs(document["seconds"], backends, document["panic_percent"])


def _state(document: Mapping[str, Any]) -> State:
    known = {name: _known(found) for name, found in document["known"].items()}
    return State(document["seconds"], known, document["weights"], document["shares"], tuple(document["panic"]))


def _known(document: Mapping[str, Any]) -> Known:
    made: dict[str, Any] = {name: document[name] for name in (f.name for f in fields(Known))}
    made["counters"] = Counters(**made["counters"])
    made["phase"], made["cause"] = Phase(made["phase"]), Cause(made["cause"])
    made["fast"], made["slow"] = Average(**made["fast"]), Average(**made["slow"])
    return Known(**made)
