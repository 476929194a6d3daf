"""`python -m bench.balancing.load PORT RATE SECONDS SEED FILE`: requests at random times that wait for nobody (open loop).

Each is sent when its time comes, on a free connection or a new one, whatever became of those before it; its latency counts from
the time it was meant to be sent, so that a balancer that stalls cannot hide it. The file gets a line a request: seconds since
the start (when it prints an empty line) at which it was meant, latency in seconds, status (0: none came), backend.
"""

import asyncio
import gc
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_REQUEST: Final = b"GET /bench HTTP/1.1\r\nhost: bench\r\n\r\n"
_PATIENCE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    meant: float
    latency: float
    status: int
    backend: str

    @classmethod
    def read(cls, path: Path) -> list["Answer"]:
        """All of a run, in the order in which they were meant."""
        split = (line.split("\t") for line in path.read_text().splitlines())
        return sorted((cls(float(m), float(s), int(c), b) for m, s, c, b in split), key=lambda a: a.meant)


class _Client(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, free: list["_Client"]) -> None:
        self._free, self._got = free, b""
        self._waiter: asyncio.Future[tuple[int, str]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self) -> "asyncio.Future[tuple[int, str]]":
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(_REQUEST)
        return self._waiter

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in lower else 0
        if len(body) < length:
            return
        self._got = b""
        status = int(head[9:12])
        backend = lower.split(b"x-backend:")[1].split(b"\r\n")[0].strip().decode() if b"x-backend:" in lower else "-"
        if b"connection: close" in lower:
            self.transport.close()
        else:
            self._free.append(self)
        self._end(status, backend)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        if self in self._free:
            self._free.remove(self)
        self._end(0, "-")

    def _end(self, status: int, backend: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result((status, backend))
        self._waiter = None


async def _run(port: int, rate: float, seconds: float, seed: int) -> list[Answer]:
    loop, free, answers = asyncio.get_running_loop(), list[_Client](), list[Answer]()
    tasks: set[asyncio.Task[None]] = set()
    print(flush=True)
    start = time.monotonic()

    async def one(meant: float) -> None:
        client: _Client | None = None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while free and client is None:
                    client = free.pop()
                    client = None if client.transport.is_closing() else client
                if client is None:
                    _, client = await loop.create_connection(lambda: _Client(free), "127.0.0.1", port)
                status, backend = await client.ask()
        except OSError:  # a time-out is one
            status, backend = 0, "-"
            if client is not None:
                client.transport.abort()
        answers.append(Answer(meant, time.monotonic() - start - meant, status, backend))

    draw, meant = random.Random(seed), 0.0
    while (meant := meant + draw.expovariate(rate)) < seconds:
        if (wait := start + meant - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(meant))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return answers


if __name__ == "__main__":
    gc.disable()  # its pauses would be taken for the balancer's
    got = asyncio.run(_run(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
    Path(sys.argv[5]).write_text("".join(f"{a.meant}\t{a.latency}\t{a.status}\t{a.backend}\n" for a in got))
