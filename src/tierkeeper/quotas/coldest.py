"""Which rows leave a tier before their time, and why. Pure: figures in, decisions out."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age, format_bytes

ROW_SECONDS: Final = 12e-6  # of work to move and delete a row, whatever its width (bench: move-scale)
BYTE_SECONDS: Final = 5e-8  # of work for each byte of it that travels, and that compaction moves about afterwards
HEAT_STEP: Final = 4.0  # heats within this factor of each other count as the same: they are estimates
_DAY_SECONDS: Final = 86_400
_MONTH_DAYS: Final = 31


@dataclass(frozen=True)
class Pressure:
    """How many bytes have to leave a tier before their time, and why."""

    over_bytes: int
    why: str


def pressure(used_bytes: int, quota_bytes: int, *, start_at: float, stop_at: float, coming_bytes: int = 0) -> Pressure | None:
    """None while nothing has to leave early. `coming_bytes`: what the tier is expected to grow by before the next run.

    The tier comes down to `stop_at`, and further where what is coming would fill it from there.
    """
    full, filled = used_bytes >= start_at * quota_bytes, used_bytes + coming_bytes >= quota_bytes
    if not full and not filled:
        return None
    over = used_bytes - min(stop_at * quota_bytes, quota_bytes - coming_bytes)
    if full:
        why = f"{used_bytes / quota_bytes:.0%} of its quota is used, and rows leave from {start_at:.0%} on"
    else:
        coming = format_bytes(coming_bytes)
        why = f"{used_bytes / quota_bytes:.0%} of its quota is used, and the {coming} that are coming before the next run fill it"
    return Pressure(max(0, math.ceil(over)), why)


@dataclass(frozen=True)
class Candidate:
    """A table, and its oldest rows that may leave: none younger than its policy's minimum.

    `row_bytes`: what goes with a row, its index entries and TOAST included. `age_days`: how old the youngest of them is; None
    where nobody knows. `reads`: how often a row of the table is read in a day; None where nobody counted.
    """

    policy: TablePolicy
    rows: int
    row_bytes: float
    age_days: float | None = None
    reads: float | None = None

    @property
    def heat(self) -> float:
        """How dearly its rows would be missed: reads of a row and day, the less the older it is. 0 is as cold as can be.

        Of what nobody counted the age alone speaks.
        """
        reads = 1.0 if self.reads is None else self.reads
        return reads / max(1.0, self.age_days or 0.0)

    @property
    def bytes_per_second(self) -> float:
        """What comes back for a second of work."""
        return self.row_bytes / (ROW_SECONDS + 2 * BYTE_SECONDS * self.row_bytes)

    @property
    def step(self) -> float:
        """Its heat in steps that differ enough to mean something."""
        return -math.inf if self.heat <= 0 else round(math.log(self.heat, HEAT_STEP))


@dataclass(frozen=True)
class Choice:
    """So many of a table's oldest rows leave."""

    policy: TablePolicy
    rows: int
    bytes: int
    why: str


def choose(over_bytes: int, candidates: Iterable[Candidate]) -> list[Choice]:
    """The coldest rows first and, of rows that are as cold, those that return the most space for the least work."""
    ranked = sorted(
        (c for c in candidates if c.rows > 0 and c.row_bytes > 0),
        key=lambda c: (c.step, -c.bytes_per_second, str(c.policy.name)),
    )
    choices = []
    for candidate in ranked:
        if over_bytes <= 0:
            break
        rows = min(candidate.rows, math.ceil(over_bytes / candidate.row_bytes))
        size = int(rows * candidate.row_bytes)
        choices.append(Choice(candidate.policy, rows, size, _why(candidate)))
        over_bytes -= size
    return choices


def _why(candidate: Candidate) -> str:
    age = "" if candidate.age_days is None else f" (older than {candidate.age_days:,.0f} days)"
    read = "" if candidate.reads is None else f", each read {candidate.reads:.2g} times a day"
    return (
        f"its oldest rows{age} are the coldest that may leave{read}; one gives back about"
        f" {format_bytes(int(candidate.row_bytes))}, a second of work {format_bytes(int(candidate.bytes_per_second))}"
    )


@dataclass(frozen=True)
class Kept:
    """A segment of the archive: its table, the age of its youngest row (None: unknown), its size, and when rows leave Main."""

    table: TableName
    youngest: datetime | None
    bytes: int
    main: Age | None = None


def retention(segments: Sequence[Kept], now: datetime, over_bytes: int) -> list[str]:
    """What to write so that the archive keeps less: `archive = "…"` of each table, the oldest segments of all first, until
    `over_bytes` would be free. Empty where no segment's age is known. An age that would have rows go for good before they leave
    Main, or as soon as they do, is none.
    """
    oldest = sorted(
        (s for s in segments if s.youngest is not None and _outlives_main(s, s.youngest, now)),
        key=lambda s: (s.youngest, str(s.table)),
    )
    free: dict[TableName, tuple[int, int, datetime]] = {}
    left = over_bytes
    for segment in oldest:
        if left <= 0:
            break
        count, size, _ = free.get(segment.table, (0, 0, now))
        assert segment.youngest is not None  # noqa: S101 - the others were left out
        free[segment.table] = (count + 1, size + segment.bytes, segment.youngest)
        left -= segment.bytes
    said = []
    for table, (count, size, youngest) in free.items():
        months = _months(youngest, now)
        if months >= 1:
            many = "1 segment" if count == 1 else f"{count} segments"
            said.append(f'archive = "{months} months" for {table} would remove {many} with {format_bytes(size)}, for good')
    return said


def _months(youngest: datetime, now: datetime) -> int:
    return int((now - youngest).total_seconds() // (_DAY_SECONDS * _MONTH_DAYS))


def _outlives_main(segment: Kept, youngest: datetime, now: datetime) -> bool:
    """Whether the archive would still keep the rows of the table for a while that come to it."""
    months = _months(youngest, now)
    return segment.main is None or Age("", months, timedelta()).before(now) < segment.main.before(now)
