"""Connections that outlive who asked for them, and go on to who asks next: to dial costs several round trips, and some CPU at
both ends.

Nobody is given one that is not as good as new: in a transaction, cancelled from aside, or ended by its server. What the user's
own triggers could have left something in is made new first, and where that cannot be done it is closed.
"""

import os
import re
import select
import time
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from threading import Event, Lock, Timer
from typing import Any, Final, Protocol
from weakref import WeakSet

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tierkeeper.kernel.limits import ANSWER_SECONDS, SPARE_AGE_SECONDS, SPARE_SECONDS
from tierkeeper.postgres.expected import Expected
from tierkeeper.postgres.session import Session
from tierkeeper.postgres.statements import load

_SQL: Final = load("tierkeeper.postgres", "lending.sql")
_FLUSHES_SINCE: Final = 150000  # an older server counts what a session has written when it ends, or is idle for long

OWN_TABLES: Final = frozenset({"alerts", "archive", "audit", "jobs", "mover", "usage"})
"""For these purposes tierkeeper's own tables are written; the user's only where `ran_users_code` says so."""

_PREFIX: Final = "tierkeeper "
_FULL: Final = re.compile(r"too many (?:connections|clients)|remaining connection slots|no more connections allowed")


class Look(Protocol):
    """What a connection may be lent for: it only reads."""

    @property
    def patient(self) -> bool:
        """Whether it waits for locks as who writes does."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether who asks is a part of it."""
        ...


class Lent(Session):
    """Its `close` gives it back, where its lender keeps it."""

    lender: "Lender | None" = None
    look: Look | None = None
    database: Hashable = None
    dialled_at = given_back_at = 0.0
    was_cancelled = False
    is_the_servers: bool | None = None
    """Whether the session is a server's own for as long as this lasts, and all that made it can be done again; None where nobody
    has asked. A pooler's may be another client's next."""

    def cancel_safe(self, **kwargs: Any) -> None:
        self.was_cancelled = True  # it may come late, and hit another's statement
        super().cancel_safe(**kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> psycopg.Cursor[Any]:
        self.ran_users_code = True  # outside of a transaction: what an event trigger sets there is its session's
        return super().execute(*args, **kwargs)

    def close(self) -> None:
        lender, self.lender = self.lender, None
        if lender is None or not lender.takes(self):
            super().close()

    @property
    def only_reads(self) -> bool:
        return self.look is not None and self.look.is_here

    @property
    def gives_way(self) -> bool:
        return self.look is not None and self.look.is_here and not self.look.patient

    @property
    def is_clean(self) -> bool:
        """Whether nothing of its user is left in it."""
        purpose = self.name.removeprefix(_PREFIX)
        return self._is_at_rest and not (self.ran_users_code or (self.wrote and purpose not in OWN_TABLES))

    @property
    def _is_at_rest(self) -> bool:
        return not (self.closed or self.in_transaction or self.was_cancelled)

    def renew(self) -> bool:
        """Takes out what triggers of the user's may have left: settings, a role, locks, temporary tables, what it listens to. Its
        server then counts what was written, as at its end. False where that cannot be done, and it is to be closed.

        Never over a pooler: there it might be done to another client's session.
        """
        if not self._is_at_rest or self.info.server_version < _FLUSHES_SINCE:
            return False
        try:
            if self.is_the_servers is None:
                whose = _SQL["whose"].format(pid=sql.Literal(self.info.backend_pid))
                self.is_the_servers = super().execute(whose).fetchone() == (True,)
            if self.is_the_servers:
                super().execute(_SQL["renew"])
        except psycopg.Error:
            return False
        self.ran_users_code = False
        return self.is_the_servers

    @property
    def is_alive(self) -> bool:
        """Whether its server has not ended it, as far as that is known here: to an idle one it says nothing else."""
        try:
            self.settle()
        except psycopg.Error:
            return False
        return not (self.closed or was_ended(self))

    def answers(self) -> bool:
        """Whether its server says something, and within ANSWER_SECONDS: a link may have broken unheard."""
        try:
            self.pgconn.send_query(b"")
            self.pgconn.flush()
            if not _heard(self, ANSWER_SECONDS):
                return False
            while self.pgconn.get_result() is not None:
                pass
        except psycopg.Error:
            return False
        return self.is_alive


_EXPECTED: ContextVar[Expected[Lent] | None] = ContextVar("expected", default=None)


@contextmanager
def expecting(conninfos: Iterable[str]) -> Iterator[None]:
    """Within the block whoever dials one of these addresses gets a connection that was begun with the block."""
    # A server counts connections that it is about to refuse: of many at once it may give fewer than it has.
    expected = Expected(_dial, lambda conninfo: _parted(conninfo)[0], lambda error: is_full(str(error)))
    for conninfo in conninfos:
        expected.expect(conninfo)
    token = _EXPECTED.set(expected)
    try:
        yield
    finally:
        _EXPECTED.reset(token)
        expected.close()


def dial(conninfo: str) -> Lent:
    """An autocommit connection, which nobody lends as yet: one that was expected, else a new one. Raises as psycopg does."""
    expected = _EXPECTED.get()
    found = None if expected is None else expected.take(conninfo)
    if found is None:
        return _dial(conninfo)
    found.name = _parted(conninfo)[1]  # it may have been dialled for something else
    return found


def _dial(conninfo: str) -> Lent:
    return Lent.connect(conninfo, autocommit=True, prepare_threshold=None)


def is_full(text: str) -> bool:
    """Whether a server that says so lives, and has no connection left to give."""
    return bool(_FULL.search(text))


def was_ended(conn: Session) -> bool:
    """Whether there is something to read from an idle connection: a server says nothing to one unless it ends it."""
    return _heard(conn, 0)


def _heard(conn: Session, seconds: float) -> bool:
    heard = select.poll()
    heard.register(conn.fileno(), select.POLLIN)
    return bool(heard.poll(1000 * seconds))


class Lender:
    """Connections that are not in use now, by database. Several threads take from it: each operation on a list is one step.

    `run` names its connections at their servers; without one each has the name of its first user's purpose. One that nobody has
    wanted for `spare_seconds` (SPARE_SECONDS) is closed, unless it keeps them `to_the_end`.
    """

    def __init__(self, run: str | None = None, *, to_the_end: bool = False, spare_seconds: float | None = None) -> None:
        self._run = run
        self._given_seconds = spare_seconds
        self._to_the_end = to_the_end
        self._free: dict[Hashable, list[Lent]] = {}
        self._over = Event()
        self._timer: Timer | None = None
        self._timing = Lock()
        _LENDERS.add(self)

    def connect(self, conninfo: str, look: Look | None = None) -> Session:
        """Raises as psycopg does."""
        database, name = _parted(conninfo)
        conn = self._spare(database)
        if conn is None:
            named = conninfo if self._run is None else _renamed(conninfo, f"{_PREFIX}{self._run}")
            conn = dial(named)
            conn.database, conn.dialled_at = database, time.monotonic()
        conn.name, conn.lender, conn.look, conn.wrote = name, self, look, False
        return conn

    @property
    def _spare_seconds(self) -> float:
        return SPARE_SECONDS if self._given_seconds is None else self._given_seconds

    @property
    def is_warm(self) -> bool:
        """Whether it has lent a connection before and got one back: then hardly anything is left to dial."""
        return any(self._free.values())

    def takes(self, conn: Lent) -> bool:
        """Whether it keeps `conn`, which its user is done with."""
        if self._over.is_set() or not (conn.is_clean or conn.renew()):
            return False
        conn.look, conn.given_back_at = None, time.monotonic()
        conn.count_received()
        self._free.setdefault(conn.database, []).append(conn)
        if self._over.is_set():  # it was closed meanwhile
            self._close_spare(0)
        else:
            self._begin_timer()
        return True

    def close(self) -> None:
        with self._timing:
            self._over.set()
            if self._timer is not None:
                self._timer.cancel()
        self._close_spare(0)

    def forget(self) -> None:
        """What a process begins with that was forked: its parent goes on with the connections, and with the timer."""
        if self._free:
            _THE_PARENTS.append(self._free)
        self._free, self._timer, self._timing = {}, None, Lock()

    def _spare(self, database: Hashable) -> Lent | None:
        free = self._free.get(database, [])
        while True:
            try:
                conn = free.pop()  # who has waited least: the others run out
            except IndexError:
                return None
            now = time.monotonic()
            is_fresh = self._to_the_end or now - conn.given_back_at <= SPARE_SECONDS
            if now - conn.dialled_at < SPARE_AGE_SECONDS and conn.is_alive and (is_fresh or conn.answers()):
                return conn
            conn.close()

    def _begin_timer(self) -> None:
        with self._timing:
            if self._timer is not None or self._to_the_end or self._over.is_set():
                return
            self._timer = Timer(self._spare_seconds, self._run_out)
            self._timer.daemon = True
            self._timer.start()

    def _run_out(self) -> None:
        with self._timing:
            self._timer = None
        self._close_spare(self._spare_seconds)
        if self.is_warm:
            self._begin_timer()

    def _close_spare(self, seconds: float) -> None:
        """Those that nobody has wanted for so long. Whoever takes one out of its list has it alone."""
        until = time.monotonic() - seconds
        for free in list(self._free.values()):
            for conn in [one for one in free if one.given_back_at <= until]:
                try:
                    free.remove(conn)
                except ValueError:
                    continue  # somebody has just been given it
                conn.close()


_LENDERS: Final[WeakSet[Lender]] = WeakSet()
_THE_PARENTS: Final = list[object]()
"""Connections that are never used, nor ended, here: that would be said over their parent's link."""


def _forget() -> None:
    for lender in list(_LENDERS):
        lender.forget()


os.register_at_fork(after_in_child=_forget)


@cache
def _parted(conninfo: str) -> tuple[Hashable, str]:
    """All that says which database it is and how it is reached, and the application's name."""
    given = conninfo_to_dict(conninfo)
    name = str(given.pop("application_name", ""))
    return tuple(sorted(given.items())), name


@cache
def _renamed(conninfo: str, name: str) -> str:
    return make_conninfo(conninfo, application_name=name)
