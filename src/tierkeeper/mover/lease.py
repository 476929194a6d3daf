"""One run per table and hop at a time. A convenience, not a safety: the markers fence whoever believes to hold a lease."""

import os
import socket
from pathlib import Path
from uuid import uuid4

import psycopg

from tierkeeper.kernel.errors import Busy
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import LEASE_SECONDS
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "lease.sql")


def _start_of(pid: int) -> str | None:
    """When process `pid` of this machine started, in kernel ticks; None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]  # a zombie holds nothing any more


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"


class Taken(Busy):
    """Somebody else holds it."""


_held: set[str] = set()
"""Holders in this process that have not given back, or tried to: a lease of ours that is not here was cut off from its server."""


class Lease:
    """Held from `take` to `give_back`. A holder that is gone from this very machine is replaced at once."""

    def __init__(self, conn: Connection, name: str) -> None:
        self.conn = conn
        self.name = name
        self.holder = f"{_machine()}/{os.getpid()}/{_start_of(os.getpid())}/{uuid4()}"

    def take(self) -> None:
        """Takes or renews. Raises NotNow naming the holder.

        Whatever else ends the first call, nobody gives back what it may have taken: it is not held then, so that this process's
        next run replaces it.
        """
        first = self.holder not in _held
        _held.add(self.holder)  # before anybody can read it
        try:
            self._take()
        except BaseException:
            if first:
                _held.discard(self.holder)
            raise

    def _take(self) -> None:
        with transaction(self.conn) as cur:
            holder = self._read(cur)
            dead = holder if self._is_dead(holder) else None
            taken = cur.execute(
                _SQL["take"], {"name": self.name, "holder": self.holder, "seconds": LEASE_SECONDS, "dead": dead}
            ).rowcount
            holder = holder if taken else self._read(cur)  # it may have been taken since the first look
        if not taken:
            _held.discard(self.holder)
            host, *_, pid, _, _ = holder.split("/") if holder.count("/") > 3 else ["…"] * 4  # noqa: PLR2004
            raise Taken(
                self.name,
                f"another run holds it (process {pid} on {host})",
                f"Wait for it, or {LEASE_SECONDS} seconds after it died, and run again",
            )
        reach(Point.LEASED)

    def give_back(self) -> None:
        _held.discard(self.holder)
        with transaction(self.conn) as cur:
            cur.execute(_SQL["give_back"], {"name": self.name, "holder": self.holder})

    def _read(self, cur: psycopg.Cursor) -> str:
        return _read(cur, self.name)

    @staticmethod
    def _is_dead(holder: str) -> bool:
        machine, _, rest = holder.rpartition("/")[0].rpartition("/")[0].rpartition("/")
        started = holder.split("/")[-2] if holder.count("/") > 3 else ""  # noqa: PLR2004
        if machine != _machine() or not rest.isdigit():
            return False
        return _start_of(int(rest)) != started or (int(rest) == os.getpid() and holder not in _held)


def holder_of(conn: Connection, name: str) -> str:
    """Who has the lease `name`, as its `Lease.holder` says it; nobody: an empty text."""
    with transaction(conn, read_only=True) as cur:
        return _read(cur, name)


def _read(cur: psycopg.Cursor, name: str) -> str:
    row = cur.execute(_SQL["holder"], {"name": name}).fetchone()
    return str(row[0]) if row else ""
