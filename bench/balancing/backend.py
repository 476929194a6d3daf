"""`python -m bench.balancing.backend NAME`: an HTTP server whose illness is told on standard input, one JSON object a line.

`delay_ms` is added to each answer, `fail` is the share that is answered with 503, `slots` how many it works on at once (0: any).
It prints its port, and at the end of its input how many requests it got.
"""

import asyncio
import json
import random
import sys
from collections import deque
from typing import Final

_SERVICE_SECONDS: Final = 0.004
_SPREAD_SECONDS: Final = 0.001  # exponential, on top: answers are never all alike


class Illness:
    """What the backend suffers from now, and who waits for a slot."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delay_seconds, self.fail, self.slots = 0.0, 0.0, 0
        self.busy, self.requests = 0, 0
        self.waiting: deque[_Connection] = deque()
        self.random = random.Random(name)

    def told(self, line: str) -> None:
        now = {"delay_ms": 0, "fail": 0, "slots": 0, **json.loads(line)}
        self.delay_seconds, self.fail, self.slots = now["delay_ms"] / 1000, now["fail"], now["slots"]
        while self.waiting and self.has_room():
            self.waiting.popleft().work()

    def has_room(self) -> bool:
        return self.slots == 0 or self.busy < self.slots


class _Connection(asyncio.Protocol):
    """One kept connection; requests without bodies, answered in turn."""

    def __init__(self, illness: Illness) -> None:
        self._illness = illness
        self._begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._begun += data
        while b"\r\n\r\n" in self._begun:
            _, self._begun = self._begun.split(b"\r\n\r\n", 1)
            self._illness.requests += 1
            if self._illness.has_room():
                self.work()
            else:
                self._illness.waiting.append(self)

    def work(self) -> None:
        ill = self._illness
        ill.busy += 1
        seconds = _SERVICE_SECONDS + ill.random.expovariate(1 / _SPREAD_SECONDS) + ill.delay_seconds
        asyncio.get_running_loop().call_later(seconds, self._answer)

    def _answer(self) -> None:
        ill = self._illness
        ill.busy -= 1
        status = b"503 Service Unavailable" if ill.fail and ill.random.random() < ill.fail else b"200 OK"
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 %b\r\ncontent-length: %d\r\nx-backend: %b\r\n\r\n%b"
                % (status, len(ill.name), ill.name.encode(), ill.name.encode())
            )
        if ill.waiting and ill.has_room():
            ill.waiting.popleft().work()


async def _serve(name: str) -> None:
    loop = asyncio.get_running_loop()
    illness = Illness(name)
    server = await loop.create_server(lambda: _Connection(illness), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        illness.told(line.decode())
    print(illness.requests, flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
