"""`balance-healthy` and `balance-gray`: what a client sees while all is well, and while one backend of three is not."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from bench.balancing.balancers import KINDS, Balancer, command, quick_backends, running
from bench.balancing.load import Answer
from bench.common import Figures, Options
from tierkeeper.demo.runtime import workspace

RATE: Final = 900.0  # requests a second: a third of them one backend's, and together a fifth of what two cores can carry here
_ROOT: Final = Path(__file__).parents[2]
SICK, KILLED = "b1", "b2"
_ILL: Final = ("slow", "capped", "failing")


@dataclass(frozen=True)
class Phase:
    """A stretch of a run: what the sick backend suffers from `at`, in seconds, until the next phase begins."""

    name: str
    at: float
    illness: dict[str, float] = field(default_factory=dict)


HEALTHY: Final = (Phase("healthy", 0), Phase("end", 8))
GRAY: Final = (
    Phase("healthy", 0),
    Phase("slow", 6, {"delay_ms": 50}),
    Phase("after slow", 12),
    Phase("capped", 19, {"slots": 1, "delay_ms": 8}),
    Phase("after capped", 25),
    Phase("failing", 32, {"fail": 0.1}),
    Phase("after failing", 38),
    Phase("killed", 45),
    Phase("end", 49),
)
_THROUGHPUT_SECONDS: Final = 4
_SETTLE_SECONDS: Final = 2.0  # after a phase begins its steady state is counted
_SHARE_SECONDS: Final = 0.25  # over which a share is taken
_SHED_SHARE, _FAIR_SHARE = 0.02, 0.8 / 3  # a backend is shed below the one, and back above the other


class Backends:
    """Three of them, each a process."""

    def __init__(self, stack: ExitStack) -> None:
        self._processes = {name: stack.enter_context(_backend(name)) for name in ("b0", SICK, KILLED)}
        self.ports = [int(_line(process)) for process in self._processes.values()]

    def tell(self, illness: dict[str, float]) -> None:
        stream = self._processes[SICK].stdin
        assert stream is not None
        stream.write(json.dumps(illness).encode() + b"\n")
        stream.flush()

    def kill(self) -> None:
        self._processes[KILLED].kill()


@contextmanager
def _backend(name: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.balancing.backend", name], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


@dataclass(frozen=True)
class Run:
    """All answers of one balancer in one run, and what it cost."""

    answers: Sequence[Answer]
    phases: Sequence[Phase]
    cpu_seconds: float
    memory_mb: float

    def of(self, name: str, *, settled: bool = True) -> list[Answer]:
        """The answers of a phase, without its beginning unless `settled` is False."""
        began, ended = self._bounds(name)
        began += _SETTLE_SECONDS if settled else 0
        return [a for a in self.answers if began <= a.meant < ended]

    def _bounds(self, name: str) -> tuple[float, float]:
        at = next(i for i, p in enumerate(self.phases) if p.name == name)
        return self.phases[at].at, self.phases[at + 1].at

    def until_share(self, name: str, *, below: float | None = None, above: float | None = None) -> float | None:
        """Seconds from a phase's beginning until the sick one's share goes below, or above, a bound; None: never in it."""
        began, ended = self._bounds(name)
        step = 0.05
        for i in range(int((ended - began - _SHARE_SECONDS) / step)):
            since = began + i * step
            seen = share(a for a in self.answers if since <= a.meant < since + _SHARE_SECONDS)
            if (below is not None and seen < below) or (above is not None and seen > above):
                return round(since - began, 2)
        return None


def p99_ms(answers: Sequence[Answer]) -> float:
    return round(statistics.quantiles((a.latency for a in answers), n=100)[98] * 1000, 2) if len(answers) > 1 else 0.0


def share(answers: Iterable[Answer]) -> float:
    """The part of the answers that the sick one gave."""
    names = [a.backend for a in answers if a.status]
    return names.count(SICK) / max(1, len(names))


def failed(answers: Sequence[Answer]) -> int:
    return sum(a.status != 200 for a in answers)


def _once(kind: str, phases: Sequence[Phase], folder: Path, seed: int) -> Run:
    """One balancer, once."""
    with ExitStack() as stack:
        backends = Backends(stack)
        balancer = stack.enter_context(running(kind, folder, backends.ports))
        written, end = folder.with_suffix(".answers"), phases[-1].at  # whatever names the folder counts as the balancer's
        before = balancer.cpu_seconds()
        load = subprocess.Popen(
            [sys.executable, "-m", "bench.balancing.load", str(balancer.port), str(RATE), str(end), str(seed), str(written)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
        )
        stack.callback(load.kill)
        cost = _play(load, phases, backends, balancer)
        return Run(Answer.read(written), phases, cost - before, balancer.memory_mb())


def _play(load: "subprocess.Popen[bytes]", phases: Sequence[Phase], backends: Backends, balancer: Balancer) -> float:
    """Makes the phases happen while the load runs; gives the balancer's CPU seconds at the end."""
    _line(load)  # it begins now
    began = time.monotonic()
    for phase, following in pairwise(phases):
        if phase.name == "killed":
            backends.kill()
        else:
            backends.tell(phase.illness)
        time.sleep(max(0.0, began + following.at - time.monotonic()))
    cost = balancer.cpu_seconds()
    if load.wait(60) != 0:
        raise subprocess.CalledProcessError(load.returncode, "load")
    return cost


def healthy(options: Options) -> Figures:
    """The 99th percentile beside Envoy alone, and the CPU a request takes beside all of them."""
    figures = Figures("balance-healthy", "ms (p99)", "Envoy alone, round robin", less_is_better=True)
    runs = _all(options, HEALTHY)
    for kind, side in (("tierkeeper", figures.ours_runs), ("envoy", figures.peer_runs)):
        side += [p99_ms(run.of("healthy")) for run in runs[kind]]
    figures.peaks_mb += [run.memory_mb for run in runs["tierkeeper"]]
    figures.more = {
        "rate": RATE,
        "requests_a_second": _throughput(options),
        "p99_ms": _each(runs, lambda run: p99_ms(run.of("healthy"))),
        "cpu_us_a_request": _each(runs, lambda run: run.cpu_seconds / len(run.answers) * 1e6),
        "failed": _each(runs, lambda run: failed(run.answers)),
    }
    return figures


def gray(options: Options) -> Figures:
    """One backend of three is slow, then capped, then fails at times, then another is killed: beside the best of the others."""
    runs = _all(options, GRAY)
    best = min(
        (kind for kind in KINDS if kind != "tierkeeper"),
        key=lambda kind: statistics.median(p99_ms(run.of("slow")) for run in runs[kind]),
    )
    figures = Figures(
        "balance-gray", "ms (p99, one of three +50 ms)", f"{best}, the best of {len(KINDS) - 1}", less_is_better=True
    )
    figures.ours_runs += [p99_ms(run.of("slow")) for run in runs["tierkeeper"]]
    figures.peer_runs += [p99_ms(run.of("slow")) for run in runs[best]]
    figures.peaks_mb += [run.memory_mb for run in runs["tierkeeper"]]
    figures.more = {
        "rate": RATE,
        **{f"p99_ms {name}": _each(runs, lambda run, name=name: p99_ms(run.of(name))) for name in ("healthy", *_ILL)},
        **{f"share_percent {name}": _each(runs, lambda run, name=name: share(run.of(name)) * 100) for name in _ILL},
        **{
            f"seconds to shed {name}": _each(runs, lambda run, name=name: run.until_share(name, below=_SHED_SHARE))
            for name in _ILL
        },
        **{
            f"seconds to fair share after {name}": _each(
                runs, lambda run, name=name: run.until_share(f"after {name}", above=_FAIR_SHARE)
            )
            for name in _ILL
        },
        "failed while one fails": _each(runs, lambda run: failed(run.of("failing", settled=False))),
        "failed on kill": _each(runs, lambda run: failed(run.of("killed", settled=False))),
        "failed else": _each(
            runs, lambda run: sum(failed(run.of(p.name, settled=False)) for p in GRAY[:-1] if p.name not in ("failing", "killed"))
        ),
    }
    return figures


def _all(options: Options, phases: Sequence[Phase]) -> dict[str, list[Run]]:
    """Each balancer in turn, once a seed."""
    runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    with workspace("tierkeeper-bench-") as folder:
        for seed in range(options.runs):
            for kind in KINDS:
                runs[kind].append(_once(kind, phases, folder / f"{kind}-{seed}", seed))
    return runs


def _throughput(options: Options) -> dict[str, float]:
    """What each carries of as many requests as 32 connections can ask for, one after the other; and what there is without one."""
    wrk = command("wrk", "apt-get install wrk")
    found: dict[str, list[float]] = {kind: [] for kind in ("direct", *KINDS)}

    def ask(port: int) -> float:
        asked = [wrk, "-t1", "-c32", f"-d{_THROUGHPUT_SECONDS}s", f"http://127.0.0.1:{port}/"]
        told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        return float(told.split("Requests/sec:")[1].split()[0])

    with workspace("tierkeeper-bench-") as folder, quick_backends(folder / "backends") as ports:
        for run in range(options.runs):
            found["direct"].append(ask(ports[0]))
            for kind in KINDS:
                with running(kind, folder / f"{kind}-{run}", ports) as balancer:
                    found[kind].append(ask(balancer.port))
    return {kind: round(statistics.median(some)) for kind, some in found.items()}


def _each(runs: Mapping[str, Sequence[Run]], figure: Callable[[Run], float | None]) -> dict[str, float | str]:
    """The median of each balancer's runs; "never" where that is what most of them said."""
    medians = {kind: statistics.median(_or_never(figure(run)) for run in some) for kind, some in runs.items()}
    return {kind: round(value, 2) if math.isfinite(value) else "never" for kind, value in medians.items()}


def _or_never(value: float | None) -> float:
    return math.inf if value is None else value
