"""Which days a demo takes place on: the data's own year, or the year until yesterday, so that the real clock fits. Pure."""

from calendar import month_name
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from tierkeeper.kernel.tables import TableName

DUE_DAYS: Final = 14  # of rows that are old enough to move once the cycle is over, for whoever runs a command then
_LAST_DAY: Final = date(2014, 1, 1)  # of the data, in UTC


@dataclass(frozen=True)
class Course:
    """`today` for the cycle; `days` by which all dates of the data are shifted; the month that is restored."""

    today: datetime
    days: int
    month: tuple[int, int]

    @property
    def month_name(self) -> str:
        """Such as "February"."""
        return month_name[self.month[1]]

    @property
    def restored(self) -> TableName:
        """The table beside the original that the month is restored into."""
        return TableName("public", f"flights_{self.month_name.lower()}")

    @property
    def since(self) -> datetime:
        """The month's begin."""
        return datetime(*self.month, 1, tzinfo=UTC)

    @property
    def until(self) -> datetime:
        """Its end, which is not in it."""
        return (self.since + timedelta(days=31)).replace(day=1)


AS_IT_WAS: Final = Course(datetime(2014, 1, 1, tzinfo=UTC), 0, (2013, 2))
"""The data as it is, on the day after its year."""


def until_yesterday(now: datetime) -> Course:
    """The data's last day is yesterday, and the cycle's day DUE_DAYS ago; restored is the first month that is whole."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = (midnight.date() - timedelta(days=1) - _LAST_DAY).days
    first = date(2013, 1, 1) + timedelta(days=days)
    whole = (first.replace(day=1) + timedelta(days=31)).replace(day=1)
    return Course(midnight - timedelta(days=DUE_DAYS), days, (whole.year, whole.month))
