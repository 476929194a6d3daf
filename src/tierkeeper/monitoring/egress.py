"""What this machine has received from each tier, day by day, and what Main knows of that from all machines.

A machine's sums only grow and Main keeps the larger one, so that telling it twice counts once, and a lost answer loses nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from tierkeeper.kernel.limits import (
    BOARD_EGRESS_SHARE,
    BOARD_FRESH_SECONDS,
    BOARD_METERED_FRESH_SECONDS,
    USAGE_DAILY_DAYS,
)
from tierkeeper.monitoring import state
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.monitoring", "history.sql")
_KEPT_DAYS: Final = 400  # on this machine: longer than Main is away, and a file of some 50 KB
_MONTH_SECONDS: Final = 31 * 86_400


@dataclass(frozen=True)
class Share:
    """What one machine (`writer`) received from `tier` on `day` (UTC), in all."""

    day: date
    tier: str
    writer: UUID
    bytes: int


@dataclass
class _Sums:
    """The file: its writer, and by day and tier what came and how much of it Main has been told."""

    writer: UUID = field(default_factory=uuid4)
    days: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @property
    def unsent(self) -> int:
        return sum(total - sent for tiers in self.days.values() for total, sent in tiers.values())

    def shares(self) -> list[Share]:
        days = ((date.fromisoformat(day), tiers) for day, tiers in self.days.items())
        return [Share(day, tier, self.writer, total) for day, tiers in days for tier, (total, _) in tiers.items()]


class Egress:
    """This machine's sums in `egress.json`. Where nothing lasts (`folder` None) or can be written they are in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory = _Sums()

    def add(self, day: date, received: Mapping[str, int]) -> None:
        """Adds to the day's sums."""
        if self._folder is not None:
            try:
                state.make(self._folder)
                with state.locked(self._folder / "egress.lock"):
                    sums = self._read()
                    _add(sums, day, received)
                    self._write(sums)
            except OSError:
                self._folder = None
        if self._folder is None:
            _add(self._memory, day, received)

    @property
    def lasts(self) -> bool:
        """Whether another run on this machine will know of it."""
        return self._folder is not None

    @property
    def unsent_bytes(self) -> int:
        """What Main has not been told of."""
        return self._read().unsent

    def shares(self) -> list[Share]:
        """This machine's sums."""
        return self._read().shares()

    def unsent(self) -> list[Share]:
        """Those that Main has not been told of, or not all."""
        sums = self._read()
        return [s for s in sums.shares() if len(set(sums.days[s.day.isoformat()][s.tier])) > 1]

    def told(self, shares: Sequence[Share]) -> None:
        """Main has committed these."""
        if self._folder is None:
            _told(self._memory, shares)
            return
        with suppress(OSError), state.locked(self._folder / "egress.lock"):  # else it is told again, which changes nothing
            sums = self._read()
            _told(sums, shares)
            self._write(sums)

    def _read(self) -> _Sums:
        if self._folder is None:
            return self._memory
        try:
            told = json.loads((self._folder / "egress.json").read_bytes())
            days = {
                str(day): {str(t): [int(n), int(sent)] for t, (n, sent) in tiers.items()} for day, tiers in told["days"].items()
            }
            return _Sums(UUID(told["writer"]), days)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return _Sums()  # none yet, or damaged: what Main knows of the old writer stays there

    def _write(self, sums: _Sums) -> None:
        assert self._folder is not None  # noqa: S101 - who has no folder writes none
        state.replace(
            self._folder / "egress.json", json.dumps({"writer": str(sums.writer), "days": sums.days}).encode(), durable=False
        )


def _add(sums: _Sums, day: date, received: Mapping[str, int]) -> None:
    for tier, received_bytes in received.items():
        if received_bytes:
            sums.days.setdefault(day.isoformat(), {}).setdefault(tier, [0, 0])[0] += received_bytes
    oldest = (day - timedelta(days=_KEPT_DAYS)).isoformat()
    for past in [d for d in sums.days if d < oldest]:
        del sums.days[past]


def _told(sums: _Sums, shares: Sequence[Share]) -> None:
    for share in shares:
        known = sums.days.get(share.day.isoformat(), {}).get(share.tier)
        if known is not None and share.writer == sums.writer:
            known[1] = max(known[1], share.bytes)


def write(cur: Cursor, shares: Sequence[Share]) -> None:
    """Tells Main. To be committed before `Egress.told`."""
    rows = [{"tier": s.tier, "day": s.day.isoformat(), "writer": str(s.writer), "bytes": s.bytes} for s in shares]
    cur.execute(_SQL["egress_add"], {"shares": json.dumps(rows)})


def read(cur: Cursor, since: date) -> list[Share]:
    """What Main knows, from a day on."""
    rows: list[Any] = cur.execute(_SQL["egress"], {"since": since}).fetchall()
    return [Share(day, tier, writer, received_bytes) for day, tier, writer, received_bytes in rows]


def expire(cur: Cursor, today: date) -> None:
    """Forgets what is too old for anybody."""
    cur.execute(_SQL["egress_expire"], {"oldest": today - timedelta(days=USAGE_DAILY_DAYS)})


def month_of(day: date) -> tuple[date, date]:
    """The calendar month of `day`: its first day, and the next one's."""
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def total(mains: Sequence[Share], own: Sequence[Share], tier: str, month: date) -> int:
    """What all machines received from `tier` in the month of that day; of each share the larger figure counts. Pure."""
    first, end = month_of(month)
    largest: dict[tuple[date, UUID], int] = {}
    for share in (*mains, *own):
        if share.tier == tier and first <= share.day < end:
            key = (share.day, share.writer)
            largest[key] = max(largest.get(key, 0), share.bytes)
    return sum(largest.values())


def fresh_seconds(sent: Iterable[tuple[int, int | None]]) -> float:
    """How long a look may be shown: `sent` has what each tier sent for it, and the monthly budget, where its provider has one."""
    seconds: float = BOARD_FRESH_SECONDS
    for sent_bytes, budget_bytes in sent:
        if budget_bytes:
            share = sent_bytes / (BOARD_EGRESS_SHARE * budget_bytes)
            seconds = max(seconds, BOARD_METERED_FRESH_SECONDS, share * _MONTH_SECONDS)
    return round(seconds, 1)
