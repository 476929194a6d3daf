"""What a peer can hold of the server: a place among the connections for a while, and only if it goes on.

uvicorn counts connections as requests; it lets the body of an answered request come, and an answer be read, at any pace.
"""

import asyncio
import errno
import fcntl
import os
import socket
import termios
from array import array
from contextlib import suppress
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.h11_impl import H11Protocol

from tierkeeper.kernel.limits import (
    BODY_PIECE_BYTES,
    BODY_READ_SECONDS,
    CONNECT_SECONDS,
    CONNECTIONS_MAX,
    REQUESTS_MAX,
    SEND_BYTES,
)

_GOODBYE_SECONDS: Final = 0.3


class Link(H11Protocol):
    """One connection.

    It has BODY_READ_SECONDS while no request is under way, whatever comes meanwhile, and for each BODY_PIECE_BYTES of an answer
    that waits to be taken. Where there are too many connections, the one that is idle for longest makes place.
    """

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=SEND_BYTES)
        self._watch()
        if len(self.connections) > CONNECTIONS_MAX:
            idle = [link for link in self.connections if isinstance(link, Link) and not link._is_busy()]
            min(idle, key=Link._due_at).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Does not wait for idle clients to agree to an end: TLS would give them as long as it likes."""
        super().shutdown()
        if not self._is_busy():
            self.loop.call_later(_GOODBYE_SECONDS, self.transport.abort)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """Has a time run while the peer, and not this server, is to go on."""
        if self._is_busy() and not self.flow.write_paused:
            self._stop_watching()
        elif self._due is None:
            self._give_time()

    def _stop_watching(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_time(self) -> None:
        self._due = self.loop.call_later(BODY_READ_SECONDS, self._is_over, self._left_bytes())

    def _is_over(self, before_bytes: int) -> None:
        left_bytes = self._left_bytes()
        if left_bytes == 0:
            self.transport.close()
        elif left_bytes > before_bytes - BODY_PIECE_BYTES:
            self.transport.abort()
        else:
            self._give_time()

    def _left_bytes(self) -> int:
        """What the peer has not taken yet. The system holds some megabytes of it, and takes more in large steps only."""
        queued = array("i", [0])
        with suppress(OSError, ValueError):  # it is closed already
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return int(self.transport.get_write_buffer_size()) + queued[0]

    def _due_at(self) -> float:
        return self._due.when() if self._due is not None else 0.0


class Bounded:
    """Answers REQUESTS_MAX requests at a time; more are told to come again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._under_way >= REQUESTS_MAX:
            await service_unavailable(scope, receive, send)  # type: ignore[arg-type]  # uvicorn's names for the same
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1


class Listening(socket.socket):
    """Takes no more connections than leave descriptors for files, also of peers that have not shaken hands yet."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._taken: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """Says that there are no descriptors left where that would be so: the loop then tries again a second later."""
        if len(self._taken) >= 2 * CONNECTIONS_MAX:
            self._taken = [taken for taken in self._taken if taken.fileno() >= 0]
        if len(self._taken) >= 2 * CONNECTIONS_MAX:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        taken, address = super().accept()
        self._taken.append(taken)
        return taken, address


class Loop(asyncio.SelectorEventLoop):
    """Bounds how long a peer may take to shake hands, and to say goodbye."""

    async def create_server(self, *args: Any, **more: Any) -> asyncio.Server:
        return await super().create_server(
            *args, **more, ssl_handshake_timeout=CONNECT_SECONDS, ssl_shutdown_timeout=BODY_READ_SECONDS
        )
