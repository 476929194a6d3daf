"""What strangers send: smuggling, floods, orders."""

import base64
import hashlib
import os
import socket
import subprocess
import time
from dataclasses import replace

import pytest

from tierkeeper.balance.envoy import limits
from tierkeeper.balance.envoy.documents import pool_key
from tierkeeper.balance.model import Backend, Pool

from .conftest import Client, connect, pool_of, send

HOST = b"Host: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
GET = b"GET / HTTP/1.1\r\n" + HOST
SECOND = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = {
    "length and chunks": (POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + SECOND, 400),
    "chunks and length": (POST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + SECOND, 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    "the same length twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "a list of lengths": (POST + b"Content-Length: 5, 6\r\n\r\nhello!", 400),
    "a negative length": (POST + b"Content-Length: -5\r\n\r\n" + SECOND, 400),
    "a signed length": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "a coding nobody knows": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunks that are not the last coding": (POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501),
    "a space before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SECOND, 400),
    "a chunk size in another notation": (POST + CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
    "a chunk extension that ends early": (POST + CHUNKED + b"\r\n5;a\nhello\r\n0\r\n\r\n", 400),
    "NUL in a header": (GET + b"X: a\0b\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "CONNECT": (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n", 404),
    "an upgrade to anything": (GET + b"Connection: Upgrade\r\nUpgrade: foo\r\n\r\n", 403),
    "a huge header": (GET + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    "a huge path": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "too many headers": (GET + b"".join(b"X%d: 1\r\n" % i for i in range(150)) + b"\r\n", 431),
}


def test_what_could_mean_two_things_is_refused_and_reaches_no_backend(plane, http_backends) -> None:
    [backend] = http_backends(1)
    plane.start([pool := pool_of([backend])], {})
    for name, (text, status) in REFUSED.items():
        answer = send(pool, text)
        assert answer.startswith(b"HTTP/1.1 %d" % status), name
        assert answer.count(b"HTTP/1.1") == 1, name
        assert backend.requests == [], name


def test_what_is_mended_reaches_the_backend_in_one_meaning(plane, http_backends) -> None:
    [backend] = http_backends(1)
    plane.start([pool := pool_of([backend])], {})
    close = b"Connection: close\r\n"

    def through(text: bytes):
        assert send(pool, text).startswith(b"HTTP/1.1 200")
        [request] = backend.requests
        backend.requests.clear()
        return request

    folded = through(GET + close + b"X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n")
    assert folded.get("x-a") == "b Transfer-Encoding: chunked"
    assert folded.get("transfer-encoding") is None
    assert through(b"POST / HTTP/1.1\n" + HOST + close + b"Content-Length: 2\n\nhi").body == b"hi"
    split = through(GET + close + b"X-A: b\rX-B: c\r\n\r\n")
    assert split.get("x-b") is None
    spoofed = through(GET + close + b"X_Forwarded_For: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n")
    assert spoofed.get("x_forwarded_for") is None
    assert (spoofed.get("x-forwarded-for") or "").startswith("6.6.6.6,")  # the last one is true
    assert spoofed.get("x-forwarded-proto") == "http"
    assert through(GET + b"Connection: close, X-Hop\r\nX-Hop: 1\r\n\r\n").get("x-hop") is None
    assert through(b"GET /a/../../b/./%2e%2e/c HTTP/1.1\r\n" + HOST + close + b"\r\n").path == "/c"
    elsewhere = through(b"GET http://127.0.0.1:22/x HTTP/1.1\r\nHost: 127.0.0.1:22\r\n" + close + b"\r\n")
    assert elsewhere.path == "/x", "an absolute address is a name for us, and no way to others"
    assert [k for k, _ in folded.headers if k.startswith("x-envoy-") and k != "x-envoy-external-address"] == []


def test_who_sends_headers_slowly_is_let_go(plane, http_backends, monkeypatch) -> None:
    monkeypatch.setattr(limits, "HEADERS_SECONDS", 0.4)
    [backend] = http_backends(1)
    plane.start([pool := pool_of([backend])], {})
    slow = connect(pool)
    slow.sendall(GET)
    start = time.monotonic()
    slow.settimeout(0.05)
    answer = b""
    for i in range(40):
        try:
            slow.sendall(b"X%d: 1\r\n" % i)
            answer = slow.recv(100)
            break
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 408")
    assert 0.3 < time.monotonic() - start < 1.2
    assert backend.requests == []
    assert Client(pool).ask()[0] == 200


def test_connections_have_a_limit_and_the_verdict_does_not_count(plane, http_backends, tcp_backends, monkeypatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 6)
    [backend], sessions = http_backends(1), tcp_backends(1)
    plane.start([pool := pool_of([backend]), cutting := pool_of(sessions, "pg", cuts_sessions=True)], {})
    held = [connect(pool) for _ in range(6)]
    time.sleep(0.1)
    assert send(pool, GET + b"\r\n", 0.3) == b""
    held[0].close()
    time.sleep(0.1)
    assert Client(pool).ask()[0] == 200
    time.sleep(0.2)
    held.pop().close()
    time.sleep(0.1)
    assert int(connect(cutting).recv(20)) == sessions[0].port


def shakes_hands_and_echoes(pool: Pool, pauses: tuple[float, ...]) -> None:
    key = base64.b64encode(os.urandom(16))
    ws = connect(pool)
    ws.sendall(
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += ws.recv(1)
    assert head.startswith(b"HTTP/1.1 101")
    proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324
    assert proof in head
    for pause in pauses:
        time.sleep(pause)
        ws.sendall(b"\x81\x85\x01\x02\x03\x04" + bytes(c ^ m for c, m in zip(b"hello", b"\x01\x02\x03\x04\x01", strict=True)))
        assert ws.recv(100) == b"\x81\x05hello"


def test_a_websocket_goes_through(plane, http_backends) -> None:
    plane.start([pool := pool_of(http_backends(1), request_timeout_seconds=0.3)], {})
    shakes_hands_and_echoes(pool, (0, 0.4))  # longer than a request may take: it is none any more


def curl(*arguments: str) -> str:
    told = subprocess.run(
        ["curl", "-sS", "-w", " %{http_version} %{http_code}", *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return told.stdout


def test_http2_without_tls(plane, http_backends) -> None:
    [backend] = http_backends(1)
    plane.start([pool := pool_of([backend])], {})
    assert curl("--http2-prior-knowledge", f"http://127.0.0.1:{pool.port}/") == f"{backend.port} 2 200"
    assert backend.requests[0].path == "/"


def test_http2_to_the_backends_and_a_websocket_over_it(plane, http_backends) -> None:
    """The backend of the second pool is the port of the first, which speaks HTTP/2 as any does."""
    [backend] = http_backends(1)
    behind = pool_of([backend], "behind")
    front = replace(pool_of([backend], http2=True), backends=(Backend("behind", "127.0.0.1", behind.port),))
    plane.start([behind, front], {})
    assert Client(front).ask("PUT", body=b"a body") == (200, str(backend.port))
    assert plane._admin.stats(f"http.{pool_key('behind')}.downstream_cx_http2_total$") == {
        f"http.{pool_key('behind')}.downstream_cx_http2_total": 1
    }
    shakes_hands_and_echoes(front, (0,))


def test_the_sockets_are_for_this_user_alone(plane, http_backends, folder) -> None:
    plane.start([pool_of(http_backends(1))], {})
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("admin.sock", "verdict.sock", "brain.sock", *(p.name for p in folder.glob("hot_*"))):
        assert (folder / name).stat().st_mode & 0o777 == 0o600, name
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in listening.splitlines() if f"pid={plane.facts()['process']}," in line]
    assert len({line.split()[3] for line in ours}) == 1, "no port but the pool's"
    with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as other:
        other.connect("\0envoy_domain_socket_parent_0")
