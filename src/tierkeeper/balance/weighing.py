"""Where an algorithm that learns weights plugs in. The brain knows nothing of it but this."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tierkeeper.balance.model import Counters, Sample, Takes


@dataclass(frozen=True)
class Look:
    """One backend of a pool at one turn. `group` is its priority."""

    weight: int
    takes: Takes
    counters: Counters
    samples: tuple[Sample, ...]
    group: int


class Weigher(Protocol):
    """Pure: the same state and looks give the same weights, so that a record of them can be replayed."""

    def begin(self) -> Any:
        """The state before the first look."""
        ...

    def step(self, state: Any, seconds: float, looks: Mapping[str, Look], panic_percent: int) -> tuple[Any, Mapping[str, int]]:
        """The next state and the weight of each backend, from 1 to 10,000. `seconds` is on the monotonic clock."""
        ...

    def dump(self, state: Any) -> Any:
        """The state as JSON can carry it."""
        ...

    def load(self, document: Any) -> Any:
        """The state that `dump` gave."""
        ...
