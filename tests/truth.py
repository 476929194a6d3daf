"""What the application believes of its own rows: the oracle of the campaigns. It knows no tier and reads no table.

A row is known by its tag, which never changes; its value (key, age, body) does. A write that is under way, or whose outcome
nobody knows, leaves two values that may be seen.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

Value = tuple[int, datetime, str]
"""Key, age, body."""
Seen = tuple[int, Value]
"""A tag and the value that a reader saw."""


@dataclass(eq=False)
class _Spell:
    """A value (None: no row) and when it could be seen, in seconds of the monotonic clock."""

    value: Value | None
    since: float
    until: float | None = None


@dataclass(frozen=True)
class Write:
    """A write that was sent and not answered yet."""

    tag: int
    old: _Spell
    new: _Spell


class Truth:
    """I1, I2 and I4, as the application can see them: `wrong` says how an answer contradicts what was acknowledged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lives: dict[int, list[_Spell]] = {}
        self._busy: set[int] = set()

    def begin(self, tag: int, new: Value | None) -> Write | None:
        """Just before a write to row `tag` is sent. None where another write to it is under way or of unknown outcome."""
        with self._lock:
            if tag in self._busy:
                return None
            self._busy.add(tag)
            life = self._lives.setdefault(tag, [_Spell(None, 0.0)])
            write = Write(tag, life[-1], _Spell(new, time.monotonic()))
            life.append(write.new)
            return write

    def committed(self, write: Write) -> None:
        """The server has acknowledged it."""
        with self._lock:
            write.old.until = time.monotonic()
            self._busy.discard(write.tag)

    def refused(self, write: Write) -> None:
        """Nothing was changed."""
        with self._lock:
            self._lives[write.tag].remove(write.new)
            self._busy.discard(write.tag)

    # A write of unknown outcome is neither: its row stays busy, and either value may be seen, until `settle`.

    def live(self) -> dict[int, Value]:
        """The rows that nobody is writing to, with their values."""
        with self._lock:
            return {t: s.value for t, (*_, s) in self._lives.items() if s.value is not None and t not in self._busy}

    def wrong(self, answer: Iterable[Seen], began: float, ended: float) -> list[str]:
        """How `answer`, asked for between `began` and `ended`, is none that a single store of the rows could have given."""
        found = list(answer)
        times, values = Counter(tag for tag, _ in found), dict(found)
        with self._lock:
            lives = {tag: list(life) for tag, life in self._lives.items()}
        said = [f"row {tag} was seen {n} times" for tag, n in times.items() if n > 1]
        for tag in lives.keys() | values.keys():
            may_be = [s.value for s in lives.get(tag, ()) if s.since <= ended and (s.until is None or s.until >= began)]
            if values.get(tag) not in (may_be or [None]):
                said.append(f"row {tag} was seen as {values.get(tag)}, it was {may_be}")
        return said

    def settle(self, answer: Iterable[Seen]) -> list[str]:
        """`wrong` for an answer while nobody writes; it decides the writes whose outcome is unknown."""
        found = list(answer)
        now = time.monotonic()
        said, values = self.wrong(found, now, now), dict(found)
        with self._lock:
            for tag in self._busy:
                *_, old, new = self._lives[tag]
                kept = new if values.get(tag) == new.value else old
                self._lives[tag] = [_Spell(kept.value, now)]
            self._busy.clear()
        return said
