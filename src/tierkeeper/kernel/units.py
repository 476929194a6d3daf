"""Sizes and ages as people write them, and back."""

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tierkeeper.kernel.errors import UsageError

_SIZES = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800}
_MONTHS = {"month": 1, "year": 12}
_SHORT = {
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mon": "month",
    "y": "year",
}


_BARE_BYTES_MIN: Final = 1_000_000  # no database is smaller


def parse_bytes(text: str, place: str) -> int:
    """Bytes in `text` such as "500MB" (10^6), "1.5 GiB" (2^30) or "1048576". Raises UsageError naming `place`.

    A bare number of few bytes is one whose unit was forgotten: a quota of 500 bytes would have all leave that may.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _SIZES.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise UsageError(place, f"{text!r} is not a size", 'Write a number and a unit, such as "500MB" or "10GiB"')
    size = int(float(match[1]) * unit)
    if size <= 0:
        raise UsageError(place, f"{text!r} is not more than nothing", 'Write a size above zero, such as "500MB"')
    if not match[2] and size < _BARE_BYTES_MIN:
        raise UsageError(place, f"{text!r} has no unit, and so few bytes hold nothing", 'Write its unit, such as "500MB"')
    return size


def format_bytes(size_bytes: int) -> str:
    """`size_bytes` in decimal units, as quotas are sold: 1500000 -> "1.5 MB"."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def parse_share(text: str, place: str) -> float:
    """A share such as "85%" as 0.85. Raises UsageError naming `place` unless it lies above 0 and at most at 100 %."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if match is None or not 0 < float(match[1]) <= 100:  # noqa: PLR2004
        raise UsageError(place, f"{text!r} is not a share", 'Write a percentage, such as "85%"')
    return float(match[1]) / 100


@dataclass(frozen=True)
class Age:
    """How old a row is, or how long something may take: calendar months and a fixed span, both counted in UTC."""

    text: str
    months: int
    span: timedelta

    @classmethod
    def parse(cls, text: str, place: str) -> "Age":
        """Reads "30 days", "12h", "1 year 6 months". Raises UsageError naming `place`."""
        months, span, rest = 0, timedelta(), text.strip().lower()
        parts = list(re.finditer(r"(\d+)\s*([a-z]+)[\s,]*", rest))
        if not parts or "".join(p[0] for p in parts) != rest:
            raise UsageError(place, f"{text!r} is not an age", 'Write a number and a unit, such as "30 days"')
        try:
            for part in parts:
                unit = _SHORT.get(part[2], part[2].removesuffix("s"))
                if unit in _MONTHS:
                    months += int(part[1]) * _MONTHS[unit]
                elif unit in _SECONDS:
                    span += timedelta(seconds=int(part[1]) * _SECONDS[unit])
                else:
                    raise UsageError(place, f"{part[2]!r} is not a unit of time", 'Write an age such as "30 days"')
            cls(text, months, span).before(datetime(2000, 1, 1, tzinfo=UTC))
        except (OverflowError, ValueError):
            raise UsageError(place, f"{text!r} reaches before the year 1", 'Write a shorter age, such as "7 years"') from None
        return cls(text, months, span)

    @property
    def seconds(self) -> float:
        """Its length with a month of 31 days: the upper bound that a time-out needs."""
        return self.span.total_seconds() + self.months * 31 * 86_400

    def before(self, instant: datetime) -> datetime:
        """The instant this age before `instant`; the day of the month is clipped to the month's last."""
        return _shifted(instant, -self.months) - self.span

    def after(self, instant: datetime) -> datetime:
        """The instant this age after `instant`, clipped likewise."""
        return _shifted(instant, self.months) + self.span


def _shifted(instant: datetime, months: int) -> datetime:
    if not months:
        return instant
    year, month = divmod(instant.year * 12 + instant.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return instant.replace(year=year, month=month + 1, day=min(instant.day, last))


def parse_instant(text: str, place: str) -> datetime:
    """An ISO 8601 date or time; without a zone it is UTC. Raises UsageError naming `place`."""
    try:
        instant = datetime.fromisoformat(text)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except ValueError:
        raise UsageError(place, f"{text!r} is not a time", 'Write it as "2013-10-01" or "2013-10-01T12:00:00Z"') from None
    except OverflowError:
        raise UsageError(place, f"{text!r} lies outside of the years 1 to 9999 in UTC", "Write a time within them") from None
