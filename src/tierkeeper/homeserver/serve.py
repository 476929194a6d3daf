"""Runs the server: one process, TLS 1.3, bounded in what strangers can hold of it, until it is asked to end."""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tierkeeper.homeserver.api import create_app
from tierkeeper.homeserver.identity import Identity
from tierkeeper.homeserver.scrub import Scrub
from tierkeeper.homeserver.vault import FOLDER, Vault
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.kernel.limits import BODY_READ_SECONDS, REQUESTS_MAX, SCRUB_LOOK_SECONDS
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import ServingResult

_log = structlog.get_logger()
_LOOK_SECONDS: Final = 0.2
_END_SECONDS: Final = 10  # that requests have to end in when the server is asked to
_GOODBYE_SECONDS: Final = 0.3
_HEADER_BYTES_MAX: Final = 16 * 1024
_KEEP_ALIVE_SECONDS: Final = 60


@dataclass(frozen=True)
class Served:
    """What is served and where. `names`: host names and addresses that clients may use, the first in the enrolment string."""

    root: Path
    host: str
    port: int
    names: tuple[str, ...]
    scrub_days: int

    @property
    def identity(self) -> Identity:
        return Identity(self.root / FOLDER, self.names)


def serve(served: Served, clock: Clock, stop: Stop, announce: Callable[[ServingResult], None]) -> None:
    """Serves until `stop` says so. `announce` is called once it listens. Raises UsageError where it cannot."""
    identity = served.identity
    with _listening(served) as listening:
        if not served.root.is_dir():
            cause = "there is no such folder"
            raise UsageError(f"ARCHIVE_PATH ({served.root})", cause, "Mount its disk, or make the folder, then start again")
        is_new = not identity.exists()
        identity.ensure(clock.now())
        vault = Vault(served.root, clock)
        try:
            vault.start()
            context, scrub = identity.context(), Scrub(vault, clock, served.scrub_days)
            server = _server(create_app(vault, scrub, clock, identity.ca.read_text(encoding="ascii")), context)
            port = listening.getsockname()[1]
            notes = ["its authority was made: every client needs the enrolment string"] if is_new else []
            result = ServingResult(
                store=str(served.root), listen=f"{served.host}:{port}", enrolment=identity.enrolment(port), notes=notes
            )
            with _keeping(vault, scrub, identity, context, clock):
                asyncio.run(_run(server, listening, stop, lambda: announce(result)))
        finally:
            vault.close()


async def _run(server: uvicorn.Server, listening: socket.socket, stop: Stop, announce: Callable[[], None]) -> None:
    serving = asyncio.create_task(server.serve([listening]))
    announced = False
    while not serving.done():
        await asyncio.sleep(_LOOK_SECONDS / 10 if not announced else _LOOK_SECONDS)
        if server.started and not announced:
            announced = True
            announce()
        if stop() is not None:
            server.should_exit = True
    await serving


@contextmanager
def _listening(served: Served) -> Iterator[socket.socket]:
    place = f"homeserver.listen ({served.host}:{served.port})"
    try:
        found = socket.getaddrinfo(served.host, served.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            yield sock
    except OSError as error:
        raise UsageError(place, f"it cannot be listened on ({error.strerror})", "Free the port, or write another one") from error


@contextmanager
def _keeping(vault: Vault, scrub: Scrub, identity: Identity, context: ssl.SSLContext, clock: Clock) -> Iterator[None]:
    """Beside the requests: the scrub, uploads that nobody goes on with, the leaf's renewal."""
    ending = threading.Event()

    def keep() -> None:
        while True:
            for work in (lambda: scrub.turn(ending.is_set), vault.sweep, lambda: _renew(identity, context, clock)):
                try:
                    work()
                except TierkeeperError as error:
                    _log.error("the server's own work failed", place=error.place, cause=error.cause, remedy=error.remedy)
                except OSError as error:
                    _log.error("the server's own work failed", cause=str(error))
            if ending.wait(SCRUB_LOOK_SECONDS):
                return

    thread = threading.Thread(target=keep, name="keeping")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _renew(identity: Identity, context: ssl.SSLContext, clock: Clock) -> None:
    if identity.ensure(clock.now()):
        identity.load_into(context)  # for the connections that come
        _log.info("the server's certificate was renewed")


def _server(app: object, context: ssl.SSLContext) -> uvicorn.Server:
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # FastAPI is an ASGI application
        http=_Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=REQUESTS_MAX,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_END_SECONDS,
        h11_max_incomplete_event_size=_HEADER_BYTES_MAX,
        ssl_context_factory=lambda _, __: context,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Leaves the signals to the program."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """Closes connections whose headers do not come in time, and does not wait for idle clients to agree to an end.

    uvicorn would wait for both, for the second as long as TLS lets a peer take to say goodbye.
    """

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._headers_came()
        elif self._headers_due is None and self.cycle is not None and self.cycle.response_complete:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_GOODBYE_SECONDS, self.transport.abort)

    def _await_headers(self) -> None:
        self._headers_due = self.loop.call_later(BODY_READ_SECONDS, self._too_late)

    def _headers_came(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
