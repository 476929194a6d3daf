"""Sockets, and the small servers behind them: what a browser, a scraper or our own command line asks of a running process.

They serve in a thread of their own while their owner does something else, and end with it. Signals stay the program's.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.limits import BODY_READ_SECONDS

_THREADS: Final = 8  # requests that are answered at once: each may wait for whom it asks
_START_SECONDS: Final = 10.0
_END_SECONDS: Final = 2  # that requests have to end in
_CONNECTIONS: Final = 64  # at once, on each listener: a scraper and a few browsers need less


@contextmanager
def serve(listening: Sequence[tuple[FastAPI, socket.socket]], name: str) -> Iterator[None]:
    """Serves each app on its socket while the block runs, then closes the sockets. Raises Failed where it does not begin."""
    servers = [(_server(app), sock) for app, sock in listening]
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_serve(servers))
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for the start
            failed.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        for _ in range(int(_START_SECONDS / 0.02)):
            if failed:
                raise Failed(name, f"it did not begin ({type(failed[0]).__name__})", "Report it")
            if all(server.started for server, _ in servers):
                break
            thread.join(0.02)
        yield
    finally:
        for server, _ in servers:
            server.should_exit = True
        thread.join(_END_SECONDS + _START_SECONDS)
        for _, sock in servers:
            sock.close()


async def _serve(servers: "Sequence[tuple[_Server, socket.socket]]") -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    await asyncio.gather(*(server.serve([sock]) for server, sock in servers))


def tcp_socket(address: tuple[str, int], setting: str) -> socket.socket:
    """One that listens: who connects before `serve` waits for it. Raises UsageError, naming the `setting`, for a taken one."""
    host, port = address
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        with suppress(OSError):
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(where)
            listening.listen(_CONNECTIONS)  # else another could bind the same port, and only one of the two would hear of it
        except OSError:
            listening.close()
            raise
    except OSError as error:
        place, cause = f"{setting} ({host}:{port})", f"it cannot be listened on ({error.strerror})"
        raise UsageError(place, cause, "Free the port, or write another one") from None
    return listening


class _Link(H11Protocol):
    """One connection: it has a time to ask something in, and where there are many, the oldest that asks nothing makes place.

    What a peer holds here is taken from the descriptors that checks and state files need.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._made_at = self.loop.time()
        self._due = self.loop.call_later(BODY_READ_SECONDS, self._is_over)
        if len(self.connections) >= _CONNECTIONS:
            idle = [link for link in self.connections if isinstance(link, _Link) and not link._is_busy()]
            oldest = min(idle, key=lambda link: link._made_at)
            self.connections.discard(oldest)  # uvicorn counts it until its end is handled, and would refuse others for it
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._due.cancel()
        super().connection_lost(exc)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_over(self) -> None:
        if self._is_busy():
            self._due = self.loop.call_later(BODY_READ_SECONDS, self._is_over)
        else:
            self.transport.abort()


def _server(app: FastAPI) -> "_Server":
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return _Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=_Link,
            backlog=_CONNECTIONS,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=BODY_READ_SECONDS,
            timeout_graceful_shutdown=_END_SECONDS,
        )
    )


class _Server(uvicorn.Server):
    """Leaves the signals to the program."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
