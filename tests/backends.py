"""Real servers on loopback for tests of the balancer, that answer, hang, break and count as told: HTTP/1.1, TCP and worse."""

import base64
import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass
class Request:
    """What came, as it came."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def get(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name), None)

    @property
    def fields(self) -> dict[str, str]:
        """Its headers by lower-case name."""
        return {k.lower(): v for k, v in self.headers}


@dataclass
class Answer:
    """One answer; with `hangs_up` the connection is closed instead."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/plain"),)
    wait_seconds: float = 0.0
    hangs_up: bool = False


@dataclass
class HttpBackend:
    """Serves from when it is made until `stop`, or to the end of its block. What it does may be changed while it runs."""

    status: int = 200
    body: bytes | None = None  # its port, if left out
    delay_seconds: float = 0.0
    hangs: bool = False
    breaks: bool = False
    every: int = 1  # of how many requests one gets `status`, the others 200
    answers: Callable[[Request], Answer] | None = None  # instead of all that
    tls: ssl.SSLContext | None = None
    port: int = 0
    host: str = "127.0.0.1"
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((self.host, self.port), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._stopped = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.name}"

    @property
    def methods(self) -> list[str]:
        return [r.method for r in self.requests]

    @property
    def paths(self) -> list[str]:
        return [r.path for r in self.requests]

    def stop(self) -> None:
        """Ends at once, as a process that is killed: with a reset for whoever waits."""
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            reset(connection)

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(connection,), daemon=True).start()

    def _connection(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(connection)
            with connection.makefile("rb") as reader:
                while (request := _request(reader)) is not None:
                    self.requests.append(request)
                    if not self._answer(connection, reader, request):
                        break
        self._open.discard(connection)
        connection.close()

    def _answer(self, connection: socket.socket, reader, request: Request) -> bool:
        if self.hangs:
            self._stopped.wait(30)
            return False
        if self.breaks:
            reset(connection)
            return False
        if (request.get("upgrade") or "").lower() == "websocket":
            echo_frames(connection, reader, request)
            return False
        answer = (self.answers or self._usual)(request)
        time.sleep(answer.wait_seconds)
        if answer.hangs_up:
            return False
        headers = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
        head = f"HTTP/1.1 {answer.status} X\r\n{headers}content-length: {len(answer.body)}\r\n\r\n"
        connection.sendall(head.encode() + (b"" if request.method == "HEAD" else answer.body))
        return True

    def _usual(self, _: Request) -> Answer:
        status = self.status if len(self.requests) % self.every == 0 else 200
        headers = (("content-type", "text/plain"), ("x-backend", str(self.port)))
        return Answer(status, str(self.port).encode() if self.body is None else self.body, headers, self.delay_seconds)


@contextmanager
def http_backends(count: int) -> Iterator[list[HttpBackend]]:
    """So many, whose bodies are their numbers."""
    with ExitStack() as stack:
        yield [stack.enter_context(HttpBackend(body=str(n).encode())) for n in range(count)]


def _request(reader) -> Request | None:
    first = reader.readline()
    if not first:
        return None
    method, path, _ = first.decode().split(" ", 2)
    headers = []
    while (line := reader.readline().decode().rstrip("\r\n")) != "":
        key, _, value = line.partition(":")
        headers.append((key, value.strip()))
    request = Request(method, path, headers)
    if (length := request.get("content-length")) is not None:
        request.body = reader.read(int(length))
    elif (request.get("transfer-encoding") or "") == "chunked":
        while size := int(reader.readline(), 16):
            request.body += reader.read(size)
            reader.readline()
        reader.readline()
    return request


def reset(connection: socket.socket) -> None:
    """Closes with an RST."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def echo_frames(connection: socket.socket, reader, request: Request) -> None:
    """The server's side of a WebSocket that says what it hears."""
    key = request.get("sec-websocket-key") or ""
    proof = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())  # noqa: S324
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
        + proof
        + b"\r\n\r\n"
    )
    while len(head := reader.read(2)) == 2:
        length = head[1] & 0x7F
        mask = reader.read(4)
        text = bytes(b ^ mask[i % 4] for i, b in enumerate(reader.read(length)))
        connection.sendall(bytes([head[0], length]) + text)


@dataclass
class TcpBackend:
    """Says its port, then echoes lines."""

    port: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.sessions = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.sessions += 1
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.sendall(f"{self.port}\n".encode())
            while piece := connection.recv(4096):
                connection.sendall(piece)


@contextmanager
def hanging() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield int(server.getsockname()[1])


@contextmanager
def dripping(data: bytes, every_seconds: float = 0.05) -> Iterator[int]:
    """A port that answers a byte at a time, for ever."""
    ending = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def drip() -> None:
            while not ending.is_set():
                with suppress(OSError):
                    conn, _ = server.accept()
                    with conn:
                        for byte in data + b"x" * 10_000:
                            if ending.wait(every_seconds):
                                return
                            conn.send(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            ending.set()
            thread.join()


def until(condition: Callable[[], object], seconds: float = 5.0) -> float:
    """Waits for it, and returns how long that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it did not come to be"
        time.sleep(0.002)
    return time.monotonic() - start
