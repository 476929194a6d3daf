"""The commands of `balance` in processes of their own, over a plane in memory."""

import json
import os
import resource
import signal
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends import HttpBackend
from brains import MemoryPlane
from processes import Ended, command, forks
from support import Tiers, eventually, tierkeeper_toml
from tierkeeper.demo.server import free_port


@dataclass
class Place:
    """A user's home with a configuration and nothing else: no tier is configured."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "VIRTUAL_ENV", "PYTHONPATH")}
        return {**kept, "HOME": str(self.home)}

    @property
    def state(self) -> Path:
        (found,) = (self.home / ".local/state/tierkeeper").glob("balance-*")
        return found

    def write(self, *backends: str, extra: str = "", more: str = "") -> None:
        listed = ", ".join(f'"{b}"' for b in backends)
        (self.home / "tierkeeper.toml").write_text(
            f"[balance]\nhealth_check_interval = 0.2\n{extra}\n[[balance.services]]\nname = 'api'\nprotocol = 'http'\n"
            f"listen = '127.0.0.1:{free_port()}'\nbackends = [{listed}]\n{more}\n"
        )

    def run(self, *arguments: str) -> Ended:
        return command(["balance", *arguments], self.environment)

    def ask(self, *arguments: str, code: int = 0) -> Any:
        ended = self.run(*arguments, "--json")
        assert ended.returncode == code, ended
        return json.loads(ended.stdout)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With a longer path than the kernel takes for a socket."""
    home = tmp_path / ("home" * 30)
    home.mkdir()
    return Place(home)


def _serve(environment: Mapping[str, str], log: str, plane_process: int, arguments: Sequence[str] = ("balance", "serve")) -> None:
    for name, number in ((log, 1), (f"{log}.err", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["HOME"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    from tierkeeper.cli import main
    from tierkeeper.compose import balancer

    assert balancer.serve.__kwdefaults__ is not None
    balancer.serve.__kwdefaults__["make_plane"] = MemoryPlane(process=plane_process).factory
    main([*arguments, "--json"])


@dataclass
class Serving:
    process: ForkServerProcess
    log: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [one for one in map(json.loads, lines) if one.get("event") == kind]

    def says(self, kind: str, text: str = "") -> bool:
        return eventually(lambda: any(text in e["told"] for e in self.events(kind)))

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


@contextmanager
def serving(place: Place, *, ends: bool = True) -> Iterator[Serving]:
    log = place.home / "serve.log"
    log.unlink(missing_ok=True)
    process = forks().Process(target=_serve, args=(place.environment, str(log), os.getpid()))
    process.start()
    try:
        run = Serving(process, log)
        assert run.says("serves"), log.with_name("serve.log.err").read_text() + log.read_text()
        yield run
        if ends:
            run.signal(signal.SIGTERM)
            process.join(10)
            assert process.exitcode == 0, log.with_name("serve.log.err").read_text()
    finally:
        process.kill()
        process.join()


@pytest.fixture
def two() -> Iterator[tuple[HttpBackend, HttpBackend]]:
    with HttpBackend() as one, HttpBackend() as other:
        yield one, other


def backend(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = [b for s in document["services"] for b in s["backends"] if b["name"] == name]
    return dict(found)


def test_serving_from_its_start_to_its_end(place: Place, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    place.write(one.url, other.url)
    with serving(place) as run:
        status = place.ask("status")
        assert (status["running"], backend(status, one.name)["state"]) == (True, "in")
        assert stat.S_IMODE(place.state.stat().st_mode) == 0o700
        files = Path(f"/proc/{run.process.pid}/limits").read_text().partition("Max open files")[2].split()
        assert files[0] == files[1], "each backend takes two"
        assert {stat.S_IMODE(p.stat().st_mode) for p in place.state.iterdir() if not p.is_dir()} == {0o600}
        assert place.ask("drain", "api", other.name)["changed"] is True
        drained = backend(place.ask("status"), other.name)
        assert (drained["state"], drained["ports"]["api"]) == ("drained", {"takes": "nothing new", "weight": 100, "share": 0.0})
        assert place.ask("undrain", "api", other.name)["changed"] is True
        for arguments, known in ((("drain", "apis", one.name), "api"), (("drain", "api", "x:1"), one.name)):
            assert known in place.ask(*arguments, code=2)["error"]["remedy"]
        other.status = 500
        assert run.says("state", "500")
        assert "500" in place.run("status").stdout
        assert place.ask("serve", code=2)["error"]["cause"].startswith("another")
    assert run.events("ended")
    last = place.run("status")
    assert (last.returncode, "nothing serves" in last.stdout, one.name in last.stdout) == (0, True, True)
    record = [json.loads(line) for line in (place.state / "audit.jsonl").read_text().splitlines()]
    notes = [(r["verb"], r["kind"]) for r in record]
    assert notes[:3] == [("balance serve", "intent"), ("balance drain", "intent"), ("balance drain", "outcome")]
    assert notes[-1] == ("balance serve", "outcome")
    assert next(r["failed"] for r in record if "failed" in r).startswith("there is no service")


def test_a_hangup_reads_the_configuration_anew_or_changes_nothing(place: Place, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    place.write(one.url)
    with serving(place) as run:
        place.write(one.url, other.url)
        for _ in range(300):
            run.signal(signal.SIGHUP)  # one comes amid the handler of the one before
        assert run.says("reloaded")
        assert eventually(lambda: backend(place.ask("status"), other.name)["state"] == "in")
        place.write(one.url, more="algorithm = 'roundrobin'\n")
        run.signal(signal.SIGHUP)
        assert run.says("fault", "algorithm")
        place.write(one.url, more="certificate = 'none.pem'\nkey = 'none.key'\n")
        run.signal(signal.SIGHUP)
        assert run.says("fault", "certificate")
        place.write(one.url, other.url, extra=f"metrics = '127.0.0.1:{free_port()}'")
        run.signal(signal.SIGHUP)
        assert run.says("reloaded", "balance.metrics stays off")
        assert len(place.ask("status")["services"][0]["backends"]) == 2


def test_a_killed_brain_leaves_word_and_another_takes_over(place: Place, two: tuple[HttpBackend, HttpBackend]) -> None:
    place.write(two[0].url)
    with serving(place, ends=False) as run:
        assert eventually((place.state / "status.json").exists)
        run.process.kill()
        run.process.join()
        status = place.ask("status")
        assert (status["running"], "traffic goes on as it was" in status["notes"][0]) == (False, True)
        (place.state / "status.json").write_text('{"services": 1}')
        assert "cannot be read" in place.ask("status")["notes"][0]
        assert "not running" in place.ask("drain", "api", two[0].name, code=75)["error"]["cause"]
        assert place.ask("drain", "api", "x:1", code=2)["error"]["place"] == "BACKEND"
    with serving(place):
        assert place.ask("status")["running"] is True


def test_what_prometheus_and_a_browser_are_told(place: Place, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    other.status = 500
    port = free_port()
    place.write(one.url, other.url, extra=f"metrics = '127.0.0.1:{port}'")
    with serving(place), ExitStack() as held, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(200):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))  # who asks nothing keeps nobody from asking
        text = client.get("/metrics").text
        assert f'tierkeeper_balance_up{{backend="{one.name}",service="api"}} 1.0' in text
        assert f'tierkeeper_balance_up{{backend="{other.name}",service="api"}} 0.0' in text
        assert f'tierkeeper_balance_share{{backend="{one.name}",port="api",service="api"}} 1.0' in text
        assert "tierkeeper_balance_plane_restarts 0.0" in text
        page = client.get("/")
        assert (one.name in page.text, "status 500" in page.text) == (True, True)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert [client.post(path).status_code for path in ("/drain", "/reload", "/metrics", "/")] == [404, 404, 405, 405]
        log = place.home / "second.log"
        elsewhere = {**place.environment, "XDG_STATE_HOME": f"{place.home}/s"}
        second = forks().Process(target=_serve, args=(elsewhere, str(log), 0))
        second.start()
        second.join(20)
        assert (second.exitcode, "balance.metrics" in log.read_text()) == (2, True), log.read_text()


def test_check_asks_once_and_looks_at_files(place: Place, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    place.write(one.url, other.url)
    assert place.ask("check")["ok"] is True
    place.write(one.url, f"http://127.0.0.1:{free_port()}", more="certificate = 'c.pem'\nkey = 'k.pem'\n")
    found = place.ask("check", code=1)
    assert [c["ok"] for c in found["checks"]] == [False, True, False]
    assert all(c["remedy"] for c in found["checks"] if not c["ok"])
    assert not (place.home / ".local").exists(), "check leaves nothing"


@pytest.mark.parametrize(
    ("line", "place_in_file", "remedy"),
    [
        ("name = 'a b'", "name", "letters, digits"),
        ("hash_on = 'cookie'", "hash_on", "header:X-User"),
        ("health = { path = 'health' }", "health.path", "Begin it with a slash"),
        ("health = { path = '/a b' }", "health.path", "without spaces"),
        ("health = { status = [20] }", "health.status", "from 200 to 599"),
    ],
)
def test_a_wrong_service_is_told_with_its_remedy(place: Place, line: str, place_in_file: str, remedy: str) -> None:
    place.write("http://127.0.0.1:1", more=line)
    if line.startswith("name"):
        text = (place.home / "tierkeeper.toml").read_text()
        (place.home / "tierkeeper.toml").write_text(text.replace("name = 'api'\n", ""))
    error = place.ask("check", code=2)["error"]
    assert error["place"] == f"tierkeeper.toml: balance.services[0].{place_in_file}"
    assert remedy in error["remedy"]


def test_nothing_to_balance_is_told_with_what_to_write(place: Place, tiers: Tiers) -> None:
    (place.home / "tierkeeper.toml").write_text("[balance]\n")
    for what in ("serve", "status", "check"):
        error = place.ask(what, code=2)["error"]
        assert "[[balance.services]]" in error["remedy"]
    (place.home / "tierkeeper.toml").write_text("[balance]\nservice = 1\n[quota]\n")
    assert len(place.ask("status", code=2)["error"]) == 2
    place.write("http://127.0.0.1:1", "http://127.0.0.1:1/x", more="certificate = 'none.pem'\nkey = 'none.key'\n")
    config = tierkeeper_toml(tiers, extra=(place.home / "tierkeeper.toml").read_text())
    ended = command(["--config", str(config), "check", "--json"], tiers.environment)
    places = [e["place"] for e in json.loads(ended.stdout)["error"]]
    assert (ended.returncode, places) == (2, ["balance.services[0].certificate", "balance.services[0].backends[1]"])
    config = tierkeeper_toml(tiers)
    ended = command(["--config", str(config), "balance", "check", "--json"], tiers.environment)
    document = json.loads(ended.stdout)
    assert (ended.returncode, [c["name"] for c in document["checks"]][:2]) == (0, ["core", "main"])


def test_run_balances_beside_its_schedule(place: Place, tiers: Tiers, two: tuple[HttpBackend, HttpBackend]) -> None:
    one, other = two
    place.write(one.url)
    tierkeeper_toml(tiers, extra=(place.home / "tierkeeper.toml").read_text())
    text = (tiers.home / "tierkeeper.toml").read_text()
    (place.home / "tierkeeper.toml").write_text(text)
    log = place.home / "run.log"
    process = forks().Process(target=_serve, args=(place.environment, str(log), 0, ("run",)))
    process.start()
    try:
        run = Serving(process, log)
        assert run.says("balance", "serves: 1 services"), log.read_text()
        assert run.says("leads")
        (place.home / "tierkeeper.toml").write_text(text.replace(f'["{one.url}"]', f'["{one.url}", "{other.url}"]'))
        run.signal(signal.SIGHUP)
        assert run.says("balance", "reloaded")
        assert len(place.ask("status")["services"][0]["backends"]) == 2
        run.signal(signal.SIGTERM)
        process.join(20)
        assert process.exitcode in (0, 75), log.with_name("run.log.err").read_text()
        assert run.says("balance", "ended")
    finally:
        process.kill()
        process.join()


def test_changes_are_audited_on_main_where_it_answers(place: Place, tiers: Tiers, two: tuple[HttpBackend, HttpBackend]) -> None:
    place.write(two[0].url, two[1].url)
    service = (place.home / "tierkeeper.toml").read_text()
    tierkeeper_toml(tiers, extra=service)
    text = (tiers.home / "tierkeeper.toml").read_text()
    (place.home / "tierkeeper.toml").write_text(text)
    assert command(["setup", "--apply"], {**tiers.environment, "XDG_STATE_HOME": str(place.home / "s")}).returncode == 0
    with serving(place) as run:
        assert place.ask("drain", "api", two[0].name)["notes"] == []
        assert run.events("audit") == []
    with closing(tiers.main.connect("oracle")) as conn:
        rows = conn.execute("SELECT verb, kind FROM tierkeeper.audit WHERE verb LIKE 'balance%' ORDER BY id").fetchall()
    assert rows == [
        ("balance serve", "intent"),
        ("balance drain", "intent"),
        ("balance drain", "outcome"),
        ("balance serve", "outcome"),
    ]
    away = text.replace(f":{tiers.main.parameters['port']}/", f":{free_port()}/")
    (place.home / "tierkeeper.toml").write_text(away)
    with serving(place) as run:
        assert run.says("audit", "tiers.main")
        notes = place.ask("undrain", "api", two[0].name)["notes"]
        assert "this machine's record alone" in notes[0]
        assert backend(place.ask("status"), two[0].name)["state"] == "in"
