"""The questions that a backend is asked, one kind for each protocol. Each ends by its deadline and reads a bounded answer.

A question may keep something open between two askings (a Postgres session): `watched` is then the socket that speaks up by
itself when the server ends. Nothing here decides what an answer means for traffic.
"""

import http.client
import io
import math
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tierkeeper.balance.health import Answer
from tierkeeper.balance.pools import Ask, Node
from tierkeeper.balance.primary import Claim
from tierkeeper.balance.roles import claimed
from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.postgres.link import Connection, Full, Link, UnwelcomeError, transaction, translate

if TYPE_CHECKING:
    from typing_extensions import Buffer

BODY_BYTES: Final = 64 * 1024  # of an answer are looked at: a health page is small, and a backend is not to fill our memory
_SERVER_ERROR: Final = 500
_AT_ONCE: Final = 64  # backends that are asked once beside each other: they wait, and cost a thread each


@dataclass(frozen=True)
class Heard:
    """What came of one asking; `claim` is what a Postgres node said of itself.

    `lives`: it has answered, and gave us no session: it is full, or knows our password no more. `refused`: the fault lies in the
    address, the role or a certificate.
    """

    answer: Answer
    claim: Claim | None = None
    lives: bool = False
    refused: bool = False


class Question(Protocol):
    """How one backend is asked. One thread asks; `abort` may be called from another, and makes the asking end at once."""

    def ask(self) -> Heard:
        """Asks once. Never raises for what the backend does."""
        ...

    def watched(self) -> int | None:
        """The descriptor of a socket that becomes readable when something is to be known before the next asking."""
        ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


def question(ask: Ask, node: Node) -> Question:
    """The question for a backend."""
    if ask.protocol == "postgres":
        return PostgresQuestion(ask, node)
    return HttpQuestion(ask, node) if ask.protocol == "http" else TcpQuestion(ask, node)


def once(ask: Ask, node: Node) -> Heard:
    """Asks a backend once."""
    with closing(question(ask, node)) as asked:
        return asked.ask()


def each_once(backends: Sequence[tuple[Ask, Node]]) -> list[Heard]:
    """Asks each once, beside each other; the answers come in their order."""
    if not backends:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(backends))) as pool:
        return list(pool.map(lambda one: once(*one), backends))


class _Socketed:
    """Keeps the socket that is being talked over, so that another thread can end the talk."""

    def __init__(self, ask: Ask, node: Node) -> None:
        self._ask, self._node = ask, node
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def watched(self) -> int | None:
        return None

    def abort(self) -> None:
        with self._lock, suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.abort()

    def _connected(self, until: float) -> socket.socket:
        backend = self._node.backend
        made = socket.create_connection((backend.host, backend.port), _left(until))
        with self._lock:
            self._socket = made
        return made

    def _done(self, used: socket.socket) -> None:
        with self._lock:
            self._socket = None
        used.close()


class TcpQuestion(_Socketed):
    """A connection that is closed again."""

    def ask(self) -> Heard:
        began = time.monotonic()
        try:
            self._done(self._connected(began + self._ask.timeout_seconds))
        except OSError as error:
            return Heard(Answer(False, _words(error, self._ask), time.monotonic() - began))
        return Heard(Answer(True, "it takes connections", time.monotonic() - began))


class HttpQuestion(_Socketed):
    """A GET over HTTP/1.1, on a connection of its own. Redirects are not followed."""

    def __init__(self, ask: Ask, node: Node) -> None:
        super().__init__(ask, node)
        parts = urlsplit(node.address)
        path = parts.path if parts.path not in ("", "/") else ask.path
        self._target = f"{path}?{parts.query}" if parts.query else path
        self._host = parts.netloc.rpartition("@")[2]
        self._context: tuple[int | None, ssl.SSLContext] | None = None

    def ask(self) -> Heard:
        began = time.monotonic()
        until = began + self._ask.timeout_seconds
        try:
            status, body = self._get(until)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Heard(Answer(False, _words(error, self._ask), time.monotonic() - began))
        reason = judge(self._ask, status, body)
        return Heard(Answer(reason is None, reason or f"it answers with status {status}", time.monotonic() - began))

    def _verifying(self) -> ssl.SSLContext:
        """By the CAs that the file has now: it may be renewed in its place."""
        ca = self._ask.backend_ca
        changed = None if ca is None else Path(ca).stat().st_mtime_ns
        if self._context is None or self._context[0] != changed:
            self._context = (changed, ssl.create_default_context(cafile=ca))
        return self._context[1]

    def _get(self, until: float) -> tuple[int, bytes]:
        plain = self._connected(until)
        try:
            used = plain
            if self._node.backend.tls:
                context = self._verifying()
                plain.settimeout(_left(until))
                used = context.wrap_socket(plain, server_hostname=self._node.backend.host)
                with self._lock:
                    self._socket = used
            used.settimeout(_left(until))
            lines = (f"GET {self._target} HTTP/1.1", f"Host: {self._host}", "User-Agent: tierkeeper", "Accept: */*")
            used.sendall("\r\n".join((*lines, "Connection: close", "", "")).encode("latin-1", "replace"))
            answer = http.client.HTTPResponse(_Deadlined(used, until), method="GET")  # type: ignore[arg-type]  # it asks for makefile alone
            answer.begin()
            # A body that nobody looks for is not waited for: a stream of events has no end.
            return answer.status, answer.read(BODY_BYTES) if self._ask.body is not None else b""
        finally:
            self._done(self._socket or plain)
            plain.close()


def judge(ask: Ask, status: int, body: bytes) -> str | None:
    """Why an answer is not well; None where it is."""
    if ask.status and status not in ask.status:
        return f"it answers with status {status}, and not with {' or '.join(map(str, ask.status))}"
    if not ask.status and status >= _SERVER_ERROR:
        return f"it answers with status {status}"
    if ask.body is not None and ask.body.encode() not in body:
        return f"its answer lacks {ask.body[:80]!r} in its first 64 kB"
    return None


class _Deadlined(io.RawIOBase):
    """A socket's bytes up to one instant, however slowly they come; a time-out for each piece would let them drip for ever."""

    def __init__(self, used: socket.socket, until: float) -> None:
        self._used, self._until = used, until

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        self._used.settimeout(_left(self._until))
        return self._used.recv_into(buffer)


class _Session:
    """A session that stays open between two askings, and can be given up from another thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._conn: Connection | None = None
        self._given_up = False

    def watched(self) -> int | None:
        return None if self._conn is None or self._conn.closed else self._conn.fileno()

    def abort(self) -> None:
        self._given_up = True
        _shut(self._conn)

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(psycopg.Error):
                conn.pgconn.finish()  # without a word to a server that may hang


class PostgresQuestion(_Session):
    """What a node says of itself, over a session that stays open: its end is the first sign of the server's end."""

    def __init__(self, ask: Ask, node: Node) -> None:
        self._ask = ask
        address = node.address
        if "connect_timeout=" not in address:
            address += (
                f"{'&' if '?' in address else '?'}connect_timeout={max(2, math.ceil(ask.timeout_seconds))}"  # libpq's least is 2
            )
        super().__init__(Link(f"-{node.name}", address, ask.backend_ca))
        self._may_read_control = True

    def ask(self) -> Heard:
        began = time.monotonic()
        was_open, self._given_up = self._conn is not None, False
        try:
            try:
                claim = self._claim()
            except psycopg.Error:
                if not was_open or self._given_up:
                    raise
                self.close()  # the session may have ended alone, and the server be well
                claim = self._claim()
        except (psycopg.Error, TierkeeperError) as error:
            self.close()
            cause = error.cause if isinstance(error, TierkeeperError) else translate(error, "").cause
            return Heard(Answer(False, cause, time.monotonic() - began), lives=isinstance(error, Full | UnwelcomeError))
        return Heard(Answer(True, _role(claim), time.monotonic() - began), claim)

    def _claim(self) -> Claim:
        if self._conn is None:
            self._conn = self._link.connect("balance")
            self._may_read_control = True
        claim, self._may_read_control = claimed(self._row, may_read_control=self._may_read_control)
        return claim

    def _row(self, statement: sql.SQL) -> tuple[Any, ...]:
        assert self._conn is not None  # noqa: S101 - _claim has just made it
        with transaction(self._conn, read_only=True) as cur:
            (row,) = cur.last(statement).fetchall()
            return tuple(row)


class LinkQuestion(_Session):
    """Whether a Postgres answers, over a session that stays open."""

    def ask(self) -> Heard:
        began, self._given_up = time.monotonic(), False
        for was_open in (self._conn is not None, False):
            try:
                if self._conn is None:
                    self._conn = self._link.connect("balance")
                with transaction(self._conn, read_only=True) as cur:
                    cur.last("SELECT 1").fetchall()
            except (psycopg.Error, TierkeeperError) as error:
                self.close()
                if was_open and not self._given_up:
                    continue  # the session may have ended alone, and the server be well
                ours = error if isinstance(error, TierkeeperError) else translate(error, "")
                answer = Answer(False, ours.cause, time.monotonic() - began)
                return Heard(answer, lives=isinstance(ours, Full), refused=isinstance(ours, UsageError))
            break
        return Heard(Answer(True, "it answers", time.monotonic() - began))


def _shut(conn: Connection | None) -> None:
    """Ends what another thread waits for on it."""
    with suppress(OSError, psycopg.Error, ValueError):
        if conn is not None:
            with socket.socket(fileno=socket.dup(conn.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


def _role(claim: Claim) -> str:
    role = f"it says that it is {'primary' if claim.writable else 'a replica'}"
    return role if claim.system is not None else f"{role}; its role may not say which database system it is"


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _words(error: Exception, ask: Ask) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return f"it gave no answer within {ask.timeout_seconds:g} s"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, OSError):
        return f"no connection ({error.strerror or type(error).__name__})"
    return f"its answer is not HTTP ({type(error).__name__})"
