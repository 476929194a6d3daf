"""Bytes that no honest client sends, and peers that never end."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

import home_server
from home_server import HomeServer
from support import eventually
from tierkeeper.demo.server import free_port
from tierkeeper.homeserver import links, serve, tokens, uploads
from tierkeeper.homeserver.identity import Identity
from tierkeeper.homeserver.serve import Served
from tierkeeper.homeserver.state import State
from tierkeeper.homeserver.vault import Vault
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.limits import REQUESTS_MAX
from tierkeeper.kernel.results import ServingResult
from tierkeeper.objectstore.directory import DirectoryStore
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
        ended = False
        try:
            sock.sendall(garbage)
        except OSError:  # it did not wait for all of it
            ended = True
        if not ended and not garbage.startswith(b"\r\n"):
            assert answer(sock)[:10] in (b"HTTP/1.1 4", b""), garbage[:20]
    with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
        plain.sendall(garbage)  # and no TLS either
    server.store().report()


PLACES = 6


@pytest.fixture
def hurried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that waits for 0.8 s, with few places, on a thread of this process."""
    for module in (links, uploads):
        monkeypatch.setattr(module, "BODY_READ_SECONDS", 0.8)
    monkeypatch.setattr(links, "CONNECT_SECONDS", 0.8)
    monkeypatch.setattr(links, "CONNECTIONS_MAX", PLACES)
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


def minted(folder: Path, role: tokens.Role) -> str:
    now = SystemClock().now()
    token, text = tokens.mint(f"the {role}", role, now, now + timedelta(hours=1))
    with closing(State(folder / "server" / "state.sqlite", SystemClock())) as state:
        state.add_token(token)
    return f"Authorization: Bearer {text}\r\n"


def seconds_until_it_ends(sock: ssl.SSLSocket, drip: bytes = b"") -> float:
    """How long the server bears `drip` every tenth of a second; at most five."""
    began = time.monotonic()
    sock.settimeout(0.1)
    with suppress(ConnectionError, ssl.SSLError):
        while time.monotonic() < began + 5:
            try:
                sock.sendall(drip)
                if not sock.recv(100_000):
                    break
            except TimeoutError:
                continue
    return time.monotonic() - began


@pytest.mark.parametrize("answered", [False, True])
def test_a_body_that_comes_byte_by_byte_is_not_waited_for(hurried: int, tmp_path: Path, answered: bool) -> None:
    head = f"PATCH /v1/uploads/segment/{HEX} HTTP/1.1\r\nHost: x\r\nUpload-Offset: 0\r\nUpload-Length: 100000\r\n"
    if not answered:
        head += minted(tmp_path, "writer")
    with raw(hurried, tmp_path / "server" / "ca.pem") as sock:
        sock.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode())
        if answered:
            assert b" 401 " in sock.recv(1000)
        assert 0.3 < seconds_until_it_ends(sock, b"x") < 3


@contextmanager
def strangers(port: int, ca: Path, number: int, sends: bytes = b"") -> Iterator[list[ssl.SSLSocket]]:
    with ExitStack() as stack:
        socks = [stack.enter_context(raw(port, ca)) for _ in range(number)]
        for sock in socks:
            with suppress(OSError):
                sock.sendall(sends)
        yield socks


def test_an_object_that_is_not_read_is_not_kept_in_memory(hurried: int, tmp_path: Path) -> None:
    key = put_object(DirectoryStore(tmp_path), "segment", os.urandom(20_000_000))
    asked = f"GET /v1/objects/{key} HTTP/1.1\r\nHost: x\r\n{minted(tmp_path, 'reader')}\r\n".encode()

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    with strangers(hurried, tmp_path / "server" / "ca.pem", 3, asked):
        # Of each connection this process has both ends, and of each answer the file.
        assert eventually(lambda: descriptors() >= before + 3 * 3)
        assert eventually(lambda: descriptors() <= before + 3)


def test_an_object_that_is_read_slowly_comes_whole(hurried: int, tmp_path: Path) -> None:
    data, got = os.urandom(4_000_000), b""
    key = put_object(DirectoryStore(tmp_path), "segment", data)
    asked = f"GET /v1/objects/{key} HTTP/1.1\r\nHost: x\r\n{minted(tmp_path, 'reader')}\r\n".encode()
    with raw(hurried, tmp_path / "server" / "ca.pem") as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.sendall(asked)
        while block := sock.recv(100_000):
            got += block
            time.sleep(len(block) / 2_000_000)
    assert got.partition(b"\r\n\r\n")[2] == data


def health(port: int, ca: Path) -> bytes:
    with raw(port, ca) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return answer(sock)[9:12]


def test_strangers_who_only_connect_shut_nobody_out(hurried: int, tmp_path: Path) -> None:
    ca = tmp_path / "server" / "ca.pem"
    with strangers(hurried, ca, PLACES):
        assert health(hurried, ca) == b"200"


def test_peers_that_never_shake_hands_are_not_waited_for(hurried: int, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for _ in range(3 * PLACES):
            stack.enter_context(socket.create_connection(("127.0.0.1", hurried), 10))
        assert health(hurried, tmp_path / "server" / "ca.pem") == b"200"


@pytest.fixture
def renewing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's certificate is made anew as soon as the last one is loaded."""
    made, loaded, load = list[int](), list[int](), Identity.load_into

    def is_leaf_good(*_: object) -> bool:
        if len(made) > len(loaded):
            return True
        made.append(1)
        return False

    def load_into(self: Identity, context: ssl.SSLContext) -> None:
        load(self, context)
        loaded.append(1)

    monkeypatch.setattr(Identity, "_is_leaf_good", is_leaf_good)
    monkeypatch.setattr(Identity, "load_into", load_into)
    monkeypatch.setattr(serve, "SCRUB_LOOK_SECONDS", 0)


def test_clients_notice_nothing_of_a_renewal(renewing: None, hurried: int, tmp_path: Path) -> None:
    seen = set[object]()
    for _ in range(100):
        with raw(hurried, tmp_path / "server" / "ca.pem") as sock:
            seen.add((sock.getpeercert() or {})["serialNumber"])
    assert len(seen) > 3


@pytest.mark.long
def test_who_waits_for_the_disk_makes_nobody_else_wait(hurried: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca, go_on, waiting = tmp_path / "server" / "ca.pem", threading.Event(), list[object]()
    monkeypatch.setattr(links, "CONNECTIONS_MAX", 100)
    monkeypatch.setattr(links, "CONNECT_SECONDS", 30)

    def check(*_: object) -> None:
        waiting.append(1)
        go_on.wait(60)

    monkeypatch.setattr(Vault, "check", check)
    asked = f"POST /v1/objects/segment/{HEX}/check HTTP/1.1\r\nHost: x\r\n{minted(tmp_path, 'verifier')}\r\n".encode()
    try:
        with strangers(hurried, ca, REQUESTS_MAX - 1, asked):
            assert eventually(lambda: len(waiting) == REQUESTS_MAX - 1)
            assert health(hurried, ca) == b"200"
            with strangers(hurried, ca, 1, asked):
                assert eventually(lambda: len(waiting) == REQUESTS_MAX)
                assert health(hurried, ca) == b"503", "that is all that it does at once"
    finally:
        go_on.set()


def test_a_body_that_never_ends_is_not_waited_for(hurried: int, tmp_path: Path) -> None:
    head = f"PATCH /v1/uploads/segment/{HEX} HTTP/1.1\r\nHost: x\r\n{minted(tmp_path, 'writer')}"
    with raw(hurried, tmp_path / "server" / "ca.pem") as sock:
        sock.sendall(f"{head}Upload-Offset: 0\r\nUpload-Length: 100\r\nContent-Length: 100\r\n\r\nten bytes.".encode())
        assert b" 408 " in answer(sock)
    with raw(hurried, tmp_path / "server" / "ca.pem") as sock:
        sock.sendall(f"{head.replace('PATCH', 'HEAD')}Connection: close\r\n\r\n".encode())
        assert b"upload-offset: 10" in answer(sock), "what came is kept"
