"""Postgres in a Python program: writes go to the primary, reads to a replica that is not too far behind, and both try again.

Who is primary is asked of the servers themselves at each connect. Of two that say so, the one of the later timeline is it: the
other was demoted, and has not heard of it.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Concatenate, Final, ParamSpec, TypeVar

import psycopg

from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.postgres.link import Link, translate
from tierkeeper.postgres.statements import load

T = TypeVar("T")
P = ParamSpec("P")

_SQL = load("tierkeeper.balance", "databases.sql")

MAX_LAG_BYTES: Final = 16_000_000  # of WAL: a segment; what `max_lag` of a service is, too
WAIT_SECONDS: Final = 10.0  # for a server that can do what is asked: a failover takes some two
FIRST_PAUSE_SECONDS: Final = 0.05  # between two looks, doubled each time
LONGEST_PAUSE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 2  # for one server to answer, where its URL says nothing of it
TRIES: Final = 4  # of a function, all in all
_LOST: Final = ("08", "57P01", "57P02", "57P03", "57P05")  # the connection, or the server behind it, is gone


@dataclass(frozen=True)
class Standing:
    """What a server says of itself. `position` in bytes of WAL; `timeline` of a replica is 0."""

    replica: bool
    position: int
    timeline: int


def fitting(answers: Mapping[int, Standing], writes: bool, max_lag_bytes: int, seen_timeline: int = 0) -> list[int]:
    """The numbers of the servers that may be used, in the order of preference among kinds. Pure.

    A write goes to the primary of the latest timeline, and to none where that is older than one that was seen before. A read
    goes to replicas that are at most `max_lag_bytes` behind the furthest server that answers, and to the primary without one.
    """
    primaries = {n: a for n, a in answers.items() if not a.replica and a.timeline >= seen_timeline}
    first = sorted(primaries, key=lambda n: (-primaries[n].timeline, -primaries[n].position))[:1]
    if writes:
        return first
    # A demoted primary may be further than the new one, on a branch that nobody goes on with.
    furthest = max((a.position for n, a in answers.items() if a.replica or n in first), default=0)
    replicas = [n for n, a in answers.items() if a.replica and furthest - a.position <= max_lag_bytes]
    return replicas + first


class Databases:
    """The servers of one database, by URL. Threads may share it.

    Invariant: `connect(writes=True)` gives no session at a server that is in recovery, or of an older timeline than one that this
    object has seen.
    """

    def __init__(
        self, urls: Sequence[str], *, sslrootcert: str | None = None, insecure: bool = False, max_lag_bytes: int = MAX_LAG_BYTES
    ) -> None:
        """Raises UsageError for a URL that is none. Links verify their peer as those of tiers do; `insecure` lets them not."""
        if not urls:
            raise UsageError("urls", "there is no server", "Give at least one URL")
        self._conninfo = [_conninfo(f"urls[{i}]", url, sslrootcert, insecure) for i, url in enumerate(urls)]
        self._max_lag_bytes = max_lag_bytes
        self._timeline = 0

    def connect(self, *, writes: bool = True, wait_seconds: float = WAIT_SECONDS, autocommit: bool = False) -> psycopg.Connection:
        """A connection to a server that can do it. Where none can, asks again for `wait_seconds`.

        Raises NotNow where none could to the end, UsageError where all that answer refuse the user or the password.
        """
        deadline, pause = time.monotonic() + wait_seconds, FIRST_PAUSE_SECONDS
        while True:
            found, faults = self._open(writes, autocommit)
            if found is not None:
                return found
            if faults and all(isinstance(f, UsageError) for f in faults) and len(faults) == len(self._conninfo):
                raise faults[0]
            if time.monotonic() + pause > deadline:
                what = "no server takes writes" if writes else "no server can be read"
                told = f" ({faults[0].cause})" if faults else ""
                raise NotNow("databases", what + told, "Check that a primary runs and can be reached, then run again")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def run(self, work: Callable[Concatenate[psycopg.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(connection, …)` in a transaction at the primary, committed.

        Where the connection is lost it is run again, up to TRIES times in all. The loss may have come after the commit: `work`
        has to be idempotent (an upsert by key, a delete by key). Raises what `work` raises, NotNow where the tries are used up.
        """
        return self._run(True, work, *args, **kwargs)

    def read(self, work: Callable[Concatenate[psycopg.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, at a replica where there is one, in a transaction that only reads."""
        return self._run(False, work, *args, **kwargs)

    def _run(self, writes: bool, work: Callable[Concatenate[psycopg.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        pause = FIRST_PAUSE_SECONDS
        for left in reversed(range(TRIES)):
            conn = self.connect(writes=writes)
            try:
                conn.read_only = not writes
                with conn:
                    return work(conn, *args, **kwargs)
            except psycopg.OperationalError as error:
                if not _lost(error):
                    raise
                if not left:
                    raise translate(error, "databases") from error
            except psycopg.errors.ReadOnlySqlTransaction as error:
                if not writes:
                    raise
                if not left:
                    raise translate(error, "databases") from error
            time.sleep(pause)
            pause *= 2
        raise AssertionError  # the last round returns or raises

    def _open(self, writes: bool, autocommit: bool) -> tuple[psycopg.Connection | None, list[TierkeeperError]]:
        """Asks all servers beside each other; keeps the connection to the one that fits best, closes the others."""
        with ThreadPoolExecutor(max_workers=len(self._conninfo)) as pool:
            opened = list(pool.map(_asked, self._conninfo))
        connections: dict[int, psycopg.Connection] = {}
        answers: dict[int, Standing] = {}
        faults: list[TierkeeperError] = []
        for n, one in enumerate(opened):
            if isinstance(one, TierkeeperError):
                faults.append(one)
            else:
                connections[n], answers[n] = one
        kept: psycopg.Connection | None = None
        try:
            fit = fitting(answers, writes, self._max_lag_bytes, self._timeline)
            self._timeline = max([self._timeline, *(a.timeline for a in answers.values())])
            replicas = [n for n in fit if answers[n].replica]
            chosen = random.choice(replicas) if replicas else next(iter(fit), None)  # noqa: S311 - who answers is no secret
            if chosen is not None:
                kept = connections[chosen]
                kept.autocommit = autocommit
        finally:
            for connection in connections.values():
                if connection is not kept:
                    with suppress(psycopg.Error):
                        connection.close()
        return kept, faults


def _asked(info: Mapping[str, str]) -> tuple[psycopg.Connection, Standing] | TierkeeperError:
    connection: psycopg.Connection | None = None
    try:
        connection = psycopg.connect(**dict(info), autocommit=True)  # type: ignore[arg-type]
        row = connection.execute(_SQL["standing"]).fetchone()
    except psycopg.Error as error:
        if connection is not None:
            connection.close()
        return translate(error, "databases")
    if row is None:
        return NotNow("databases", "a server did not say what it is", "Run again")
    replica, position, timeline = row
    return connection, Standing(replica, position, timeline)


def _conninfo(place: str, url: str, sslrootcert: str | None, insecure: bool) -> Mapping[str, str]:
    try:
        given = dict(Link("databases", url, sslrootcert, insecure).parameters)
    except UsageError as error:
        raise UsageError(place, error.cause, error.remedy) from None
    if "connect_timeout" not in url:
        given["connect_timeout"] = str(LOOK_SECONDS)
    return given


def _lost(error: psycopg.OperationalError) -> bool:
    """Whether the connection is gone, and not a statement at fault: then a server has said nothing, or good-bye."""
    return error.sqlstate is None or error.sqlstate.startswith(_LOST)


__all__ = ["Databases", "Standing", "fitting"]
