"""Reads the whole store through, a little at a time, so that a disk that forgets is found before the day of the restore."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from tierkeeper.homeserver.vault import Vault
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.limits import HEALTH_SECONDS, SCRUB_DAYS
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.results import StoreReport

_log = Log()
_DAY_SECONDS: Final = 86_400
_WRONG_AGAIN: Final = timedelta(minutes=10)  # so soon a repair shows; a disk that fails is not read all day for it
_WRONG_AT_ONCE: Final = 100
_GRACE: Final = timedelta(days=1)


class Scrub:
    """Owes 1/`days` of the store for every day that passes, and reads what was read longest ago first."""

    def __init__(self, vault: Vault, clock: Clock, days: int = SCRUB_DAYS) -> None:
        self._vault = vault
        self._clock = clock
        self._days = days
        self._recent: tuple[datetime, StoreReport] | None = None

    def turn(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """Reads what is owed by now; how many objects. A debt is never larger than the store."""
        for key in self._vault.state.wrong_until(self._clock.now() - _WRONG_AGAIN, _WRONG_AT_ONCE):
            if stopped():
                break
            self._vault.check(key)  # somebody may have put it back from a copy, as they were asked to
        total = self._vault.state.reading().bytes
        owed = self._vault.state.owed(total / (self._days * _DAY_SECONDS), total)
        read = 0
        while owed > 0 and not stopped() and (due := self._vault.state.next_to_read()) is not None:
            key, length_bytes = due
            wrong = self._vault.check(key)
            if wrong is not None:
                _log.error("an object is damaged", key=key, cause=wrong)
            self._vault.state.paid(max(length_bytes, 1))
            owed -= max(length_bytes, 1)
            read += 1
        return read

    def recent(self) -> StoreReport:
        """A report that is HEALTH_SECONDS old at most: it reads what is known of every object, and strangers may ask for it."""
        now = self._clock.now()
        if self._recent is None or abs((now - self._recent[0]).total_seconds()) > HEALTH_SECONDS:
            self._recent = (now, self.report())
        return self._recent[1]

    def report(self) -> StoreReport:
        """How far it has come."""
        reading = self._vault.state.reading()
        late = timedelta(days=self._days) + _GRACE
        overdue = reading.oldest_at is not None and self._clock.now() - reading.oldest_at > late
        return StoreReport(
            objects=reading.objects,
            bytes=reading.bytes,
            unread=reading.unread,
            oldest_read_at=reading.oldest_at,
            overdue=overdue,
            scrub_days=self._days,
            wrong=dict(reading.wrong),
        )
