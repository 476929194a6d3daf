"""What is repeated and what never: counted at the backends."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from backends import HttpBackend, until
from support import sampled
from tierkeeper.balance.envoy.budget import Budget
from tierkeeper.balance.model import Backend, Counters, Share, Takes
from tierkeeper.demo.server import free_port

from .conftest import Client, connect, pool_of, send

IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")


def tries(backends: list[HttpBackend]) -> list[int]:
    """How many requests each got; forgets them."""
    counts = [len(b.requests) for b in backends]
    for backend in backends:
        backend.requests.clear()
    return sorted(counts)


def test_only_idempotent_requests_are_repeated_and_never_at_the_same_host(plane, http_backends) -> None:
    backends = http_backends(3)
    plane.start([pool := pool_of(backends, max_retries=5, panic_percent=100)], {})  # nobody is left out meanwhile
    heavy = Share(weight=1000)  # chance alone would draw it again and again
    plane.publish({"web": {backends[0].name: heavy}})
    client = Client(pool)
    for status, breaks in ((503, False), (200, True)):
        for backend in backends:
            backend.status, backend.breaks = status, breaks
        for method in IDEMPOTENT:
            assert client.ask(method)[0] == 503
            assert tries(backends) == [1, 1, 1], method
        for method in ("POST", "PATCH"):
            assert client.ask(method, body=b"once")[0] == 503
            assert tries(backends) == [0, 0, 1], method
    for backend in backends:
        backend.status, backend.breaks = 500, False
    client.ask("GET")
    assert tries(backends) == [0, 0, 1], "500 is an answer of the application"


def test_a_client_cannot_order_retries_or_time_limits(plane, http_backends) -> None:
    backends = http_backends(3, status=503)
    plane.start([pool := pool_of(backends, panic_percent=100)], {})
    orders = {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "9", "x-envoy-upstream-rq-timeout-ms": "1"}
    Client(pool).ask("POST", body=b"once", **orders)
    assert tries(backends) == [0, 0, 1]


def test_one_that_takes_no_connection_costs_no_request_of_any_method(plane, http_backends) -> None:
    backends = http_backends(3)
    gone = backends[0]
    gone.stop()
    plane.start([pool := pool_of(backends)], {})
    client = Client(pool)
    for method in ("GET", "POST") * 10:
        assert client.ask(method, body=b"once" if method == "POST" else None)[0] == 200
    assert sum(tries(backends)) == 20
    counters = plane.observe().readings["web"][gone.name].counters
    assert counters.refused == 5
    assert counters.ejected, "after five in a row it is left out for a moment"


def test_retries_stay_within_their_budget(plane, http_backends, monkeypatch) -> None:
    """All are at fault, for good: what was saved goes, then a part of the requests is repeated."""
    monkeypatch.setattr("tierkeeper.balance.envoy.budget.RETRIES_SAVED_MIN", 20)
    backends = http_backends(3, status=503, delay_seconds=0.01)
    plane.start([pool := pool_of(backends, panic_percent=100)], {})
    plane._budgets["web"] = Budget(20)
    asked: Counter[int] = Counter()
    end = time.monotonic() + 1.5

    def ask() -> None:
        client = Client(pool)
        while time.monotonic() < end:
            asked[client.ask()[0]] += 1

    def look() -> None:
        while time.monotonic() < end:
            plane.observe()
            time.sleep(0.05)

    run([ask] * 8 + [look])
    got = sum(tries(backends))
    assert set(asked) == {503}
    assert 1.05 * asked[503] < got <= 1.3 * asked[503] + 20


def run(targets: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


SERVER = """
import asyncio, sys
async def serve(reader, writer):
    while (line := await reader.readline()):
        while (await reader.readline()).strip(): pass
        await asyncio.sleep(0.005)
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.mark.parametrize("kills", sampled((1, 12), 1))
def test_kill_9_of_a_backend_costs_no_idempotent_request(plane, spawned, http_backends, kills) -> None:
    """And the one that comes back gets its share again."""
    ports = [free_port() for _ in range(3)]
    servers = {port: spawned(SERVER, port) for port in ports}
    pool = replace(pool_of(http_backends(1)), backends=tuple(Backend(f"127.0.0.1:{port}", "127.0.0.1", port) for port in ports))
    plane.start([pool], {})
    answers: Counter[object] = Counter()
    stop = threading.Event()

    def ask() -> None:
        client = Client(pool)
        while not stop.is_set():
            try:
                answers[client.ask()[0]] += 1
            except OSError as error:
                answers[repr(error)] += 1

    def counters(port: int) -> Counters:
        return plane.observe().readings["web"][f"127.0.0.1:{port}"].counters

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.2)
        for turn in range(kills):
            port = ports[turn % 3]
            servers[port].kill()
            servers[port].wait()
            time.sleep(0.2)
            assert (after := counters(port)).errors + after.refused > 0
            servers[port] = spawned(SERVER, port)
            before = counters(port).requests
            until(lambda p=port, n=before: counters(p).requests > n + 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {200}
    assert answers[200] > 100


def test_a_backend_that_hangs_ends_at_the_time_limit_and_is_seen(plane, http_backends) -> None:
    backends = http_backends(2)
    backends[0].hangs = True
    plane.start([pool := pool_of(backends, request_timeout_seconds=0.3)], {})
    client = Client(pool)
    start = time.monotonic()
    answers = [client.ask()[0] for _ in range(2)]
    assert sorted(answers) == [200, 504]
    assert time.monotonic() - start < 1.5
    counters = plane.observe().readings["web"][backends[0].name].counters
    assert counters.errors == 1
    other: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: other.extend(client.ask() for _ in range(2)))
    asking.start()
    until(lambda: plane.observe().readings["web"][backends[0].name].counters.in_flight == 1)
    asking.join()
    assert sorted(status for status, _ in other) == [200, 504]


def test_a_connection_is_tried_elsewhere(plane, tcp_backends) -> None:
    backends = tcp_backends(3)
    backends[0].stop()
    plane.start([pool := pool_of(backends, "tcp"), one := pool_of(backends[:1], "alone")], {})
    ports = {int(connect(pool).recv(20)) for _ in range(12)}
    assert ports == {b.port for b in backends[1:]}
    assert send(one, b"") == b""
    assert plane.observe().readings["alone"][backends[0].name].counters.refused == 4


def test_no_backend_at_all_is_an_answer_at_once(plane, http_backends) -> None:
    backends = http_backends(2)
    plane.start([pool := pool_of(backends)], {})
    plane.publish({"web": {b.name: Share(Takes.NOTHING_NEW) for b in backends}})
    time.sleep(0.1)
    start = time.monotonic()
    assert Client(pool).ask()[0] == 503
    assert time.monotonic() - start < 0.5
