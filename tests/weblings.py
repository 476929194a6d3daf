"""Small real HTTP servers that answer as they are told, and remember what they were asked."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/plain"),)
    wait_seconds: float = 0.0
    hangs_up: bool = False


@dataclass
class Webling:
    """One server. `answers` is what it says to a request; by default 200 and its number."""

    number: int
    port: int
    answers: Callable[[Asked], Answer]
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    webling: Webling

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65_536
    disable_nagle_algorithm = True
    server: _Server

    def any(self) -> None:
        webling = self.server.webling
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        webling.asked.append(asked)
        answer = webling.answers(asked)
        time.sleep(answer.wait_seconds)
        if answer.hangs_up:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


for _method in ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"):
    setattr(_Handler, f"do_{_method}", _Handler.any)


@contextmanager
def weblings(count: int) -> Iterator[list[Webling]]:
    """So many servers, each on a thread of its own; all gone at the end."""
    servers, threads = [], []
    for number in range(count):
        server = _Server(("127.0.0.1", 0), _Handler)
        server.webling = Webling(number, server.server_port, lambda _, n=number: Answer(body=str(n).encode()))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append(server)
        threads.append(thread)
    try:
        yield [s.webling for s in servers]
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
