"""Postgres in a Python program: writes go to the primary, reads to a replica that is not too far behind, and both try again.

Who is primary is asked of the servers themselves at each connect, and decided by the balancer's own rule (`primary`). What was
seen is remembered as long as the object lives.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Concatenate, Final, ParamSpec, TypeVar

import psycopg

from tierkeeper.balance.primary import Claim, Remembered, Ruling, rule
from tierkeeper.balance.roles import claimed
from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.postgres.link import Link, translate

T = TypeVar("T")
P = ParamSpec("P")

MAX_LAG_BYTES: Final = 16_000_000  # of WAL: a segment; what `max_lag` of a service is, too
WAIT_SECONDS: Final = 10.0  # for a server that can do what is asked: a failover takes some two
FIRST_PAUSE_SECONDS: Final = 0.05  # between two looks, doubled each time
LONGEST_PAUSE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 2  # for one server to answer, where its URL says nothing of it
TRIES: Final = 4  # of a function, all in all
_LOST: Final = ("08", "57P01", "57P02", "57P03", "57P05")  # the connection, or the server behind it, is gone


def fitting(ruling: Ruling, *, writes: bool) -> list[str]:
    """The servers that may be used alike. A write goes to the primary, a read to a replica, or to the primary where none may."""
    primary = [] if ruling.primary is None else [ruling.primary]
    return primary if writes else sorted(ruling.readers) or primary


class Databases:
    """The servers of one database, by URL. Threads may share it.

    Invariant: `connect(writes=True)` gives no session at a server that is in recovery, of an older timeline than one that this
    object has seen, or of another database system.
    """

    def __init__(
        self, urls: Sequence[str], *, sslrootcert: str | None = None, insecure: bool = False, max_lag_bytes: int = MAX_LAG_BYTES
    ) -> None:
        """Raises UsageError for a URL that is none. Links verify their peer as those of tiers do; `insecure` lets them not."""
        if not urls:
            raise UsageError("urls", "there is no server", "Give at least one URL")
        places = [f"urls[{i}]" for i in range(len(urls))]
        self._conninfo = {p: _conninfo(p, url, sslrootcert, insecure) for p, url in zip(places, urls, strict=True)}
        self._max_lag_bytes = max_lag_bytes
        self._remembered = Remembered()
        self._ruling = threading.Lock()

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
            opened = list(pool.map(_asked, self._conninfo.values()))
        connections: dict[str, psycopg.Connection] = {}
        claims: dict[str, Claim] = {}
        faults: list[TierkeeperError] = []
        for name, one in zip(self._conninfo, opened, strict=True):
            if isinstance(one, TierkeeperError):
                faults.append(one)
            else:
                connections[name], claims[name] = one
        kept: psycopg.Connection | None = None
        try:
            ruling = self._ruled(claims)
            fit = fitting(ruling, writes=writes)
            if fit:
                kept = connections[random.choice(fit)]  # noqa: S311 - who answers is no secret
                kept.autocommit = autocommit
            elif claims:
                faults.insert(0, NotNow("databases", ruling.why, "See which server is to be the primary, and promote it"))
        finally:
            for connection in connections.values():
                if connection is not kept:
                    with suppress(psycopg.Error):
                        connection.close()
        return kept, faults

    def _ruled(self, claims: Mapping[str, Claim]) -> Ruling:
        """Who takes what, from now on by what was seen this time too."""
        furthest = max(
            (c.lsn for c in claims.values() if not c.writable), default=0
        )  # what replicas are held to without a primary
        with self._ruling:
            ruling = rule(self._remembered, claims, frozenset(self._conninfo), self._max_lag_bytes, furthest)
            self._remembered = ruling.remembered
        return ruling


def _asked(info: Mapping[str, str]) -> tuple[psycopg.Connection, Claim] | TierkeeperError:
    try:
        connection = psycopg.connect(**dict(info), autocommit=True)  # type: ignore[arg-type]
    except psycopg.Error as error:
        return translate(error, "databases")
    try:
        claim, _ = claimed(lambda statement: connection.execute(statement).fetchall()[0])
    except (psycopg.Error, TierkeeperError) as error:
        connection.close()
        return error if isinstance(error, TierkeeperError) else translate(error, "databases")
    return connection, claim


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
