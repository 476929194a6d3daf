"""A TCP relay on loopback that fails on demand: cuts after any byte, holds bytes back, delays them.

Bytes are passed as they are, so TLS goes through it untouched: what it does to a tier is what a network does.
"""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

from tierkeeper.postgres.link import Link

Direction = Literal["to_server", "to_client"]
How = Literal["rst", "fin"]

_BLOCK_BYTES = 65_536
_HELD_BYTES = 4 * 2**20  # beyond this a sender is no longer read from: it feels a network that stands still
_IDLE_SECONDS = 1.0
_QUEUE_SECONDS = 0.05  # of a narrow link are held of one flow: more, and everything else would wait behind a bulk of rows


@dataclass(eq=False)
class _Flow:
    """One direction of a connection: what was received from `source` and waits to be sent to `sink`."""

    direction: Direction
    source: socket.socket
    sink: socket.socket
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)  # due at (monotonic), bytes
    waiting_bytes: int = 0
    ended: bool = False  # the source has said all
    passed_on: bool = False  # and the sink was told


@dataclass
class _Cut:
    left_bytes: dict[Direction, int]
    how: How
    everything: bool


class FaultProxy:
    """Relays connections to `port` of this machine. A context manager; leaving it ends its thread and every connection."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.passed_bytes: dict[Direction, int] = {"to_server": 0, "to_client": 0}
        self.cuts = 0
        self._lock = threading.RLock()
        self._flows: list[tuple[_Flow, _Flow]] = []
        self._cut: _Cut | None = None
        self._held: set[Direction] = set()
        self._delay_seconds = 0.0
        self._bytes_per_second = 0.0
        self._free_at = 0.0
        self._closed = False
        self._refuses = False
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._thread = threading.Thread(target=self._relay, daemon=True)
        self._thread.start()

    def url(self, url: str) -> str:
        """`url` with this proxy in place of its server."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}"))

    def link(self, link: Link) -> Link:
        """`link` through this proxy."""
        return Link(link.tier, self.url(link.url), link.sslrootcert)

    def cut_after(self, size_bytes: int, direction: Direction, how: How = "rst", *, everything: bool = False) -> None:
        """Cuts the connection that would pass the byte after the next `size_bytes` in `direction`; with `everything`, all.

        The bytes of all connections are counted together. Once; a second call replaces the first.
        """
        with self._lock:
            self._cut = _Cut({direction: size_bytes}, how, everything)
            self._wake()

    def cut_now(self, how: How = "rst") -> None:
        """Cuts every connection at once; what waits in it is lost."""
        with self._lock:
            for pair in list(self._flows):
                self._end(pair, how)
            self.cuts += 1
            self._wake()

    def refuse(self) -> None:
        """Cuts every connection at once, and each that comes until `heal`."""
        with self._lock:
            self._refuses = True
            self.cut_now()

    def hold(self, *directions: Direction) -> None:
        """Passes nothing on in `directions` until `heal`; a sender that ends meanwhile has its bytes delivered late."""
        with self._lock:
            self._held.update(directions)

    def delay(self, seconds: float) -> None:
        """Bytes received from now on are passed on `seconds` later, in their order."""
        with self._lock:
            self._delay_seconds = seconds

    def narrow(self, bytes_per_second: float) -> None:
        """All connections together get no more than that in both directions, until `heal`."""
        with self._lock:
            self._bytes_per_second = bytes_per_second

    def heal(self) -> None:
        """Nothing is armed, held, delayed or narrowed any more; what was held goes on its way."""
        with self._lock:
            self._cut, self._delay_seconds, self._refuses = None, 0.0, False
            self._bytes_per_second, self._free_at = 0.0, 0.0
            self._held.clear()
            self._wake()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._wake()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._bell.send(b"!")

    # The thread's own

    def _relay(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    break
                ready, timeout = self._watched()
            with ready:
                found = [(key.fileobj, events) for key, events in ready.select(timeout)]
            with self._lock:
                self._step({f for f, e in found if e & selectors.EVENT_READ}, {f for f, e in found if e & selectors.EVENT_WRITE})
        with self._lock:
            for pair in list(self._flows):
                self._end(pair, "fin")
            for one in (self._listener, self._bell, self._ear):
                one.close()

    def _watched(self) -> tuple[selectors.DefaultSelector, float]:
        """What there is to wait for, and how long at most."""
        events: dict[socket.socket, int] = {self._listener: selectors.EVENT_READ, self._ear: selectors.EVENT_READ}
        timeout, now = _IDLE_SECONDS, time.monotonic()
        held_bytes = min(_HELD_BYTES, self._bytes_per_second * _QUEUE_SECONDS or _HELD_BYTES)
        for flow in (f for pair in self._flows for f in pair):
            if not flow.ended and flow.waiting_bytes < held_bytes:
                events[flow.source] = events.get(flow.source, 0) | selectors.EVENT_READ
            if flow.waiting and flow.direction not in self._held:
                due = flow.waiting[0][0] - now
                if due <= 0:
                    events[flow.sink] = events.get(flow.sink, 0) | selectors.EVENT_WRITE
                else:
                    timeout = min(timeout, due)
        ready = selectors.DefaultSelector()
        for one, wanted in events.items():
            ready.register(one, wanted)
        return ready, timeout

    def _step(self, readable: set[object], writable: set[object]) -> None:
        if self._ear in readable:
            with contextlib.suppress(BlockingIOError):
                self._ear.recv(_BLOCK_BYTES)
        if self._listener in readable:
            self._accept()
        for pair in list(self._flows):
            for flow in pair:
                try:
                    if flow.source in readable and not flow.ended:
                        self._receive(flow)
                    if flow.sink in writable and not self._send(flow, pair):
                        break
                    self._pass_end_on(flow)
                except BlockingIOError:
                    continue
                except OSError:
                    self._end(pair, "rst")
                    break
            if pair in self._flows and all(f.passed_on for f in pair):
                self._end(pair, "fin")

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            client, _ = self._listener.accept()
            if self._refuses:
                _close(client, "rst")
                return
            try:
                server = socket.create_connection(self._server, timeout=5)
            except OSError:
                _close(client, "rst")
                return
            for one in (client, server):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._flows.append((_Flow("to_server", client, server), _Flow("to_client", server, client)))

    def _receive(self, flow: _Flow) -> None:
        data = flow.source.recv(_BLOCK_BYTES)
        flow.ended = not data
        if data:
            due = time.monotonic()
            if self._bytes_per_second:
                due = self._free_at = max(due, self._free_at) + len(data) / self._bytes_per_second
            flow.waiting.append((due + self._delay_seconds, data))
            flow.waiting_bytes += len(data)

    def _send(self, flow: _Flow, pair: tuple[_Flow, _Flow]) -> bool:
        """Sends what is due. False where the armed cut ended the connection."""
        while flow.waiting and flow.waiting[0][0] <= time.monotonic() and flow.direction not in self._held:
            due, data = flow.waiting[0]
            allowed = len(data) if self._cut is None else self._cut.left_bytes.get(flow.direction, len(data))
            if allowed == 0 and self._cut is not None:
                how, hit = self._cut.how, list(self._flows) if self._cut.everything else [pair]
                self._cut = None
                self.cuts += 1
                for one in hit:
                    self._end(one, how)
                return False
            sent = flow.sink.send(data[:allowed])
            self.passed_bytes[flow.direction] += sent
            if self._cut is not None and flow.direction in self._cut.left_bytes:
                self._cut.left_bytes[flow.direction] -= sent
            flow.waiting_bytes -= sent
            if sent == len(data):
                flow.waiting.popleft()
            else:
                flow.waiting[0] = (due, data[sent:])
        return True

    def _pass_end_on(self, flow: _Flow) -> None:
        if flow.ended and not flow.waiting and not flow.passed_on:
            flow.passed_on = True
            flow.sink.shutdown(socket.SHUT_WR)

    def _end(self, pair: tuple[_Flow, _Flow], how: How) -> None:
        if pair in self._flows:
            self._flows.remove(pair)
            for flow in pair:
                _close(flow.source, how)


def _close(one: socket.socket, how: How) -> None:
    """With `rst` the peer's next read fails; with `fin` it sees an orderly end."""
    with contextlib.suppress(OSError):
        if how == "rst":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            one.shutdown(socket.SHUT_RDWR)
    one.close()
