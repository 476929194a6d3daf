"""The brain: ten times a second it looks at what traffic met and what the checks heard, decides, and publishes what changed.

Invariants: one thread decides; whatever another thread wants of it is done between two turns. A fault of one turn ends neither
the brain nor the traffic. Nothing is published that rests on a primary which is not remembered, as long as the disk takes it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from tierkeeper.balance.checks import Checks, Key
from tierkeeper.balance.deciding import DRAINED_PRIMARY
from tierkeeper.balance.kept import Kept, Record, Steps
from tierkeeper.balance.model import Observation, Pool, Share
from tierkeeper.balance.plane import Plane
from tierkeeper.balance.pools import Service, names
from tierkeeper.balance.primary import Remembered
from tierkeeper.balance.telling import Telling
from tierkeeper.balance.tended import Tended
from tierkeeper.balance.tierwatch import TierWatch
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.ports import ABANDONED, Stop
from tierkeeper.kernel.results import BalanceEvent, BalanceStatusResult, DrainResult, ReloadResult

T = TypeVar("T")
TURN_SECONDS: Final = 0.1  # between two looks: five of them before a sick backend has to be shed
REST_SECONDS: Final = 0.01  # between two turns at least, however much is heard
START_SECONDS: Final = 5.0  # the first start waits so long for the first checks; whoever has not answered then waits outside
STATUS_SECONDS: Final = 1.0  # between two files for whoever asks when the brain is gone
ANSWER_SECONDS: Final = 10.0  # another thread waits so long for the brain: ten turns of the longest that a data plane takes
BLIND_SECONDS: Final = 5.0  # without a word of the data plane, which starts again in one: then it stands still, and that is told
BACK_OFF_MOST_SECONDS: Final = 2.0  # between turns that fail: health is still looked at, and the log is not filled


@dataclass
class Brain:
    """See the module. `load` reads the configuration anew; `tell` may be called from any thread; `tiers` are watched beside."""

    plane: Plane
    kept: Kept
    load: Callable[[], Sequence[Service]]
    tell: Callable[[BalanceEvent], None]
    clock: Clock
    checks: Checks = field(default_factory=Checks)
    tiers: TierWatch | None = None

    def __post_init__(self) -> None:
        self._tended: dict[str, Tended] = {}
        self._published: dict[str, dict[str, Share]] = {}
        self._wanted: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._telling = Telling(self.tell, self.clock, Record(self.kept.folder / "changes.jsonl"))
        self._steps = Steps(Record(self.kept.folder / "steps.jsonl"))
        self._drained: frozenset[Key] = frozenset()
        self._remembered: dict[str, Remembered] = {}  # of services too that are configured no more: they may be again
        self._looked_at = self._wrote_at = float("-inf")
        self._failures = 0
        self._blind_since: float | None = None
        self._forgetful = False

    def run(self, stop: Stop) -> None:
        """Until `stop` says why it ends. Raises what keeps it from beginning: a port, a certificate, a damaged state file."""
        begun = failed = False
        try:
            self.begin(self.load(), stop)
            begun = True
            while stop() is None:
                self._turn_safely()
                self.checks.wait(self._rest())
        except Exception:
            failed = True
            raise
        finally:
            self.checks.close()
            if self.tiers is not None:
                self.tiers.close()
            if begun:
                self._end(stop() or (ABANDONED if failed else None))
            self._refuse_all()
            self._telling.close()
            self._steps.close()

    def _end(self, reason: str | None) -> None:
        """Traffic ends where somebody has asked for it, and goes on where what this ran in has failed."""
        if reason == ABANDONED:
            self._telling.event("ended", f"{ABANDONED}; traffic goes on as it was, and the next start takes it over")
            self._write_status(running=True)
            return
        self.plane.stop()
        self._telling.event("ended", "what the data plane had begun has ended")
        self._write_status(running=False)

    def begin(self, services: Sequence[Service], stop: Stop) -> None:
        """Asks every backend, then has the data plane serve by what was heard."""
        self._remembered = self.kept.remembered()
        self._drained = self.kept.drained()
        for service in services:
            self._tend(service)
        self.checks.follow(services)
        if self.tiers is not None:
            self.tiers.follow()
        until = self.clock.monotonic() + START_SECONDS
        while stop() is None and self.clock.monotonic() < until and not all(t.all_asked() for t in self._tended.values()):
            self._hear(self.clock.monotonic())
            self.checks.wait(TURN_SECONDS)
        self._decide(self.clock.monotonic())
        routing = self._routing()
        self.plane.start(self._pools(), routing)
        self._published = {pool: dict(shares) for pool, shares in routing.items()}
        known = [k for t in self._tended.values() for k in t.known.values()]
        counts = f"{len(services)} services, {len(known)} backends, {sum(k.is_in for k in known)} of them in"
        self._telling.event("serves", f"{counts}; {', '.join(f'{p.name} at {p.host}:{p.port}' for p in self._pools())}")

    def turn(self) -> bool:
        """One turn: at what was heard, and ten times a second at what traffic met; whether it was one of those."""
        now = self.clock.monotonic()
        self._do_wanted()
        self._hear(now)
        looks = now - self._looked_at >= TURN_SECONDS
        if looks:
            self._looked_at = now
            self._look()
        self._decide(now)
        if looks:
            self._weigh(now)
        self._publish()
        if self.tiers is not None:
            self.tiers.turn()
        self.checks.pace({(t.service.name, name): t.pace(name, now) for t in self._tended.values() for name in t.known})
        if now - self._wrote_at >= STATUS_SECONDS:
            self._wrote_at = now
            self._write_status(running=True)
        return looks

    def do(self, work: Callable[[], T]) -> T:
        """Has the brain's thread do it, between two turns. Raises what it raises, NotNow where the brain does not come to it."""
        future: Future[T] = Future()
        self._wanted.put((work, future))
        self.checks.nudge()
        try:
            return future.result(ANSWER_SECONDS)
        except TimeoutError:
            future.cancel()
            raise NotNow("the balancer", "it is busy and has not come to it", "Try again") from None

    def status(self, *, running: bool = True) -> BalanceStatusResult:
        """How all stands; in the brain's thread."""
        now, wall = self.clock.monotonic(), self.clock.now()

        def at(instant: float) -> datetime:
            return wall + timedelta(seconds=instant - now)

        services = [
            t.shown(at, now, lambda name, service=name: self.checks.due_at((service, name)))  # type: ignore[misc]  # a default binds it
            for name, t in self._tended.items()
        ]
        return BalanceStatusResult(
            running=running,
            at=wall,
            plane=dict(self.plane.facts()),
            services=services,
            tiers=self.tiers.shown() if self.tiers is not None else [],
            notes=self._telling.troubles(),
        )

    def drain(self, service: str, backend: str, *, drained: bool) -> DrainResult:
        """In the brain's thread. Durable before it holds. Raises UsageError for one that is not known, with those that are."""
        known = names([t.service for t in self._tended.values()])
        known_backend(known, service, backend)
        before = (service, backend) in self._drained
        if before != drained:
            wanted = self._drained | {(service, backend)} if drained else self._drained - {(service, backend)}
            self.kept.drain(wanted)
            self._drained = wanted
            self._tended[service].drain(backend, drained=drained)
            self._telling.event("drained" if drained else "undrained", "by hand", service, backend)
        notes = []
        decision = self._tended[service].decision
        if drained and decision is not None and decision.ruling is not None and decision.ruling.primary == backend:
            notes.append(f"it takes the writes of the service: {DRAINED_PRIMARY}")
        if drained and all((service, other) in self._drained for other in known[service]):
            notes.append("all backends of the service are drained: nothing takes its new traffic")
        return DrainResult(service=service, backend=backend, drained=drained, changed=before != drained, notes=notes)

    def reload(self) -> ReloadResult:
        """In the brain's thread: reads the configuration whole, and changes nothing where something in it is wrong."""
        services = self.load()
        before = self._tended
        self._tended = {}
        try:
            for service in services:
                self._tend(service, before.get(service.name))
            self._decide(self.clock.monotonic())
            routing = self._routing()
            self.plane.reload(self._pools(), routing)
        except BaseException:
            self._tended = before
            raise
        self.checks.follow(services)
        if self.tiers is not None:
            self.tiers.follow()
        self._published = {pool: dict(shares) for pool, shares in routing.items()}
        self._telling.event("reloaded", f"balances {', '.join(s.name for s in services) or 'nothing'}")
        return ReloadResult(services=[s.name for s in services])

    def _tend(self, service: Service, before: Tended | None = None) -> None:
        drained = frozenset(backend for name, backend in self._drained if name == service.name)
        known = self._remembered.get(service.name, Remembered())
        tended = Tended(service, known) if before is None else copy.copy(before)
        tended.follow(service, drained)
        self._tended[service.name] = tended

    def _turn_safely(self) -> None:
        try:
            looked = self.turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, traffic goes on and the next turn may go well
            self._failures += 1
            self._telling.trouble(error)
        else:
            if looked and self._failures:
                self._failures = 0
                self._telling.over()

    def _rest(self) -> float:
        if self._failures:
            return min(BACK_OFF_MOST_SECONDS, TURN_SECONDS * 2.0 ** min(self._failures, 10))
        self.clock.sleep(REST_SECONDS)
        return max(0.001, self._looked_at + TURN_SECONDS - self.clock.monotonic())

    def _do_wanted(self) -> None:
        with suppress(Empty):
            while True:
                work, future = self._wanted.get_nowait()
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - it is the other thread's
                    future.set_exception(error)

    def _refuse_all(self) -> None:
        with suppress(Empty):
            while True:
                self._wanted.get_nowait()[1].set_exception(NotNow("the balancer", "it has ended", "Start it again"))

    def _hear(self, now: float) -> None:
        for report in self.checks.take():
            tended = self._tended.get(report.key[0])
            if tended is not None:
                tended.hear(report, now)

    def _look(self) -> None:
        said = self.plane.tend()
        if said is not None:
            self._telling.event("plane", said)
        observation: Observation | None = None  # while it restarts; its counts begin anew then
        try:
            observation = self.plane.observe()
        except NotNow as error:
            if self._blind_since is None:
                self._blind_since = self.clock.monotonic()
            elif self.clock.monotonic() - self._blind_since > BLIND_SECONDS:
                self._telling.trouble(error, "traffic may stand still, and what becomes of it is not seen")
        else:
            if self._blind_since is not None and not self._failures:
                self._telling.over()
            self._blind_since = None
        for tended in self._tended.values():
            if observation is not None:
                tended.see(observation)

    def _decide(self, now: float) -> None:
        learned = False
        for name, tended in self._tended.items():
            before = tended.decision
            decision = tended.decide(now, tuple(self._remembered.values()))
            self._telling.decided(tended, before, decision)
            if decision.ruling is not None and decision.ruling.remembered != tended.remembered:
                self._remembered[name] = tended.remembered = decision.ruling.remembered
                learned = True
        if learned or self._forgetful:
            try:
                self.kept.remember(self._remembered)
                self._forgetful = False
            except OSError as error:
                self._forgetful = True  # who is primary is known here, and tried to be kept at each turn
                self._telling.trouble(error, "who is primary cannot be kept on disk; a restart would not know it")

    def _weigh(self, now: float) -> None:
        for tended in self._tended.values():
            known = set(tended.states)
            for pool, before, inputs in tended.weigh(now):
                if pool not in known:
                    self._steps.forget(pool)
                self._steps.add(pool, before, inputs, tended.states[pool].weights)

    def _publish(self) -> None:
        changed: dict[str, dict[str, Share]] = {}
        for pool, shares in self._routing().items():
            held = self._published.get(pool, {})
            if differing := {name: share for name, share in shares.items() if held.get(name) != share}:
                changed[pool] = differing
        if not changed:
            return
        self.plane.publish(changed)
        self._telling.published(self._published, changed, {p: t for t in self._tended.values() for p in t.routing()})
        for pool, differing in changed.items():
            self._published.setdefault(pool, {}).update(differing)

    def _routing(self) -> dict[str, dict[str, Share]]:
        return {pool: shares for t in self._tended.values() for pool, shares in t.routing().items()}

    def _pools(self) -> list[Pool]:
        return [pool for t in self._tended.values() for pool in t.service.pools]

    def _write_status(self, *, running: bool) -> None:
        with suppress(OSError):  # a full disk is no reason not to balance
            self.kept.write_status(self.status(running=running).model_dump(mode="json"))


def known_backend(known: Mapping[str, Sequence[str]], service: str, backend: str) -> None:
    """Raises UsageError, with the names that are known, where there is no such service or no such backend of it."""
    if service not in known:
        raise UsageError(
            "SERVICE", f"there is no service {service[:80]!r}", f"Name one of {', '.join(known) or 'none: nothing is balanced'}"
        )
    if backend not in known[service]:
        raise UsageError("BACKEND", f"{service} has no backend {backend[:80]!r}", f"Name one of {', '.join(known[service])}")
