"""Quiet hours: when what is not urgent waits for the morning. Pure."""

import difflib
import re
from dataclasses import dataclass
from datetime import datetime, time, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from tierkeeper.kernel.errors import UsageError

_EXAMPLE = 'Write them as "22:00-07:00"'


@dataclass(frozen=True)
class Quiet:
    """From `begin` (included) to `end` (excluded) by the clock on the wall; over midnight where `end` is the earlier one."""

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str, place: str) -> "Quiet":
        """Reads "22:00-07:00". Raises UsageError naming `place`."""
        match = re.fullmatch(r"\s*(\d{1,2}):(\d{2})\s*(?:-|–|to)\s*(\d{1,2}):(\d{2})\s*", text)
        if match is None:
            raise UsageError(place, f"{text!r} are no quiet hours", _EXAMPLE)
        try:
            begin, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
        except ValueError:
            raise UsageError(place, f"{text!r} has a time that no clock shows", f"{_EXAMPLE}; midnight is 00:00") from None
        if begin == end:
            remedy = f"{_EXAMPLE}, or take the key out; to be told nothing, take notify out"
            raise UsageError(place, f"{text!r} begin and end at once", remedy)
        return cls(begin, end)

    def holds(self, now: datetime, zone: tzinfo) -> bool:
        """Whether `now` lies in them, in `zone`."""
        clock = now.astimezone(zone).time()
        if self.begin < self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end


def read_zone(text: str, place: str) -> ZoneInfo:
    """A time zone by its name. Raises UsageError naming `place`."""
    try:
        return ZoneInfo(text.strip())
    except (ValueError, OSError, KeyError):  # KeyError: its ZoneInfoNotFoundError; OSError: a folder of zones
        close = difflib.get_close_matches(text.strip(), available_timezones(), 1, 0.7)
        meant = f"Did you mean {close[0]!r}? " if close else ""
        raise UsageError(place, f"{text!r} is no time zone", f'{meant}Write a name such as "Europe/Berlin" or "UTC"') from None
