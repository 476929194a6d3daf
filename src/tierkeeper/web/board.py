"""The page of the tiers over HTTP: what may be read, by whom. Nothing here changes anything or asks a tier by itself."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from socket import socket

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from tierkeeper.kernel.results import BoardResult
from tierkeeper.web import overview
from tierkeeper.web.fresh import Fresh
from tierkeeper.web.serving import serve, tcp_socket

SETTING = "dashboard.listen"


@dataclass(frozen=True)
class Place:
    """A socket that listens, and its address for a browser."""

    socket: socket
    url: str


def bind(address: tuple[str, int], setting: str = SETTING) -> Place:
    """Listens there. Raises UsageError that names the `setting`, where the address is taken or none of this machine's."""
    sock = tcp_socket(address, setting)
    host, port = sock.getsockname()[:2]
    shown = "127.0.0.1" if host == "0.0.0.0" else "[::1]" if host == "::" else f"[{host}]" if ":" in host else host  # noqa: S104
    return Place(sock, f"http://{shown}:{port}/")


@contextmanager
def serving(place: Place, look: Callable[[], BoardResult], names: tuple[str, ...] = ()) -> Iterator[str]:
    """Serves the page while the block runs, and gives its address. `look` is asked at most once in its `fresh_seconds`."""
    with serve([(app(Fresh(look), names), place.socket)], "the page"):
        yield place.url


def app(fresh: Fresh, names: tuple[str, ...] = ()) -> FastAPI:
    """`/` for a person, `/board.json` for a program."""
    made = FastAPI(title="tierkeeper", version="1", docs_url=None, redoc_url=None, openapi_url=None)

    @made.middleware("http")
    async def known(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        if not is_known(request.headers.get("host", ""), names):
            return PlainTextResponse(_STRANGER, HTTPStatus.MISDIRECTED_REQUEST, headers=overview.HEADERS)
        answer = await call(request)
        answer.headers.update(overview.HEADERS)
        return answer

    @made.get("/", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        """For a person."""
        return HTMLResponse(overview.page(fresh.get()))

    @made.get("/board.json")
    def board() -> BoardResult:
        """For a program."""
        return fresh.get()

    return made


_STRANGER = "This page does not know that name. Where it is right, write it under [dashboard] names in tierkeeper.toml.\n"


def is_known(host: str, names: tuple[str, ...]) -> bool:
    """Whether a Host header is an address, localhost or one of `names`.

    A site whose name was made to mean this machine (DNS rebinding) would read the page through its visitor's browser; by an
    address alone it cannot.
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").rstrip(".").lower()
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost" or name in {n.lower() for n in names}
    return True
