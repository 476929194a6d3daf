"""HTTP events, answered by real servers behind the handler."""

import base64
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backends import Answer, HttpBackend, Request, http_backends
from invocations import RULE, Context
from tierkeeper.demo.server import free_port
from tierkeeper.functions import handlers, proxying
from tierkeeper.kernel.errors import UsageError

Configure = Callable[..., None]


@pytest.fixture
def three() -> Iterator[list[HttpBackend]]:
    with http_backends(3) as servers:
        yield servers


@pytest.fixture
def closed() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(autouse=True)
def fresh_instance() -> Iterator[None]:
    proxying._KEPT.clear()
    yield
    for proxy in proxying._KEPT.values():
        proxy.transport.close()
    proxying._KEPT.clear()


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    monkeypatch.delenv("TIERKEEPER_SERVICE", raising=False)
    for name in ("CORE", "MAIN", "ARCHIVE"):
        monkeypatch.setenv(f"{name}_SUPABASE_URL", f"postgresql://u:p@127.0.0.1:1/{name.lower()}")
    monkeypatch.setenv("ARCHIVE_PATH", str(tmp_path))
    path = tmp_path / "tierkeeper.toml"
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(path))

    def write(urls: list[str], *, balance: str = "", service: str = "", health: str = "", more: str = "") -> None:
        path.write_text(
            f'[balance]\n{balance}\n[[balance.services]]\nname = "web"\nprotocol = "http"\nlisten = "127.0.0.1:8080"\n'
            f"backends = {json.dumps(urls)}\n{service}\n[balance.services.health]\npath = '/health'\n{health}\n{more}\n"
        )
        path.chmod(0o600)

    return write


def event(method: str = "GET", path: str = "/", **more: Any) -> dict[str, Any]:
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7", "userAgent": "x"}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "abc.lambda-url.example", "x-forwarded-for": "203.0.113.7", "accept": "*/*"},
        "requestContext": {"http": http, "stage": "$default", "domainName": "abc.lambda-url.example"},
        "isBase64Encoded": False,
        **more,
    }


def ask(given: dict[str, Any], context: object = None) -> dict[str, Any]:
    answer = handlers.intelligent_load_balancer(given, context)
    json.dumps(answer)
    return answer


def proper(server: HttpBackend) -> list[Request]:
    return [a for a in server.requests if a.path != "/health"]


def seen(servers: list[HttpBackend]) -> list[Request]:
    return [a for s in servers for a in proper(s)]


def test_a_request_arrives_as_it_was_sent(three: list[HttpBackend], configure: Configure) -> None:
    configure([s.url for s in three])
    given = event(
        "POST",
        "/a b/%C3%A4",
        rawQueryString="q=1&q=2&x=%20y",
        headers={
            "host": "shop.example",
            "x-own": "1,2",
            "connection": "keep-alive, x-private",
            "x-private": "secret",
            "te": "trailers",
            "transfer-encoding": "chunked",
            "content-length": "9999",
            "proxy-authorization": "Basic x",
            "upgrade": "websocket",
            "x-forwarded-for": "198.51.100.1",
        },
        cookies=["a=1", "b=2"],
        body=base64.b64encode(b"\x00\xffbody").decode(),
        isBase64Encoded=True,
    )
    assert ask(given)["statusCode"] == 200
    (asked,) = seen(three)
    assert (asked.method, asked.path, asked.body) == ("POST", "/a%20b/%C3%A4?q=1&q=2&x=%20y", b"\x00\xffbody")
    assert asked.fields == {
        "host": "shop.example",
        "x-own": "1,2",
        "cookie": "a=1; b=2",
        "x-forwarded-for": "198.51.100.1, 203.0.113.7",
        "content-length": "6",
    }


def test_an_answer_comes_back_as_it_was_given(three: list[HttpBackend], configure: Configure) -> None:
    configure([three[0].url])
    headers = (
        ("content-type", "application/json; charset=utf-8"),
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2"),
        ("x-many", "1"),
        ("x-many", "2"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
    )
    three[0].answers = lambda _: Answer(201, '{"ä": 1}'.encode(), headers)
    answer = ask(event())
    own = {k: v for k, v in answer["headers"].items() if k not in ("date", "server")}
    assert own == {"content-type": "application/json; charset=utf-8", "x-many": "1, 2"}
    assert (answer["statusCode"], answer["body"], answer["isBase64Encoded"]) == (201, '{"ä": 1}', False)
    assert answer["cookies"] == ["a=1; Path=/", "b=2"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\x89PNG\xff", (("content-type", "image/png"),)),
        (gzip.compress(b"text", mtime=0), (("content-type", "text/plain"), ("content-encoding", "gzip"))),
        (b"\xff\xfe", (("content-type", "text/plain"),)),
    ],
)
def test_what_is_no_text_comes_as_base64(
    three: list[HttpBackend], configure: Configure, body: bytes, headers: tuple[tuple[str, str], ...]
) -> None:
    configure([three[0].url])
    three[0].answers = lambda _: Answer(200, body, headers)
    answer = ask(event())
    assert answer["isBase64Encoded"] is True
    assert base64.b64decode(answer["body"]) == body
    assert answer["headers"].get("content-encoding") == dict(headers).get("content-encoding")


@pytest.mark.parametrize(("method", "sent"), [("GET", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)])
def test_only_what_is_idempotent_is_tried_again(three: list[HttpBackend], configure: Configure, method: str, sent: int) -> None:
    first: list[str] = []

    def answers(asked: Request) -> Answer:
        if asked.path == "/health":
            return Answer()
        first.append(asked.method)
        return Answer(503 if len(first) == 1 else 200)

    for server in three:
        server.answers = answers
    configure([s.url for s in three])
    answer = ask(event(method, "/x", body="b"))
    assert answer["statusCode"] == (200 if sent == 2 else 503)
    assert len(first) == sent
    assert all(len(proper(s)) <= 1 for s in three)


def test_one_that_is_not_well_gets_no_request(three: list[HttpBackend], closed: str, configure: Configure) -> None:
    three[0].answers = lambda a: Answer(500 if a.path == "/health" else 200)
    configure([closed, *(s.url for s in three)])
    assert {ask(event("POST"))["statusCode"] for _ in range(12)} == {200}
    assert proper(three[0]) == []
    assert all(len([a for a in s.requests if a.path == "/health"]) == 1 for s in three)


def test_health_is_judged_by_status_and_body(three: list[HttpBackend], configure: Configure) -> None:
    three[0].answers = lambda _: Answer(204)
    three[1].answers = lambda _: Answer(200, b"starting")
    three[2].answers = lambda _: Answer(200, b"all is ready now")
    configure([s.url for s in three], health="status = [200]\nbody = 'ready'", balance="panic_threshold = '30%'")
    assert {ask(event("POST"))["body"] for _ in range(6)} == {"all is ready now"}
    assert [len(proper(s)) for s in three] == [0, 0, 6]


@pytest.mark.parametrize("panic", ["panic_threshold = '1%'", ""])
def test_without_a_healthy_backend_it_is_a_503(closed: str, configure: Configure, panic: str) -> None:
    configure([closed], balance=panic)
    answer = ask(event())
    assert (answer["statusCode"], answer["headers"]["content-type"]) == (503, "application/json")
    assert json.loads(answer["body"]) == {"error": "no backend is healthy", "status": 503}
    assert closed.rpartition(":")[2] not in json.dumps(answer)


def test_one_that_breaks_off_is_a_502(three: list[HttpBackend], configure: Configure) -> None:
    for server in three:
        server.answers = lambda a: Answer(hangs_up=a.path != "/health")
    configure([s.url for s in three])
    assert ask(event("POST"))["statusCode"] == 502
    assert len(seen(three)) == 1


def test_one_that_hangs_is_a_504_within_the_functions_time(three: list[HttpBackend], configure: Configure) -> None:
    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 600

    three[0].answers = lambda a: Answer(wait_seconds=0 if a.path == "/health" else 1.0)
    configure([three[0].url])
    assert ask(event("POST"), Context())["statusCode"] == 504


@pytest.mark.parametrize("stalls", [False, True])
def test_what_comes_drop_by_drop_is_a_504_within_the_functions_time(configure: Configure, stalls: bool) -> None:
    class Dripping(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            drops = 1 if self.path == "/health" else 1000
            self.send_header("content-length", str(drops))
            self.end_headers()
            with suppress(OSError):
                for number in range(drops):
                    time.sleep(0 if drops == 1 else 2 if stalls and number == 4 else 0.1)
                    self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configure([f"http://127.0.0.1:{server.server_port}"], service="timeout = 30")
        began = time.monotonic()
        assert ask(event(), Context(began, 1.0))["statusCode"] == 504
        assert time.monotonic() - began < 1.0
        server.shutdown()


def test_a_name_that_is_no_ascii_arrives(three: list[HttpBackend], configure: Configure) -> None:
    configure([three[0].url])
    for given in ({"headers": {"x-own": "café"}}, {"headers": {"host": "h\ud800"}}, {"cookies": ["a=é"]}, {"rawPath": "/\ud800"}):
        assert ask(event(**given))["statusCode"] == 200
    assert "café" in {a.fields.get("x-own") for a in seen(three)}


def test_a_hanging_one_leaves_time_for_another(three: list[HttpBackend], configure: Configure) -> None:
    three[0].answers = lambda a: Answer(wait_seconds=0 if a.path == "/health" else 2.0)
    configure([three[0].url, three[1].url], service="timeout = 1.4")
    assert {ask(event())["body"] for _ in range(2)} == {"1"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"x": "a\r\nevil: 1"}},
        {"headers": {"a b": "1"}},
        {"cookies": ["a=1\r\nx: y"]},
        {"body": "%%%", "isBase64Encoded": True},
    ],
)
def test_what_would_smuggle_is_refused(three: list[HttpBackend], configure: Configure, wrong: dict[str, Any]) -> None:
    configure([s.url for s in three])
    assert ask(event("POST", **wrong))["statusCode"] == 400
    assert seen(three) == []


@pytest.mark.parametrize("path", ["//127.0.0.2:1/x", "http://127.0.0.2:1/", "/@127.0.0.2:1/", "/../x", "\\\\127.0.0.2"])
def test_it_is_no_open_proxy(three: list[HttpBackend], configure: Configure, path: str) -> None:
    configure([three[0].url])
    assert ask(event(path=path))["statusCode"] == 200
    assert len(seen(three)) == 1


def test_the_stage_is_no_part_of_the_path(three: list[HttpBackend], configure: Configure) -> None:
    configure([three[0].url])
    given = event(path="/prod/x")
    given["requestContext"]["stage"] = "prod"
    ask(given)
    assert [a.path for a in seen(three)] == ["/x"]


def test_an_answer_that_is_too_large_is_a_502(
    three: list[HttpBackend], configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure([three[0].url])
    monkeypatch.setattr(proxying, "ANSWER_BYTES_MAX", 1000)
    three[0].answers = lambda _: Answer(body=b"x" * 1001)
    assert ask(event())["statusCode"] == 502


def test_which_service_is_said_where_there_are_several(
    three: list[HttpBackend], configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = '[[balance.services]]\nname = "api"\nprotocol = "http"\nlisten = "127.0.0.1:8081"\nbackends = '
    configure([three[0].url], more=other + json.dumps([three[1].url]))
    with pytest.raises(UsageError, match="TIERKEEPER_SERVICE"):
        ask(event())
    for name, body in (("api", "1"), ("web", "0")):
        monkeypatch.setenv("TIERKEEPER_SERVICE", name)
        assert ask(event())["body"] == body
    monkeypatch.setenv("TIERKEEPER_SERVICE", "nope")
    with pytest.raises(UsageError, match="nope"):
        ask(event())


def test_a_schedule_still_asks_for_health(three: list[HttpBackend], configure: Configure) -> None:
    configure([s.url for s in three])
    for given in ({}, RULE, {"action": "check"}):
        answer = handlers.intelligent_load_balancer(given)
        assert answer["ok"] is True
        assert len(answer["checks"]) == 3
