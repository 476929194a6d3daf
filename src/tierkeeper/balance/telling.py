"""What the brain says: events for whoever watches, and the local record of each change with its reason.

A fault that lasts is told when it begins, less and less often while it lasts, and when it is over.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from tierkeeper.balance.deciding import Decision
from tierkeeper.balance.kept import Record, now_text
from tierkeeper.balance.model import Share, Takes
from tierkeeper.balance.tended import Tended
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.results import BalanceEvent, ErrorResult

_log = Log()
REMIND_SECONDS: Final = 10.0  # before a fault that lasts is told again; each further time double that
REMIND_MOST_SECONDS: Final = 3600.0
_SHED: Final = 0.5  # of a fair share: a weight that stays above is for the record alone


class Telling:
    """See the module."""

    def __init__(self, tell: Callable[[BalanceEvent], None], clock: Clock, record: Record) -> None:
        self._tell, self._clock, self._record = tell, clock, record
        self._shed: set[tuple[str, str]] = set()
        self._trouble, self._tell_again_at, self._remind = "", 0.0, REMIND_SECONDS

    def event(
        self, event: str, told: str, service: str | None = None, backend: str | None = None, error: ErrorResult | None = None
    ) -> None:
        """Tells it and records it."""
        self._record.add({"at": now_text(), "event": event, "service": service, "backend": backend, "told": told})
        with suppress(OSError, ValueError):  # whoever read them has gone, or the disk that takes them is full
            self._tell(BalanceEvent(at=self._clock.now(), event=event, told=told, service=service, backend=backend, error=error))

    def decided(self, tended: Tended, before: Decision | None, after: Decision) -> None:
        """What has changed between two decisions about a service."""
        service = tended.service.name
        if before is None:
            for name, verdict in after.verdicts.items():
                if verdict.state == "out":
                    self.event("state", f"out: {verdict.why}", service, name)
        else:
            for name, verdict in after.verdicts.items():
                old = before.verdicts.get(name)
                if old is not None and (old.state, old.role) != (verdict.state, verdict.role):
                    tended.changes[name] = tended.changes.get(name, 0) + 1
                    role = f", {verdict.role}" if verdict.role else ""
                    self.event("state", f"{verdict.state}{role}: {verdict.why}", service, name)
        was = before.ruling.primary if before is not None and before.ruling is not None else None
        if after.ruling is not None and (before is None or was != after.ruling.primary):
            self.event(
                "primary", f"{after.ruling.primary or 'nobody'} takes writes: {after.ruling.why}", service, after.ruling.primary
            )

    def published(
        self, before: Mapping[str, Mapping[str, Share]], changed: Mapping[str, Mapping[str, Share]], by_pool: Mapping[str, Tended]
    ) -> None:
        """Each share that holds from now on, and why."""
        for pool, shares in changed.items():
            tended = by_pool[pool]
            verdicts = tended.decision.verdicts if tended.decision is not None else {}
            if pool in tended.states:
                self._tell_shed(tended, pool, {n.name: n.backend.weight for n in tended.service.nodes})
            for name, share in shares.items():
                old = before.get(pool, {}).get(name)
                learned = "; ".join(tended.learned(name)) or "its latency and errors are as its peers'"
                why = verdicts[name].why if old is None or old.takes is not share.takes else learned
                line: dict[str, Any] = {"at": now_text(), "event": "share", "pool": pool, "backend": name, "why": why}
                self._record.add(line | {"from": _shown(old), "to": _shown(share)})

    def trouble(self, error: Exception, consequence: str = "traffic goes on as it was") -> None:
        """A fault of the brain's own turn: told when it is new, and seldom while it lasts."""
        told = _error(error)
        text, now = f"{told.place}: {told.cause}", self._clock.monotonic()
        if text == self._trouble and now < self._tell_again_at:
            return
        self._remind = min(REMIND_MOST_SECONDS, self._remind * 2) if text == self._trouble else REMIND_SECONDS
        self._trouble, self._tell_again_at = text, now + self._remind
        if not isinstance(error, TierkeeperError):
            _log.exception("a turn of the balancer failed")
        self.event("fault", f"{text}; {consequence}", error=told)

    def over(self) -> None:
        """The turn after a fault went well."""
        if self._trouble:
            self.event("well", f"over: {self._trouble}")
            self._trouble = ""

    def troubles(self) -> list[str]:
        """What is wrong with the balancer itself now."""
        return [self._trouble] if self._trouble else []

    @contextmanager
    def faults(self, consequence: str) -> Iterator[None]:
        """Tells an error of ours that the block raises, and goes on."""
        try:
            yield
        except TierkeeperError as error:
            for one in getattr(error, "errors", (error,)):
                told = _error(one)
                self.event("fault", f"{told.place}: {told.cause}; {consequence}", error=told)

    def close(self) -> None:
        self._record.close()

    def _tell_shed(self, tended: Tended, pool: str, configured: Mapping[str, int]) -> None:
        """Who gets less than half of a fair share by its weight, once; and who has it again."""
        taking = {n: s.weight / configured[n] for n, s in tended.routing()[pool].items() if s.takes is Takes.TRAFFIC}
        most = max(taking.values(), default=0.0)
        for name, weight in taking.items():
            key, is_shed = (pool, name), weight < most * _SHED
            if is_shed != (key in self._shed):
                self._shed ^= {key}
                why = "; ".join(tended.learned(name)) or "it is as its peers"
                told = f"{weight / most:.1%} of a fair share ({why})" if is_shed else "a fair share again"
                self.event("weight", f"{pool}: {told}", tended.service.name, name)


def _shown(share: Share | None) -> Mapping[str, Any] | None:
    return None if share is None else {"takes": share.takes.value, "weight": share.weight}


def _error(error: Exception) -> ErrorResult:
    if isinstance(error, TierkeeperError):
        return ErrorResult(place=error.place, cause=error.cause, remedy=error.remedy)
    cause = f"an unexpected {type(error).__name__}: this is a fault of tierkeeper"
    return ErrorResult(place="the balancer", cause=cause, remedy="Report it, with what the log says")
