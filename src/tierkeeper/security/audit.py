"""The audit trail on Main: an intent before an action, an outcome after it."""

import getpass
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg

from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.kernel.log import Log
from tierkeeper.postgres.link import Link, transaction, translated
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


class LoggedAudit:
    """Implements `kernel.ports.Audit` where Main is gone for good and holds no trail: the program's log has it."""

    @contextmanager
    def action(self, verb: str, subject: str, detail: Mapping[str, Any]) -> Iterator[Callable[..., None]]:
        outcome = dict[str, Any]()
        _log.warning("not audited: Main is gone", verb=verb, subject=subject, **detail)
        yield outcome.update
        _log.warning("done, and not audited", verb=verb, subject=subject, **outcome)


class PostgresAudit:
    """Implements `kernel.ports.Audit`. Keeps I7: without a durable intent the action does not run."""

    def __init__(self, main: Link) -> None:
        self._main = main

    @contextmanager
    def action(self, verb: str, subject: str, detail: Mapping[str, Any]) -> Iterator[Callable[..., None]]:
        action_id, outcome = uuid4(), dict[str, Any]()
        self._note(action_id, "intent", verb, subject, detail)
        try:
            yield outcome.update
        except BaseException as error:
            cause = error.cause if isinstance(error, TierkeeperError) else type(error).__name__
            try:
                self._note(action_id, "outcome", verb, subject, {**outcome, "failed": cause})
            except TierkeeperError as unheard:
                # Main is away: the intent without an outcome says so by itself, and the first error is the one to tell.
                _log.warning("audit outcome not written", action=str(action_id), cause=unheard.cause)
            raise
        self._note(action_id, "outcome", verb, subject, outcome)

    def _note(self, action_id: UUID, kind: str, verb: str, subject: str, detail: Mapping[str, Any]) -> None:
        with self._main.connect("audit") as conn, translated("audit (main)"), transaction(conn) as cur:
            try:
                cur.execute(_SQL["note"], {
                    "actor": actor(), "action": action_id, "kind": kind, "verb": verb, "subject": subject,
                    "detail": json.dumps(detail, default=str),
                })  # fmt: skip
            except psycopg.errors.UndefinedTable:
                cause = "Main is not set up yet, so that nothing can be recorded"
                raise UsageError("tiers.main", cause, "Run 'tierkeeper setup --apply' first") from None
