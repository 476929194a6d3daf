"""Asks a service once whether it is well. Reading only; every probe ends by itself.

The judgement of an answer is pure (`asking.judge`, `gather`); the probes only carry the question.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tierkeeper.balance.asking import once
from tierkeeper.balance.model import Backend
from tierkeeper.balance.pools import Ask, Node, node
from tierkeeper.kernel.errors import NotNow, TierkeeperError
from tierkeeper.kernel.results import HealthItem, HealthResult
from tierkeeper.postgres.link import Link, transaction

PROBE_SECONDS: Final = 5.0  # a backend that needs longer for an empty question is of no use to traffic
_AT_ONCE: Final = 16  # many backends that are away must not be waited for one after the other
REMEDY: Final = "Check that it runs and that the address is right, and look into its log"


@dataclass(frozen=True)
class Probe:
    """A named question. `ask` returns if the service is well and raises TierkeeperError else."""

    name: str
    ask: Callable[[], None]


def http(name: str, url: str) -> Probe:
    """A GET of `url`: any answer below 500 means that the service works. Redirects are not followed."""
    return of(name, Ask("http", timeout_seconds=PROBE_SECONDS), node(url, 1, 0))


def tcp(name: str, host: str, port: int) -> Probe:
    """A TCP connection that is closed again."""
    return of(name, Ask("tcp", timeout_seconds=PROBE_SECONDS), Node(Backend(name, host, port), ""))


def of(name: str, ask: Ask, asked: Node) -> Probe:
    """The question that a balancer asks again and again, asked once."""

    def probe() -> None:
        answer = once(ask, asked).answer
        if not answer.ok:
            raise NotNow(name, answer.why, REMEDY)

    return Probe(name, probe)


def postgres(name: str, link: Link) -> Probe:
    """A connection with the link's user, and one question in a read-only transaction."""

    def ask() -> None:
        with link.connect("health") as conn, transaction(conn, read_only=True) as cur:
            cur.execute("SELECT 1")

    return Probe(name, ask)


def directory(name: str, path: Path) -> Probe:
    """A store in a directory: it is there, or can be made, and takes files."""

    def ask() -> None:
        place = next((p for p in (path, *path.parents) if p.exists()), path)
        if not place.is_dir():
            raise NotNow(name, f"{place} is no directory", "Name a directory in ARCHIVE_PATH")
        if not os.access(place, os.W_OK | os.X_OK):
            raise NotNow(name, f"{place} takes no files from this user", "Change its owner or mode, or name another directory")

    return Probe(name, ask)


def run(probes: Sequence[Probe]) -> HealthResult:
    """Asks all, several at once; the answers come in the order of `probes`."""
    if not probes:
        return gather([])
    with ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(probes))) as pool:
        return gather(list(pool.map(_asked, probes)))


def gather(items: list[HealthItem]) -> HealthResult:
    """All are well, or the whole is not."""
    return HealthResult(ok=all(item.healthy for item in items), checks=items)


def _asked(probe: Probe) -> HealthItem:
    began = time.monotonic()
    try:
        probe.ask()
    except TierkeeperError as error:
        return HealthItem(name=probe.name, healthy=False, cause=error.cause, remedy=error.remedy)
    return HealthItem(name=probe.name, healthy=True, latency_seconds=round(time.monotonic() - began, 4))
