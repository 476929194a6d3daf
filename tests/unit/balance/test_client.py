"""A program's requests over real servers: spread, tried again where they may be, never twice at one host."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import tierkeeper
from backends import Answer, HttpBackend, http_backends
from tierkeeper.balance.client import WHOLE_SECONDS, NoBackend, Spread, pool_of
from tierkeeper.balance.model import Share, Takes
from tierkeeper.demo.server import free_port
from tierkeeper.kernel.errors import UsageError


@pytest.fixture
def three() -> Iterator[list[HttpBackend]]:
    with http_backends(3) as servers:
        yield servers


@pytest.fixture
def closed_port() -> int:
    return free_port()


def client(servers: list[HttpBackend], *more: str, algorithm: str = "round_robin", max_retries: int = 3) -> httpx.Client:
    urls = [*more, *(s.url for s in servers)]
    return httpx.Client(
        transport=tierkeeper.transport(urls, algorithm=algorithm, max_retries=max_retries),  # type: ignore[arg-type]
        base_url="http://shop",
    )


def fails(status: int = 503) -> Answer:
    return Answer(status, b"no")


@pytest.mark.parametrize("algorithm", ["round_robin", "weighted", "least_request", "random_two", "adaptive"])
def test_requests_are_spread_and_arrive_as_they_were(three: list[HttpBackend], algorithm: str) -> None:
    with client(three, algorithm=algorithm) as web:
        for i in range(30):
            answer = web.post(f"/a/{i}?b=c%20d", content=b"body", headers={"x-own": "1"})
            assert answer.status_code == 200
    found = [asked for s in three for asked in s.requests]
    assert len(found) == 30
    assert {(a.body, a.fields["x-own"], a.fields["host"]) for a in found} == {(b"body", "1", "shop")}
    assert sorted(a.path for a in found) == sorted(f"/a/{i}?b=c%20d" for i in range(30))
    assert all(s.requests for s in three)


@pytest.mark.parametrize(
    ("method", "idempotent"),
    [("GET", 1), ("HEAD", 1), ("PUT", 1), ("DELETE", 1), ("OPTIONS", 1), ("POST", 0), ("PATCH", 0)],
)
@pytest.mark.parametrize("how", ["503", "hangs up"])
def test_what_is_idempotent_is_tried_again_and_nothing_else(
    three: list[HttpBackend], method: str, idempotent: int, how: str
) -> None:
    three[0].answers = lambda _: Answer(hangs_up=True) if how == "hangs up" else fails()
    statuses = []
    with client(three) as web:
        for _ in range(9):
            try:
                statuses.append(web.request(method, "/").status_code)
            except httpx.RemoteProtocolError:
                statuses.append(0)
    sent = sum(len(s.requests) for s in three)
    if idempotent:
        assert set(statuses) == {200}
        assert 9 < sent <= 9 + len(three[0].requests)
    else:
        assert sent == 9
        assert Counter(statuses)[503 if how == "503" else 0] == len(three[0].requests) > 0


def test_never_twice_at_one_host_and_the_last_answer_is_told(three: list[HttpBackend]) -> None:
    for server in three:
        server.answers = lambda _: fails(502)
    with client(three, max_retries=10) as web:
        assert web.get("/").status_code == 502
    assert [len(s.requests) for s in three] == [1, 1, 1]


@pytest.mark.parametrize(("max_retries", "sent"), [(0, 1), (1, 2), (2, 3)])
def test_no_more_tries_than_were_allowed(three: list[HttpBackend], max_retries: int, sent: int) -> None:
    for server in three:
        server.answers = lambda _: fails()
    with client(three, max_retries=max_retries) as web:
        assert web.get("/").status_code == 503
    assert sum(len(s.requests) for s in three) == sent


def test_a_stream_is_sent_once(three: list[HttpBackend]) -> None:
    for server in three:
        server.answers = lambda _: fails()
    with client(three) as web:
        assert web.put("/", content=iter([b"a", b"b"])).status_code == 503
        assert sum(len(s.requests) for s in three) == 1
        assert web.put("/", content=b"ab").status_code == 503
    assert [a.body for s in three for a in s.requests] == [b"ab"] * 4


@pytest.mark.parametrize("status", [400, 404, 500, 501])
def test_an_answer_that_another_host_would_give_too_is_not_asked_for_again(three: list[HttpBackend], status: int) -> None:
    for server in three:
        server.answers = lambda _: fails(status)
    with client(three) as web:
        assert web.get("/").status_code == status
    assert sum(len(s.requests) for s in three) == 1


def test_in_a_pool_that_fails_altogether_a_fifth_is_tried_again(three: list[HttpBackend]) -> None:
    for server in three:
        server.answers = lambda _: fails()
    with client(three) as web:
        for _ in range(300):
            assert web.get("/").status_code == 503
    assert 300 * 1.1 < sum(len(s.requests) for s in three) <= 300 * 1.2 + 15


def test_one_that_refuses_is_left_alone_and_costs_no_request(three: list[HttpBackend], closed_port: int) -> None:
    with client(three, f"http://127.0.0.1:{closed_port}") as web:
        assert {web.get("/").status_code for _ in range(100)} == {200}
        transport = web._transport
        assert isinstance(transport, tierkeeper.balance.client.SpreadTransport)  # type: ignore[attr-defined]
        assert [up for _, up in transport.spread.up().items()] == [False, True, True, True]


def test_one_that_hangs_is_given_up_at_the_clients_time_out_and_tried_elsewhere(three: list[HttpBackend]) -> None:
    three[0].answers = lambda _: Answer(wait_seconds=1.5)
    with client(three) as web:
        assert {web.get("/", timeout=0.5).text for _ in range(3)} <= {"1", "2"}
    assert 1 <= len(three[0].requests) <= 2


@pytest.mark.parametrize(("other", "seconds"), [(Takes.TRAFFIC, 5), (Takes.NOTHING, 10)])
def test_time_is_left_for_another_where_there_is_one(other: Takes, seconds: float) -> None:
    spread = Spread(pool_of(["http://127.0.0.1:1", "http://127.0.0.1:2"]), clock=lambda: 0)
    spread.update({"127.0.0.1:1": Share(Takes.TRAFFIC), "127.0.0.1:2": Share(other)})
    attempt = spread.start(httpx.Request("GET", "http://service/", extensions={WHOLE_SECONDS: 10}))
    _, sent = spread.next(attempt)
    assert sent.extensions["timeout"]["read"] == seconds


def test_where_nobody_is_left_the_error_is_httpxs(closed_port: int) -> None:
    with client([], f"http://127.0.0.1:{closed_port}") as web, pytest.raises(httpx.ConnectError):
        web.get("/")
    assert issubclass(NoBackend, httpx.ConnectError)


def test_threads_share_a_client(three: list[HttpBackend]) -> None:
    with client(three, algorithm="adaptive") as web, ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: web.get("/").status_code, range(400))) == {200}
        transport = web._transport
        assert all(h.in_flight == 0 for h in transport.spread._chooser._hosts.values())  # type: ignore[attr-defined]
    assert sum(len(s.requests) for s in three) == 400


def test_a_key_in_a_header_stays_at_its_host(three: list[HttpBackend]) -> None:
    from dataclasses import replace

    from tierkeeper.balance.client import SpreadTransport

    pool = replace(pool_of([s.url for s in three], "consistent_hash"), hash_on="header:x-user")
    with httpx.Client(transport=SpreadTransport(pool), base_url="http://shop") as web:
        placed = {user: {web.get(f"/{i}", headers={"x-user": user}).text for i in range(5)} for user in "abcdefgh"}
    assert all(len(hosts) == 1 for hosts in placed.values())
    assert len({next(iter(hosts)) for hosts in placed.values()}) > 1


def test_the_asynchronous_one_does_the_same(three: list[HttpBackend], closed_port: int) -> None:
    three[0].answers = lambda _: fails()

    async def ask() -> list[int]:
        urls = [f"http://127.0.0.1:{closed_port}", *(s.url for s in three)]
        async with httpx.AsyncClient(transport=tierkeeper.async_transport(urls), base_url="http://shop") as web:
            found = [(await web.get("/")).status_code for _ in range(40)]
            found += [a.status_code for a in await asyncio.gather(*(web.get("/") for _ in range(40)))]
            task = asyncio.create_task(web.get("/slow"))
            three[1].answers = three[2].answers = lambda _: Answer(wait_seconds=0.5)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            hosts = web._transport.spread._chooser._hosts.values()  # type: ignore[attr-defined]
            assert all(h.in_flight == 0 for h in hosts)
            return found

    assert set(asyncio.run(ask())) == {200}


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["10.0.0.2:9000"],
        ["ftp://a"],
        ["http://a:99999"],
        ["http://a/path"],
        ["http://u:p@a"],
        ["http://a", "http://a:80"],
        ["http://"],
    ],
)
def test_a_wrong_address_is_one_clear_error(urls: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        tierkeeper.transport(urls)
    assert caught.value.place.startswith("urls")
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"algorithm": "fastest"}, {"max_retries": -1}, {"weights": [1]}, {"weights": [0, 1]}, {"weights": [1, 101]}]
)
def test_a_wrong_argument_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        tierkeeper.transport(["http://a", "http://b"], **wrong)  # type: ignore[arg-type]
    assert [caught.value.place] == list(wrong)


def test_importing_tierkeeper_loads_no_client() -> None:
    import subprocess
    import sys

    code = "import sys, tierkeeper; print([m for m in ('httpx', 'psycopg', 'pydantic') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"
