"""The audit trail on Main: an intent before an action, an outcome after it."""

import getpass
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from threading import Timer
from typing import Any
from uuid import UUID, uuid4

import psycopg

from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.kernel.limits import AUDIT_KEPT_SECONDS
from tierkeeper.kernel.log import Log
from tierkeeper.postgres.keeping import shares
from tierkeeper.postgres.lending import was_ended
from tierkeeper.postgres.link import Connection, Link, transaction, translated
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.security", "audit.sql")
_log = Log()


def actor() -> str:
    """user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class NoTrailYet(UsageError):  # noqa: N818 - as NotNow
    """Main has no audit, which a setup makes."""


class LoggedAudit:
    """Implements `kernel.ports.Audit` where Main holds no trail, and why: the program's log has it."""

    def __init__(self, why: str = "Main is gone") -> None:
        self._why = why

    @contextmanager
    def action(self, verb: str, subject: str, detail: Mapping[str, Any]) -> Iterator[Callable[..., None]]:
        outcome = dict[str, Any]()
        _log.warning(f"not audited: {self._why}", verb=verb, subject=subject, **detail)
        yield outcome.update
        _log.warning("done, and not audited", verb=verb, subject=subject, **outcome)


class PostgresAudit:
    """Implements `kernel.ports.Audit`. Keeps I7: without a durable intent the action does not run."""

    def __init__(self, main: Link) -> None:
        self._main = main

    @contextmanager
    def action(self, verb: str, subject: str, detail: Mapping[str, Any]) -> Iterator[Callable[..., None]]:
        action, outcome = (uuid4(), verb, subject), dict[str, Any]()
        with closing(_Dialled(self._main)) as dialled:
            _note(dialled, action, "intent", detail)
            try:
                yield outcome.update
            except BaseException as error:
                cause = error.cause if isinstance(error, TierkeeperError) else type(error).__name__
                try:
                    _note(dialled, action, "outcome", {**outcome, "failed": cause})
                except TierkeeperError as unheard:
                    # Main is away: the intent without an outcome says so by itself, and the first error is the one to tell.
                    _log.warning("audit outcome not written", action=str(action[0]), cause=unheard.cause)
                raise
            _note(dialled, action, "outcome", outcome)

    def intended(self, verb: str, subject: str, detail: Mapping[str, Any]) -> bool:
        """Whether there is an intent of such an action, with `detail` among its own."""
        with translated("audit (main)"), closing(self._main.connect("audit")) as conn, transaction(conn, read_only=True) as cur:
            given = {"verb": verb, "subject": subject, "detail": json.dumps(detail)}
            ((found,),) = cur.execute(_SQL["intended"], given).fetchall()
            return bool(found)


def _note(dialled: "_Dialled", action: tuple[UUID, str, str], kind: str, detail: Mapping[str, Any]) -> None:
    action_id, verb, subject = action
    with translated("audit (main)"), dialled.taken() as conn, transaction(conn) as cur:
        try:
            cur.last(_SQL["note"], {
                "actor": actor(), "action": action_id, "kind": kind, "verb": verb, "subject": subject,
                "detail": json.dumps(detail, default=str),
            })  # fmt: skip
        except psycopg.errors.UndefinedTable:
            cause = "Main is not set up yet, so that nothing can be recorded"
            raise NoTrailYet("tiers.main", cause, "Run 'tierkeeper setup --apply' first") from None


class _Dialled:
    """A connection for the intent and, where the action is over within AUDIT_KEPT_SECONDS, for the outcome as well: dialling
    takes as long as a short action. During a longer one it is given back.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free: list[Connection] = []  # whoever pops it, the next note or the timer, has it alone
        self._timer = Timer(AUDIT_KEPT_SECONDS, self._give_back)
        self._timer.daemon = True

    @contextmanager
    def taken(self) -> Iterator[Connection]:
        """The connection, if it is there and its server has not ended it, else a new one; kept unless the block raises."""
        conn = self._taken_back()
        if conn is not None and was_ended(conn):
            conn.close()
            conn = None
        conn = conn or self._link.connect("audit")
        try:
            yield conn
        except BaseException:
            conn.close()
            raise
        if shares():
            conn.close()  # and the run keeps it, for its other parts too
            return
        self._free.append(conn)
        if self._timer.ident is None:
            self._timer.start()

    def _taken_back(self) -> Connection | None:
        try:
            return self._free.pop()
        except IndexError:
            return None

    def close(self) -> None:
        self._timer.cancel()
        self._give_back()

    def _give_back(self) -> None:
        conn = self._taken_back()
        if conn is not None:
            conn.close()
