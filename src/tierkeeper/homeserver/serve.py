"""Runs the server: one process, TLS 1.3, bounded in what strangers can hold of it, until it is asked to end."""

import asyncio
import fcntl
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from tierkeeper.homeserver.api import create_app
from tierkeeper.homeserver.identity import Identity
from tierkeeper.homeserver.links import Bounded, Link, Listening, Loop
from tierkeeper.homeserver.scrub import Scrub
from tierkeeper.homeserver.vault import FOLDER, Vault
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.kernel.limits import REQUESTS_MAX, SCRUB_LOOK_SECONDS
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.ports import Stop
from tierkeeper.kernel.results import ServingResult

_log = Log()
_LOOK_SECONDS: Final = 0.2
_END_SECONDS: Final = 10  # that requests have to end in when the server is asked to
_HEADER_BYTES_MAX: Final = 16 * 1024
_KEEP_ALIVE_SECONDS: Final = 86_400  # the link itself ends idle connections, and knows what is still to be read


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
        with _alone(served.root / FOLDER), closing(Vault(served.root, clock)) as vault:
            is_new = not identity.exists()
            identity.ensure(clock.now())
            vault.start()
            context, scrub = identity.context(), Scrub(vault, clock, served.scrub_days)
            server = _server(create_app(vault, scrub, clock, identity.ca.read_text(encoding="ascii")), context)
            port = listening.getsockname()[1]
            notes = ["its authority was made: every client needs the enrolment string"] if is_new else []
            result = ServingResult(
                store=str(served.root), listen=f"{served.host}:{port}", enrolment=identity.enrolment(port), notes=notes
            )
            with asyncio.Runner(loop_factory=Loop) as runner:
                # On the loop's own thread, as the handshakes are: one amid the change of a certificate fails.
                reload = partial(runner.get_loop().call_soon_threadsafe, identity.load_into, context)
                with _keeping(vault, scrub, lambda: _renew(identity, clock, reload)):
                    runner.run(_run(server, listening, stop, lambda: announce(result)))


async def _run(server: uvicorn.Server, listening: socket.socket, stop: Stop, announce: Callable[[], None]) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(REQUESTS_MAX))  # none waits for the disk of another
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
        with Listening(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            yield sock
    except OSError as error:
        raise UsageError(place, f"it cannot be listened on ({error.strerror})", "Free the port, or write another one") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One server serves a folder: another would take the uploads that are under way for what a killed one left."""
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder / "serving", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(str(folder.parent), "another home server serves this folder", "End that one first") from None
    finally:
        os.close(fd)


@contextmanager
def _keeping(vault: Vault, scrub: Scrub, renew: Callable[[], None]) -> Iterator[None]:
    """Beside the requests: the scrub, uploads that nobody goes on with, the leaf's renewal."""
    ending = threading.Event()

    def keep() -> None:
        while True:
            for work in (lambda: scrub.turn(ending.is_set), vault.sweep, renew):
                try:
                    work()
                except TierkeeperError as error:
                    _log.error("the server's own work failed", place=error.place, cause=error.cause, remedy=error.remedy)
                except Exception:  # noqa: BLE001 - a scrub that has ended in silence helps nobody
                    _log.exception("the server's own work failed")
            if ending.wait(SCRUB_LOOK_SECONDS):
                return

    thread = threading.Thread(target=keep, name="keeping")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _renew(identity: Identity, clock: Clock, reload: Callable[[], object]) -> None:
    if identity.ensure(clock.now()):
        reload()
        _log.info("the server's certificate was renewed")


def _server(app: FastAPI, context: ssl.SSLContext) -> uvicorn.Server:
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        Bounded(app),
        http=Link,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
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
