"""Cron expressions in UTC: what is one, and when it is due. Pure: the instants are passed in.

Five fields: minute, hour, day of the month, month, day of the week. Of the last two, where both say something, either is enough,
as in every cron. Days are best written by name (`sun`): a number means another day to some programs.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_FIELDS: Final = 5
_ATOM: Final = re.compile(r"(?:[0-9]+|[a-z]{3}|l|\*|\?)", re.IGNORECASE)
_FIELD: Final = re.compile(rf"{_ATOM.pattern}(?:[-/,#]{_ATOM.pattern})*", re.IGNORECASE)
_SOME_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)


def fault(text: str) -> str | None:
    """What is wrong with `text` as an expression; None where nothing is."""
    from croniter import croniter
    from croniter.croniter import CroniterBadDateError, CroniterError

    fields = text.split()
    if len(fields) != _FIELDS:
        return f"it has {len(fields)} fields and not {_FIELDS}"
    if odd := next((f for f in fields if not _FIELD.fullmatch(f)), None):
        return f"{odd[:40]!r} is no field of one"
    try:
        croniter(text, _SOME_DAY).get_next(datetime)
    except CroniterBadDateError:
        return "it is never due"
    except (CroniterError, ValueError, KeyError):
        return "one of its fields is out of bounds, or misspelt"
    return None


def newest(text: str, now: datetime) -> datetime:
    """When it was last due, `now` included. `text` is without fault."""
    from croniter import croniter

    # Asked for what lies before, it leaves the instant itself out; in the next minute that is before.
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    found: datetime = croniter(text, minute + timedelta(minutes=1)).get_prev(datetime)
    return found


def following(text: str, now: datetime) -> datetime:
    """When it is due next, `now` excluded."""
    from croniter import croniter

    found: datetime = croniter(text, now.astimezone(UTC)).get_next(datetime)
    return found
