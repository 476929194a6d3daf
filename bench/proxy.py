"""A link with delay: a relay on loopback, a process of its own, that passes every byte on a fixed time after it came.

It limits nothing else. What is under way on one connection may be as much as a fast link holds at that delay, so that
throughput is the two ends' own affair, and so is every round trip.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_BLOCK_BYTES = 2**20
_BUFFER_BYTES = 4 * 2**20
_UNDER_WAY_BYTES = 64 * 2**20  # 20 ms at 3 GB/s: more than two cores encrypt
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Proxy:
    """A running relay to one server, and what it costs."""

    port: int
    pid: int
    delay_ms: float

    def url(self, url: str) -> str:
        """`url` with the relay in place of its server."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}"))

    @property
    def cpu_seconds(self) -> float:
        """The processor's time that the relay has taken until now."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def proxy(port: int, delay_ms: float) -> Iterator[Proxy]:
    """Relays to `port` of this machine until the block ends, each direction `delay_ms` late."""
    command = [sys.executable, "-m", "bench.proxy", str(port), str(delay_ms)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes to the proxy")
        try:
            yield Proxy(int(process.stdout.readline()), process.pid, delay_ms)
        finally:
            process.stdin.close()  # it ends with its input, so that it cannot outlive us


class _Way:
    """One direction of a connection. One task reads ahead and notes when each block is due, another passes them on."""

    def __init__(self, source: socket.socket, sink: socket.socket, delay_seconds: float) -> None:
        self._source, self._sink, self._delay_seconds = source, sink, delay_seconds
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    async def relay(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read())
            both.create_task(self._write())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self._bytes >= _UNDER_WAY_BYTES:
                self._changed.clear()
                await self._changed.wait()
            data = await loop.sock_recv(self._source, _BLOCK_BYTES)
            self._waiting.append((loop.time() + self._delay_seconds, data))
            self._bytes += len(data)
            self._changed.set()
            if not data:
                return

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._changed.clear()
                await self._changed.wait()
            due, data = self._waiting[0]
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._sink, data)
            self._waiting.popleft()
            self._bytes -= len(data)
            self._changed.set()


async def _connection(client: socket.socket, port: int, delay_seconds: float) -> None:
    """Relays one connection till both ends have said all, or one broke off."""
    loop = asyncio.get_running_loop()
    with client, socket.socket() as server:
        for one in (client, server):
            _tune(one)
        with contextlib.suppress(OSError, ExceptionGroup):
            await loop.sock_connect(server, ("127.0.0.1", port))
            async with asyncio.TaskGroup() as both:
                both.create_task(_Way(client, server, delay_seconds).relay())
                both.create_task(_Way(server, client, delay_seconds).relay())


def _tune(one: socket.socket) -> None:
    one.setblocking(False)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        one.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)


async def _serve(port: int, delay_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        accepting = asyncio.create_task(_accept(listener, port, delay_seconds))
        await ended.wait()
        accepting.cancel()


async def _accept(listener: socket.socket, port: int, delay_seconds: float) -> None:
    running = set()  # the loop itself holds its tasks weakly
    while True:
        client, _ = await asyncio.get_running_loop().sock_accept(listener)
        task = asyncio.create_task(_connection(client, port, delay_seconds))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
