"""Questions to real sockets: what is well, what is not, and that each ends by its deadline whatever the backend does."""

import ssl
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from backends import HttpBackend, dripping, hanging
from brains import service
from tierkeeper.balance.asking import HttpQuestion, TcpQuestion, question
from tierkeeper.balance.checks import Checks
from tierkeeper.balance.health import Answer
from tierkeeper.balance.pools import Ask, node
from tierkeeper.demo import certificates
from tierkeeper.demo.server import free_port

QUICK = 0.3


def asked(url: str, **more: object) -> Answer:
    ask = Ask("http", timeout_seconds=QUICK, **more)  # type: ignore[arg-type]
    with closing(HttpQuestion(ask, node(url, 1, 0))) as one:
        return one.ask().answer


def test_status_body_and_path_are_judged() -> None:
    with HttpBackend(status=204, body=b"x" * 70_000 + b"late") as one:
        assert asked(one.url).ok
        assert not asked(one.url, status=(200,)).ok
        assert asked(one.url, status=(200, 204)).ok
    with HttpBackend(status=404, body=b"x" * 60_000 + b"ready" + b"x" * 10_000 + b"late") as one:
        assert asked(one.url, body="ready", path="/health").ok
        late = asked(one.url, body="late")
        assert (late.ok, "first 64 kB" in late.why) == (False, True)
        assert asked(f"{one.url}/own/path?with=this", path="/health").ok
        assert one.paths == ["/health", "/", "/own/path?with=this"]
        assert {r.get("host") for r in one.requests} == {one.name}


@pytest.mark.parametrize("what", ["hangs", "drips headers", "drips a body", "drips chunks", "no HTTP", "closed"])
def test_whatever_a_backend_does_the_question_ends_in_time(what: str) -> None:
    drips = {
        "drips headers": b"HTTP/1.1 200 OK\r\nX: ",
        "drips a body": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        "drips chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    }
    began = time.monotonic()
    if what in drips:
        with dripping(drips[what], every_seconds=0.001 if what == "drips a body" else 0.005) as port:
            answer = asked(f"http://127.0.0.1:{port}", body="never there")
    elif what == "hangs":
        with hanging() as port:
            answer = asked(f"http://127.0.0.1:{port}")
    else:
        answer = asked(f"http://127.0.0.1:{free_port()}")
    assert not answer.ok
    assert answer.why
    assert time.monotonic() - began < QUICK + 0.5


def test_a_backend_is_verified_by_the_cas_that_are_named(tmp_path: Path) -> None:
    certificates.issue(tmp_path / "own")
    certificates.issue(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own" / "server.crt", tmp_path / "own" / "server.key")
    with HttpBackend(tls=context) as one:
        address = one.url
        assert asked(address, backend_ca=str(tmp_path / "own" / "ca.crt")).ok
        for ca in (str(tmp_path / "other" / "ca.crt"), None):
            refused = asked(address, backend_ca=ca)
            assert (refused.ok, "not trusted" in refused.why) == (False, True)
        ca = tmp_path / "ca.pem"
        asked_again = HttpQuestion(Ask("http", backend_ca=str(ca)), node(address, 1, 0))
        for name, is_well in (("other", False), ("own", True), (None, False)):
            if name is None:
                ca.unlink()
            else:
                ca.write_bytes((tmp_path / name / "ca.crt").read_bytes())
            assert asked_again.ask().answer.ok is is_well


def test_tcp() -> None:
    with hanging() as port:
        assert TcpQuestion(Ask("tcp"), node(f"127.0.0.1:{port}", 1, 0)).ask().answer.ok
    refused = TcpQuestion(Ask("tcp"), node(f"127.0.0.1:{free_port()}", 1, 0)).ask().answer
    assert (refused.ok, "refused" in refused.why) == (False, True)


def test_a_question_that_hangs_in_the_system_is_told_in_time_and_once() -> None:
    """Where no time-out of ours reaches, as in the resolver of names: the watcher tells, and the late answer comes to nothing."""
    released, asks = threading.Event(), list[float]()

    class Stuck(TcpQuestion):
        def ask(self) -> object:  # type: ignore[override]
            asks.append(time.monotonic())
            released.wait(5)
            return super().ask()

    with hanging() as port:
        checks = Checks(Stuck)
        checks.follow([service("api", [f"127.0.0.1:{port}"], Ask("tcp", timeout_seconds=QUICK))])
        try:
            began, reports = time.monotonic(), []
            while not reports and time.monotonic() - began < 2:
                checks.wait(0.05)
                reports = checks.take()
            assert QUICK <= time.monotonic() - began < QUICK + 0.4
            assert [r.heard.answer.ok for r in reports] == [False]
            time.sleep(0.2)
            assert checks.take() == []
            checks.pace({("api", f"127.0.0.1:{port}"): 30.0})
            released.set()
            time.sleep(0.2)
            assert checks.take() == []
            assert len(asks) == 1
        finally:
            checks.close()


def test_who_left_is_asked_no_more_and_its_thread_ends() -> None:
    with HttpBackend() as one:
        checks = Checks(question)
        checks.follow([service("api", [one.url])])
        checks.pace({("api", one.name): 0.01})
        time.sleep(0.1)
        checks.follow([])
        time.sleep(0.1)
        before = len(one.requests)
        time.sleep(0.1)
        assert before
        assert len(one.requests) == before
        assert [t.name for t in threading.enumerate() if t.name == f"check {one.name}"] == []
