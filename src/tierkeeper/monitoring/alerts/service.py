"""One turn: look at the facts, remember, tell, remember what was told.

Keeps: no notice is lost to a crash. What is due is worked out from what was noted as told, and that is noted after it was told:
whoever dies in between tells it again, and never not. Two machines do not both tell: who sends has claimed it before.
"""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import ALERT_CLAIM_SECONDS
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.ports import Audit
from tierkeeper.monitoring.alerts import conditions, machine, messages
from tierkeeper.monitoring.alerts.facts import Facts
from tierkeeper.monitoring.alerts.machine import Rules
from tierkeeper.monitoring.alerts.model import Claim, Notice, State
from tierkeeper.monitoring.alerts.sending import Delivery, Sender, Target
from tierkeeper.monitoring.memory import Kept

_log = Log()
_CLAIM = timedelta(seconds=ALERT_CLAIM_SECONDS)


class Keeping(Protocol):
    """The memory, as a turn needs it."""

    def load(self) -> Kept[State]: ...
    def save(self, before: Kept[State], document: State) -> Kept[State] | None: ...
    def change(self, do: Callable[[State], State], known: Kept[State] | None = None) -> Kept[State]: ...


@dataclass(frozen=True)
class Turn:
    """What came of a turn. `waits`: who else is sending, so that this one told nothing."""

    kept: Kept[State]
    told: dict[Target, list[Notice]] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    waits: bool = False


@dataclass(frozen=True)
class Alerts:
    """Decides and tells. It moves nothing and raises nothing that a turn could go on without."""

    targets: Sequence[Target]
    rules: Rules
    start_at: float
    memory: Keeping
    sender: Sender
    audit: Audit
    clock: Clock

    def turn(self, facts: Facts) -> Turn:
        """Looks at `facts` and tells what is due. A turn that finds another one sending leaves all to it."""
        kept, now = self.memory.load(), facts.at
        if kept.away is not None:
            _log.warning("alerts are remembered on this machine alone", cause=kept.away.cause, remedy=kept.away.remedy)
        claim = kept.document.claim
        # One that ends later than anybody claims was made by a wrong clock, and would silence all others until then.
        if claim is not None and now < claim.until <= now + 2 * _CLAIM:
            return Turn(kept, waits=True)
        judged = conditions.judge(facts, self.start_at, machine.firing(kept.document))
        state = machine.step(replace(kept.document, claim=None), judged, now)
        due = machine.due(state, [t.id for t in self.targets], now, self.rules)
        if due:
            state = replace(state, claim=Claim(_holder(), now + _CLAIM))
        if state != kept.document or kept.is_ahead:
            saved = self.memory.save(kept, state)
            if saved is None:
                return Turn(kept, waits=True)
            kept = saved
        if not due:
            return Turn(kept)
        reach(Point.ALERT_CLAIMED)
        return self._tell({t: due[t.id] for t in self.targets if t.id in due}, kept, now)

    def _tell(self, due: dict[Target, list[Notice]], kept: Kept[State], now: datetime) -> Turn:
        deliveries = self._sent(due, kept.away, now)
        reach(Point.ALERT_SENT)

        def noted(state: State) -> State:
            for one in deliveries:
                if one.cause is None:
                    state = machine.delivered(state, one.target.id, due[one.target], now)
                else:
                    state = machine.undelivered(state, one.target.id, one.cause, now)
            return replace(state, claim=None)

        return Turn(self.memory.change(noted, kept), due, deliveries)

    def _sent(self, due: dict[Target, list[Notice]], away: TierkeeperError | None, now: datetime) -> list[Delivery]:
        """Sends, between an intent and an outcome in the audit (I7) where Main takes them: an alert matters most where not."""
        written = {target: messages.write(notices, now) for target, notices in due.items()}
        about = sorted({" ".join(n.record.key) for notices in due.values() for n in notices})
        detail = {"to": [t.name for t in due], "about": about}
        deliveries: list[Delivery] = []
        try:
            with ExitStack() as stack:
                note = self._noting(stack, detail, away)
                deliveries = self.sender.send(written)
                note(**_outcome(deliveries))
        except TierkeeperError as error:
            _log.warning("what was sent is not in the audit", cause=error.cause, **_outcome(deliveries))
        for one in deliveries:
            if one.cause is not None:
                _log.error("an alert was not delivered", target=one.target.name, cause=one.cause, tries=one.tries)
        return deliveries

    def _noting(self, stack: ExitStack, detail: dict[str, Any], away: TierkeeperError | None) -> Callable[..., None]:
        """Writes the intent; gives what adds to the outcome. Main is not asked again where it has just been away."""
        try:
            if away is None:
                return stack.enter_context(self.audit.action("alert", "targets", detail))
        except TierkeeperError as error:
            away = error
        _log.warning("an alert is sent without an audit record", cause=away.cause, **detail)
        return lambda **outcome: _log.warning("alert sent", **outcome)


def _outcome(deliveries: Sequence[Delivery]) -> dict[str, Any]:
    failed = {one.target.name: one.cause for one in deliveries if one.cause is not None}
    return {"delivered": [one.target.name for one in deliveries if one.cause is None], "undelivered": failed}


def _holder() -> str:
    return f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}"
