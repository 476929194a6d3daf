"""The control interface: on a socket that only this user can open, and, where it is asked for, what may be read over TCP.

Each request is answered by the brain's own thread, through `do`. Nothing that is reached over TCP changes anything.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from tierkeeper.balance.sockets import near
from tierkeeper.kernel.errors import Exit, TierkeeperError, UsageError
from tierkeeper.kernel.results import BalanceStatusResult, DrainResult, ErrorDocument, ReloadResult, told
from tierkeeper.web import dashboard, gauges
from tierkeeper.web.serving import serve, tcp_socket

T = TypeVar("T")
_STATUS: Final = {Exit.USAGE: HTTPStatus.BAD_REQUEST, Exit.NOT_NOW: HTTPStatus.SERVICE_UNAVAILABLE}
_FAULTS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorDocument, "description": words}
    for status, words in ((400, "something in it is not known or wrong"), (500, "it failed"), (503, "not now: try again"))
}


class Balancing(Protocol):
    """The brain, as this interface needs it."""

    def do(self, work: Callable[[], T]) -> T: ...

    def status(self, *, running: bool = True) -> BalanceStatusResult: ...

    def drain(self, service: str, backend: str, *, drained: bool) -> DrainResult: ...

    def reload(self) -> ReloadResult: ...


Audited = Callable[[str, str], AbstractContextManager[list[str]]]
"""`audited(verb, subject)`: writes the intent, runs the block, writes the outcome; what it yields are notes about that."""


class Which(BaseModel):
    """A backend of a service."""

    model_config = ConfigDict(extra="forbid")
    service: str = Field(max_length=200)
    backend: str = Field(max_length=300)


@dataclass(frozen=True)
class Control:
    """What is served. `audited` is called in a thread of the request's, never in the brain's: Main may be slow."""

    brain: Balancing
    audited: Audited
    asides: Callable[[], list[str]] = list
    """What of the configuration a reload leaves as it was."""

    def status(self) -> BalanceStatusResult:
        return self.brain.do(self.brain.status)

    def drain(self, which: Which, *, drained: bool) -> DrainResult:
        with self.audited("balance drain" if drained else "balance undrain", f"{which.service} {which.backend}") as notes:
            result = self.brain.do(lambda: self.brain.drain(which.service, which.backend, drained=drained))
        return result.model_copy(update={"notes": [*result.notes, *notes]})

    def reload(self) -> ReloadResult:
        with self.audited("balance reload", "configuration") as notes:
            result = self.brain.do(self.brain.reload)
        return result.model_copy(update={"notes": [*result.notes, *notes, *self.asides()]})


def control_app(control: Control) -> FastAPI:
    """For the socket: what may be asked and done."""
    app = _app("tierkeeper balance")

    @app.get("/status")
    def status() -> BalanceStatusResult:
        """How all stands."""
        return control.status()

    @app.post("/drain")
    def drain(which: Which) -> DrainResult:
        """Nothing new goes to the backend; what it has begun it may end. Holds until `undrain`, whatever is restarted."""
        return control.drain(which, drained=True)

    @app.post("/undrain")
    def undrain(which: Which) -> DrainResult:
        """Traffic again."""
        return control.drain(which, drained=False)

    @app.post("/reload")
    def reload() -> ReloadResult:
        """Reads the configuration anew; a wrong one changes nothing."""
        return control.reload()

    _add_metrics(app, control)
    return app


def metrics_app(control: Control) -> FastAPI:
    """For TCP: what may be read."""
    app = _app("tierkeeper balance metrics")
    _add_metrics(app, control)

    @app.get("/", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        """For a person."""
        return HTMLResponse(dashboard.page(control.status()), headers=dashboard.HEADERS)

    return app


def _add_metrics(app: FastAPI, control: Control) -> None:
    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """For Prometheus."""
        return Response(gauges.text(control.status()), media_type=gauges.CONTENT_TYPE)


def _app(title: str) -> FastAPI:
    app = FastAPI(title=title, version="1", docs_url=None, redoc_url=None, openapi_url=None, responses=_FAULTS)

    @app.exception_handler(TierkeeperError)
    async def ours(_: Request, error: TierkeeperError) -> JSONResponse:
        return _error(error, _STATUS.get(error.exit_code, HTTPStatus.INTERNAL_SERVER_ERROR))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        cause = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        return _error(
            UsageError("the request", cause, 'Send {"service": "NAME", "backend": "host:port"}'), HTTPStatus.BAD_REQUEST
        )

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        fault = UsageError("the request", str(error.detail), "Ask for /status, /metrics, /drain, /undrain or /reload")
        return _error(fault, HTTPStatus(error.status_code))

    return app


def _error(error: TierkeeperError, status: HTTPStatus) -> JSONResponse:
    results = told([error])
    document = ErrorDocument(error=results if len(results) > 1 else results[0])
    return JSONResponse(document.model_dump(mode="json"), status)


@contextmanager
def interface(
    brain: Balancing, audited: Audited, asides: Callable[[], list[str]], path: Path, metrics: tuple[str, int] | None
) -> Iterator[Callable[[], ReloadResult]]:
    """Serves while the block runs, as `serving` does; gives the reload that is audited, for a signal."""
    control = Control(brain, audited, asides)
    with serving(control, path, metrics):
        yield control.reload


@contextmanager
def serving(control: Control, path: Path, metrics: tuple[str, int] | None) -> Iterator[tuple[str, int] | None]:
    """Serves in a thread while the block runs; gives the TCP address that it has. Raises UsageError for one that is taken."""
    tcp = None if metrics is None else tcp_socket(metrics, "balance.metrics")
    try:
        unix = _unix(path)
    except BaseException:
        if tcp is not None:
            tcp.close()
        raise
    listening = [(control_app(control), unix)]
    if tcp is not None:
        listening.append((metrics_app(control), tcp))
    try:
        with serve(listening, "the balancer's interface"):
            yield None if tcp is None else tcp.getsockname()[:2]
    finally:
        path.unlink(missing_ok=True)


def _unix(path: Path) -> socket.socket:
    """Bound so that at no instant another user could connect. What lies there is of a dead brain: the caller holds the lock."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # the name that bind makes has the mode of the socket
        with near(path) as name:
            listening.bind(name)
        path.chmod(0o600)
    except OSError as error:
        listening.close()
        raise UsageError(str(path), f"it cannot be listened on ({error.strerror})", "See whose folder that is") from None
    return listening
