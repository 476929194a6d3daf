"""The configured tiers as services without a port: asked like backends, shown beside them, told to other processes.

What is seen of a tier drives nobody's traffic here; it saves others from waiting for one that does not answer.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from tierkeeper.balance import health
from tierkeeper.balance.asking import Heard, LinkQuestion, Question, TcpQuestion
from tierkeeper.balance.checks import Checks
from tierkeeper.balance.health import Answer, Health
from tierkeeper.balance.model import Backend
from tierkeeper.balance.pools import Ask, Node, Service, node
from tierkeeper.balance.probes import Probe
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.kernel.limits import TIER_LOOK_SECONDS
from tierkeeper.kernel.results import BalanceTier
from tierkeeper.monitoring.seen import Seen
from tierkeeper.postgres.link import Link

WRITE_SECONDS: Final = 1.0  # between two files for other processes, unless a state changes
_NAME: Final = "tiers"


@dataclass(frozen=True)
class Watched:
    """A tier and how it is asked. Where `address` changes in a reload it begins anew."""

    name: str
    address: str = field(repr=False)
    question: Callable[[], Question] = field(compare=False)


def database(name: str, link: Link) -> Watched:
    """A tier that is a Postgres. `link` has to give up a connection in time."""
    return Watched(name, f"{link.url} {link.sslrootcert} {link.insecure} {link.pin}", lambda: LinkQuestion(link))


def reached(name: str, address: str) -> Watched:
    """A tier behind a URL, of which it is enough that somebody listens there."""
    return Watched(name, address, lambda: TcpQuestion(Ask("tcp"), node(address, 1, 0)))


def probed(name: str, address: str, probe: Probe) -> Watched:
    """A tier that a probe asks."""
    return Watched(name, address, lambda: _ProbeQuestion(probe))


class _ProbeQuestion:
    """One that keeps nothing open between two askings."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def ask(self) -> Heard:
        try:
            self._probe.ask()
        except TierkeeperError as error:
            return Heard(Answer(False, error.cause), refused=isinstance(error, UsageError))
        return Heard(Answer(True, "it answers"))

    def watched(self) -> int | None:
        return None

    def abort(self) -> None:
        """What a probe waits for it gives up by itself."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class _Known:
    health: Health
    asked_at: float = 0.0
    refused: bool = False

    @property
    def away(self) -> bool:
        """It does not answer; one that answers and refuses us tells whoever asks why, and better."""
        return self.health.is_out and self.health.wells == 0 and not self.refused


class TierWatch:
    """See the module. One thread calls it. `load` gives the tiers and the seconds between two checks of one that is well."""

    def __init__(
        self, load: Callable[[], tuple[Sequence[Watched], float]], tell: Callable[[Mapping[str, Seen]], None], clock: Clock
    ) -> None:
        self._load, self._tell, self._clock = load, tell, clock
        self._questions: dict[str, Callable[[], Question]] = {}
        self._known: dict[str, _Known] = {}
        self._checks = Checks(lambda _, node: self._questions[node.name]())
        self._ask = Ask("postgres", rise=1)  # a tier that answers again is not to be waited for
        self._wrote_at = float("-inf")

    def follow(self) -> None:
        """Watches what is configured now; of tiers that stay all stays known."""
        tiers, interval = self._load()
        self._ask = replace(self._ask, interval_seconds=interval)
        self._questions = {t.name: t.question for t in tiers}
        now = self._clock.monotonic()
        self._known = {t.name: self._known.get(t.name, _Known(Health(since=now), now)) for t in tiers}
        nodes = tuple(Node(Backend(t.name, t.name, 0), t.address) for t in tiers)
        self._checks.follow([Service(_NAME, self._ask, nodes, ())])

    def turn(self) -> None:
        """At what was heard. Never raises: others are only not told."""
        now = self._clock.monotonic()
        changed = False
        for report in self._checks.take():
            changed |= self._hear(report.key[1], report.heard, now)
        self._checks.pace({(_NAME, name): self._pace(known, now) for name, known in self._known.items()})
        if changed or now - self._wrote_at >= WRITE_SECONDS:
            self._wrote_at = now
            with suppress(OSError):
                self._tell(self.seen())

    def seen(self) -> dict[str, Seen]:
        """How each stands."""
        now, wall = self._clock.monotonic(), self._clock.now()

        def at(instant: float) -> datetime:
            return wall - timedelta(seconds=now - instant)

        return {
            name: Seen(k.health.standing.value, k.health.why, at(k.health.since), at(k.asked_at), k.away)
            for name, k in self._known.items()
        }

    def shown(self) -> list[BalanceTier]:
        """For a person."""
        return [BalanceTier(name=name, **_fields(one)) for name, one in self.seen().items()]

    def close(self) -> None:
        """Ends it; what was told grows old by itself."""
        self._checks.close()

    def _hear(self, name: str, heard: Heard, now: float) -> bool:
        before = self._known[name]
        answer = replace(heard.answer, ok=True) if heard.lives else heard.answer
        after = _Known(health.after_answer(before.health, answer, now, self._ask), now, heard.refused)
        self._known[name] = after
        return (before.away, before.health.standing) != (after.away, after.health.standing)

    def _pace(self, known: _Known, now: float) -> float:
        interval = self._ask.interval_seconds
        if known.refused:
            return interval  # servers shut out whoever comes with a wrong password again and again
        pause = health.pace_seconds(known.health, now, interval)
        return min(pause, TIER_LOOK_SECONDS) if known.health.is_out else pause


def _fields(one: Seen) -> dict[str, Any]:
    return {"state": one.state, "why": one.why, "since": one.since, "asked_at": one.asked_at, "away": one.away}
