"""Bytes that no honest client sends, and peers that never end."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

import home_server
from home_server import HomeServer
from support import eventually
from tierkeeper.demo.server import free_port
from tierkeeper.homeserver import serve, tokens, uploads
from tierkeeper.homeserver.serve import Served
from tierkeeper.homeserver.state import State
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.results import ServingResult
from tierkeeper.objectstore.port import put_object

HEX = "0" * 64


@pytest.fixture
def server() -> HomeServer:
    return home_server.shared().emptied()


@contextmanager
def raw(port: int, ca: Path) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        yield sock


def answer(sock: ssl.SSLSocket) -> bytes:
    """All that comes until the server ends the connection, or says nothing for two seconds."""
    got = b""
    sock.settimeout(2)
    with suppress(TimeoutError):
        while block := sock.recv(65_536):
            got += block
    return got


def request(server: HomeServer, *lines: str, body: bytes = b"") -> bytes:
    head = "\r\n".join((*lines, "Host: x", f"Authorization: Bearer {server.token('admin')}", "Connection: close", "", ""))
    with raw(server.port, server.root / "server" / "ca.pem") as sock:
        sock.sendall(head.encode("latin-1") + body)
        return answer(sock)


PATHS = [
    "/v1/objects/segment/../../server/state.sqlite",
    "/v1/objects/../server/ca.key",
    "/v1/objects/segment/%2e%2e%2fserver%2fca.key",
    "/v1/objects/server/ca.key",
    f"/v1/objects/segment/{HEX}%00",
    f"/v1/objects/segment/{HEX}%0a",
    f"/v1/objects/segment/{HEX[:-1]}",
    f"/v1/objects/segment/{HEX[:-1]}G",
    f"/v1/objects/segment/{'A' * 64}",
    f"/v1/objects/lock/{HEX}",
    "//v1/objects/segment",
    "/v1/objects/segment?after=../../x",
    f"/v1/objects/segment?after={HEX}%0a",
    "/v1/objects/segment?limit=99999999999999999999",
    "/v1/objects/segment?limit=-1",
    "/" + "a" * 8_000,
    "/%ff%fe",
    "/docs",
    "/redoc",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "BREW"])
def test_no_path_leads_out_of_the_store(server: HomeServer, method: str, path: str) -> None:
    got = request(server, f"{method} {path} HTTP/1.1", "Content-Length: 0", "Upload-Offset: 0", "Upload-Length: 0")
    assert got.split(b" ")[1][:1] == b"4", got[:200]
    assert b"PRIVATE KEY" not in got
    assert {p.name for p in server.root.iterdir()} - {"incoming"} == {"server"}


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: -1"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 1e3"],
        ["Content-Length: 3", "Content-Length: 5"],
        ["Content-Length: 3", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip"],
        ["X-Long: " + "a" * 20_000],
        [f"X-{n}: {'a' * 100}" for n in range(400)],
        ["Content-Length: 3", "Content-Digest: " + "sha-256=:" * 100],
        ["Content-Length: 3", "If-None-Match: " + "x" * 5_000],
        ["Bad Header: x"],
        ["X: a\x00b"],
    ],
)
def test_headers_that_lie_are_refused(server: HomeServer, headers: list[str]) -> None:
    body = b"0\r\n\r\n" if "Transfer-Encoding: chunked" in headers else b"abc"
    got = request(server, f"PUT /v1/objects/segment/{HEX} HTTP/1.1", *headers, body=body)
    assert got.split(b" ")[1][:1] == b"4", got[:200]
    assert server.store().head(f"segment/{HEX}") is None


@pytest.mark.parametrize(
    "ranges", ["bytes=5-1", "bytes=-0", "bytes=a-b", "bytes=99999999999999999999-", "lines=1-2", "bytes=0-0," * 500]
)
def test_ranges_that_make_no_sense_are_no_fault(server: HomeServer, ranges: str) -> None:
    key = put_object(server.store(), "segment", b"0123456789")
    got = request(server, f"GET /v1/objects/{key} HTTP/1.1", f"Range: {ranges}")
    assert int(got.split(b" ")[1]) < 500, got[:200]
    assert len(got) < 100_000


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 1000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\xff" * 70_000]
)
def test_what_is_no_http_ends_the_connection_and_nothing_else(server: HomeServer, garbage: bytes) -> None:
    with raw(server.port, server.root / "server" / "ca.pem") as sock:
        sock.sendall(garbage)
        if not garbage.startswith(b"\r\n"):
            assert answer(sock)[:10] in (b"HTTP/1.1 4", b""), garbage[:20]
    with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
        plain.sendall(garbage)  # and no TLS either
    server.store().report()


@pytest.fixture
def hurried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that waits for half a second, on a thread of this process."""
    for module in (serve, uploads):
        monkeypatch.setattr(module, "BODY_READ_SECONDS", 0.5)
    monkeypatch.setattr(serve, "_KEEP_ALIVE_SECONDS", 0.5)
    served = Served(tmp_path, "127.0.0.1", free_port(), ("localhost",), 30)
    ends, announced = list[str](), list[ServingResult]()
    thread = threading.Thread(
        target=serve.serve, args=(served, SystemClock(), lambda: ends[0] if ends else None, announced.append)
    )
    thread.start()
    assert eventually(lambda: bool(announced))
    yield served.port
    ends.append("stopped")
    thread.join()


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea"],
)
def test_headers_that_never_end_are_not_waited_for(hurried: int, tmp_path: Path, beginning: bytes) -> None:
    began = time.monotonic()
    with raw(hurried, tmp_path / "server" / "ca.pem") as sock:
        sock.sendall(beginning)
        answer(sock)
    assert 0.3 < time.monotonic() - began < 2


def test_a_body_that_never_ends_is_not_waited_for(hurried: int, tmp_path: Path) -> None:
    now = SystemClock().now()
    token, text = tokens.mint("slow", "writer", now, now + timedelta(hours=1))
    with closing(State(tmp_path / "server" / "state.sqlite", SystemClock())) as state:
        state.add_token(token)
    head = f"PATCH /v1/uploads/segment/{HEX} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {text}\r\n"
    with raw(hurried, tmp_path / "server" / "ca.pem") as sock:
        sock.sendall(f"{head}Upload-Offset: 0\r\nUpload-Length: 100\r\nContent-Length: 100\r\n\r\nten bytes.".encode())
        assert b" 408 " in answer(sock)
    with raw(hurried, tmp_path / "server" / "ca.pem") as sock:
        sock.sendall(f"{head.replace('PATCH', 'HEAD')}Connection: close\r\n\r\n".encode())
        assert b"upload-offset: 10" in answer(sock), "what came is kept"
