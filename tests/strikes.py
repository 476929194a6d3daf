"""The faults of the crash campaign: what dies or is cut, and when. Each is drawn from a seed alone."""

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Wire
from multiprocessing.context import ForkServerProcess
from typing import Any, Literal, get_args

import processes
from campaign import BEFORE, SOURCE, Tally, World, where
from faultproxy import FaultProxy
from processes import At, Hop
from tierkeeper.kernel.errors import Exit
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier

Victim = Literal["mover", "source server", "destination server", "source link", "destination link"]
When = Literal["at a point", "at a moment", "after some bytes", "late", "held", "slow"]

IN_RECOVERY = (Point.UNDO_ABORTED, Point.UNDO_BEFORE_COMMIT, Point.UNDONE)
POINTS: dict[Tier, tuple[Point, ...]] = {
    "main": (
        Point.LEASED, Point.MIRRORED, Point.CONFLICTS_NOTED, Point.HORIZON_RECORDED, Point.LEDGER_OPEN, Point.MARKER_OPEN,
        Point.SOURCE_READ, Point.COPY_BEFORE_COMMIT, Point.COPIED, Point.WAITED, Point.DELETE_BEFORE_COMMIT, Point.DELETED,
        Point.DONE, Point.FORGOTTEN,
    ),
    "archive": (
        Point.LEASED, Point.LEDGER_OPEN, Point.MARKER_OPEN, Point.SOURCE_READ, Point.SEGMENT_WRITTEN,
        Point.OBJECT_BEFORE_RENAME, Point.SEGMENT_PUT, Point.MANIFEST_PUT, Point.COPY_BEFORE_COMMIT, Point.COPIED, Point.WAITED,
        Point.DELETE_BEFORE_COMMIT, Point.DELETED, Point.DONE, Point.COMMIT_PUT, Point.FORGOTTEN,
    ),
    "core": (
        Point.LEASED, Point.LEDGER_OPEN, Point.MARKER_OPEN, Point.SOURCE_READ, Point.COPY_BEFORE_COMMIT, Point.COPIED,
        Point.WAITED, Point.DELETE_BEFORE_COMMIT, Point.DELETED, Point.DONE, Point.FORGOTTEN,
    ),
}  # fmt: skip
"""Where every run of a hop comes by; `Point.MARKER_DROPPED` only one that finds an old marker."""

_ONCE = (Point.LEASED, Point.MIRRORED, Point.FORGOTTEN, Point.MARKER_DROPPED)
_MOMENTS: tuple[tuple[Victim, When], ...] = (
    ("mover", "at a moment"), ("source link", "after some bytes"), ("destination link", "after some bytes"),
    ("source server", "at a moment"), ("mover", "late"), ("destination link", "after some bytes"),
    ("mover", "at a moment"), ("source link", "after some bytes"), ("destination server", "at a moment"),
    ("source link", "held"), ("destination link", "held"), ("mover", "slow"),
)  # fmt: skip
_LASTS_SECONDS = 0.6  # about what an undisturbed run takes, after its start
_BYTES = (2_000, 20_000, 100_000)  # a handshake, a start, about what an undisturbed run passes each way on one link
_HANGS_SECONDS = 60


@dataclass(frozen=True)
class Fault:
    """Who is struck, and when; `point` only for a fault at a point."""

    victim: Victim
    when: When
    point: Point | None = None

    def __str__(self) -> str:
        return f"{self.victim} {self.when}"


def plan(destination: Tier) -> list[Fault]:
    """Every fault of a hop: each victim at each point, and between two of those one at a moment that nobody chose."""
    points = (*POINTS[destination], Point.MARKER_DROPPED, *IN_RECOVERY)
    at_points = [Fault(victim, "at a point", point) for victim in get_args(Victim) for point in points]
    random.Random(0).shuffle(at_points)  # noqa: S311 - the same order in every run
    at_moments = itertools.cycle(Fault(*m) for m in _MOMENTS)
    return [fault for pair in zip(at_points, at_moments, strict=False) for fault in pair]


class Strike:
    """One run of the mover with one fault in it. Afterwards the servers run and the links pass everything on."""

    def __init__(self, world: World, table: str, destination: Tier, chance: random.Random, tally: Tally) -> None:
        self._world, self._destination, self._chance, self._tally = world, destination, chance, tally
        self._hop = Hop(
            world.config, world.environment, table, SOURCE[destination], destination, BEFORE[destination],
            batch_rows=chance.choice((5, 12, 60)), again=chance.random() < 0.5, where=where(destination),
        )  # fmt: skip
        self.wrong: list[str] = []
        self.later: list[threading.Timer] = []

    def strike(self, fault: Fault) -> None:
        """Runs the mover into `fault` and counts whether it came to it."""
        if fault.point in IN_RECOVERY:
            self._run(At(self._chance.choice((Point.MARKER_OPEN, Point.SOURCE_READ))), None)
        if fault.when == "at a point" and fault.point is not None:
            nth = 1 if fault.point in _ONCE else self._chance.choice((1, 1, 2, 3))
            struck = self._at_point(fault.victim, At(fault.point, nth, asks=fault.victim != "mover"))
        else:
            struck = self._at_moment(fault)
        (self._tally.struck if struck else self._tally.missed)[str(fault)] += 1

    def heal(self) -> None:
        """Waits for what comes late, and takes every disturbance away."""
        for timer in self.later:
            timer.join()
        for proxy in self._world.proxies.values():
            proxy.heal()

    # At a point

    def _at_point(self, victim: Victim, at: At) -> bool:
        if victim == "mover":
            return self._run(at, None) == "killed"
        struck: list[bool] = []

        def deed() -> None:
            struck.append(True)
            if victim.endswith("server"):
                self._kill_server(self._tier(victim))
            else:
                self._cut(self._proxy(victim), self._chance.choice((0, 0, 0, 40, 400)))

        self._run(at, deed)
        return bool(struck)

    # At a moment

    def _at_moment(self, fault: Fault) -> bool:
        moment = self._chance.uniform(0.02, _LASTS_SECONDS)
        if fault.when == "after some bytes":
            proxy = self._proxy(fault.victim)
            cuts = proxy.cuts
            self._cut(proxy, self._chance.randrange(self._chance.choice(_BYTES)))
            self._run(None, None)
            return proxy.cuts > cuts
        if fault.victim.endswith("server"):
            return self._run(None, lambda: self._kill_server(self._tier(fault.victim)), moment) != "over"
        if fault.when == "held":
            return self._run(None, lambda: self._hold(self._proxy(fault.victim)), moment) != "over"
        if fault.when == "slow":
            for proxy in self._world.proxies.values():
                proxy.delay(self._chance.uniform(0.001, 0.004))
        if fault.when == "late":
            return self._killed_with_words_on_the_way(moment)
        return self._run(None, None, moment, kills=True) == "killed"

    def _killed_with_words_on_the_way(self, moment: float) -> bool:
        """What the mover sent last, a COMMIT perhaps, arrives when the next run is already at work."""
        proxy = self._proxy(self._chance.choice(("source link", "destination link")))

        def hold() -> None:
            proxy.hold("to_server")
            time.sleep(self._chance.uniform(0.005, 0.03))

        killed = self._run(None, hold, moment, kills=True) == "killed"
        timer = threading.Timer(self._chance.uniform(0.05, 0.5), proxy.heal)
        timer.start()
        self.later.append(timer)
        return killed

    def _hold(self, proxy: FaultProxy) -> None:
        proxy.hold(*self._chance.choice((("to_server",), ("to_client",), ("to_server", "to_client"))))
        time.sleep(self._chance.uniform(0.02, 0.2))
        if self._chance.random() < 0.5:  # else they go on as if nothing had been
            proxy.cut_now(self._chance.choice(("rst", "fin")))
        proxy.heal()

    # The run itself

    def _run(
        self, at: At | None, deed: Callable[[], None] | None, moment: float | None = None, *, kills: bool = False
    ) -> Literal["killed", "struck", "over"]:
        """Runs the mover; `deed` happens at `at`, or at `moment`, after which the process is killed if it `kills`.

        `over`: it ended before anything happened to it.
        """
        process, wire = processes.start_hop(self._hop, at)
        with contextlib.closing(wire):
            struck = self._follow(process, wire, deed, moment, kills=kills)
            process.join(_HANGS_SECONDS)
            if process.exitcode is None:
                self.wrong.append("the mover hung")
                process.kill()
                process.join()
            self._note_end(wire)
        if process.exitcode == -9:
            return "killed"
        return "struck" if struck else "over"

    def _follow(
        self,
        process: ForkServerProcess,
        wire: "Wire[Any, Any]",
        deed: Callable[[], None] | None,
        moment: float | None,
        *,
        kills: bool,
    ) -> bool:
        deed = deed or (lambda: None)
        with contextlib.suppress(EOFError, OSError):
            assert wire.recv() == ("began",)
            if moment is not None:
                if wire.poll(moment):
                    return False
                deed()
                if kills:
                    process.kill()
                return True
            if self._waits_for_word(wire):
                deed()
                wire.send("go on")
                return True
        return False

    def _waits_for_word(self, wire: "Wire[Any, Any]") -> bool:
        """Whether the mover stands at its point; else it has ended, and its last words are noted."""
        if not wire.poll(_HANGS_SECONDS):
            return False
        said = wire.recv()
        if said != ("at",):
            self._note(said)
        return bool(said == ("at",))

    def _note_end(self, wire: "Wire[Any, Any]") -> None:
        with contextlib.suppress(EOFError, OSError):
            while wire.poll(0):
                self._note(wire.recv())

    def _note(self, said: Sequence[Any]) -> None:
        kind, detail = str(said[0]), str(said[1])
        shown = {"ended": f"struck, yet {detail.partition(':')[0]}", "told": f"told {detail}"}.get(kind, kind)
        self._tally.moves[shown] += 1
        if kind == "raised":
            self.wrong.append(f"the mover raised what the command line cannot tell:\n{detail}")
        elif kind == "told" and detail != Exit.NOT_NOW.name:
            self.wrong.append(f"a tier that was away for a moment was told as {detail}: {said[2]}")

    def _kill_server(self, tier: Tier) -> None:
        server = self._world.servers.of(tier)
        server.kill()
        server.restart()

    def _cut(self, proxy: FaultProxy, size_bytes: int) -> None:
        direction = self._chance.choice(("to_server", "to_client"))
        how, everything = self._chance.choice(("rst", "fin")), self._chance.random() < 0.5
        proxy.cut_after(size_bytes, direction, how, everything=everything)  # type: ignore[arg-type]

    def _tier(self, victim: str) -> Tier:
        return SOURCE[self._destination] if victim.startswith("source") else self._destination

    def _proxy(self, victim: str) -> FaultProxy:
        return self._world.proxies[self._tier(victim)]
