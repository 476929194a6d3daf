"""What becomes of traffic when the brain dies, when Envoy dies, when the configuration changes, and when all of it stops."""

import fcntl
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from backends import HttpBackend, until
from support import sampled
from tierkeeper.balance.envoy import limits, process
from tierkeeper.balance.envoy.admin import Admin
from tierkeeper.balance.envoy.documents import Layout
from tierkeeper.balance.envoy.plane import EnvoyPlane
from tierkeeper.balance.model import Backend, Certificate, Share, Takes
from tierkeeper.demo.server import free_port
from tierkeeper.kernel.errors import Failed, NotNow, UsageError

from .conftest import Client, connect, pool_of


class Load:
    """Clients that ask all the time; every answer counted."""

    def __init__(self) -> None:
        self.answers: Counter[object] = Counter()

    @contextmanager
    def on(self, *pools, clients: int = 4, fresh: bool = True) -> Iterator["Load"]:
        stop = threading.Event()

        def ask(pool) -> None:
            client = Client(pool)
            while not stop.is_set():
                try:
                    self.answers[client.ask()[0]] += 1
                except OSError as error:
                    self.answers[repr(error)] += 1
                if fresh:
                    client.close()

        threads = [threading.Thread(target=ask, args=(pool,)) for pool in pools for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def refuses(pool) -> bool:
    try:
        connect(pool)
    except ConnectionRefusedError:
        return True
    return False


def envoys(folder: Path) -> list[int]:
    """The numbers of the live Envoys of a folder."""
    found = (process._ours(int(p.name), Layout(str(folder))) for p in Path("/proc").iterdir() if p.name.isdigit())
    return [running.pid for running in found if running is not None]


def pid_of(plane: EnvoyPlane) -> int:
    return int(plane.facts()["process"])


@pytest.mark.parametrize("fresh", sampled((True, False), 1))
def test_a_reload_under_load_loses_no_request(plane, http_backends, fresh: bool) -> None:
    backends = http_backends(4)
    steady = pool_of(backends[:2], "steady")
    changing = pool_of(backends[:2], "changing")
    plane.start([steady, changing], {})
    forms = [
        replace(changing, backends=pool_of(backends[2:]).backends),
        replace(changing, algorithm="least_request", request_timeout_seconds=5),
        replace(changing, algorithm="consistent_hash", max_retries=0),
        replace(changing, backends=pool_of(backends).backends, algorithm="random_two"),
    ]
    with Load().on(steady, changing, clients=2, fresh=fresh) as load:
        for i, form in enumerate(forms):
            extra = pool_of(backends, f"extra{i}")
            plane.reload([steady, form, extra], {})
            assert Client(extra).ask()[0] == 200
        plane.reload([steady, changing], {})
        until(lambda: refuses(extra))
    assert set(load.answers) == {200}
    assert load.answers[200] > 50
    assert Client(changing).split(4) == {backends[0].port: 2, backends[1].port: 2}


def test_what_left_ends_what_it_began_and_then_its_files_go(plane, http_backends, tcp_backends, folder, monkeypatch) -> None:
    monkeypatch.setattr(limits, "DRAIN_SECONDS", 1)
    monkeypatch.setattr("tierkeeper.balance.envoy.plane._RETIRED_SPARE_SECONDS", 0.2)
    [slow] = http_backends(1, delay_seconds=0.4)
    staying, leaving = pool_of([slow]), pool_of([slow], "leaving")
    sessions = pool_of(tcp_backends(1), "pg", cuts_sessions=True)
    plane.start([staying, leaving, sessions], {})
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(Client(leaving).ask()))
    session = connect(sessions)
    assert session.recv(20)
    asking.start()
    until(lambda: slow.requests)
    plane.reload([staying], {})
    session.sendall(b"still mine\n")
    assert session.recv(20) == b"still mine\n"
    asking.join()
    assert answers == [(200, str(slow.port))]
    assert session.recv(20) == b"", "after the time to drain it is ended"
    files = {p.name for p in (folder / "xds").iterdir()}
    time.sleep(0.3)
    assert plane.tend() is None
    assert len({p.name for p in (folder / "xds").iterdir()}) == len(files) - 3
    until(
        lambda: {h.cluster for h in plane._admin.hosts()} == {h.cluster for h in plane._admin.hosts() if h.address == slow.name}
    )


def test_a_changed_cluster_does_not_forget_the_sessions_it_must_cut(plane, tcp_backends, monkeypatch) -> None:
    """A cluster that is replaced under its name would leave old sessions at a demoted node for good."""
    monkeypatch.setattr(limits, "DRAIN_SECONDS", 3)
    backends = tcp_backends(2)
    pool = pool_of(backends, "pg", cuts_sessions=True)
    plane.start([pool], {})
    session = connect(pool)
    node = f"127.0.0.1:{int(session.recv(20))}"
    plane.reload([replace(pool, algorithm="least_request")], {})
    time.sleep(0.3)
    session.sendall(b"lives\n")
    assert session.recv(20) == b"lives\n"
    start = time.monotonic()
    plane.publish({"pg": {node: Share(Takes.NOTHING)}})
    assert session.recv(20) == b""
    assert time.monotonic() - start < 0.5


def test_a_refused_reload_changes_nothing(plane, http_backends, monkeypatch) -> None:
    backends = http_backends(2)
    pool = pool_of(backends)
    plane.start([pool], {})
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = replace(pool, name="taken", port=other.getsockname()[1])
        with pytest.raises(UsageError, match=rf"taken by process {os.getpid()} \(") as caught:
            plane.reload([pool, taken], {})
        assert "taken" in caught.value.place
        # Where the look before did not see it, Envoy does.
        monkeypatch.setattr("tierkeeper.balance.envoy.checks.port_is_free", lambda *_: None)
        with pytest.raises(UsageError, match=r"Envoy refuses it: .*Address already in use"):
            plane.reload([replace(pool, algorithm="least_request"), taken], {})
    with pytest.raises(UsageError, match="no-such-host"):
        plane.reload([replace(pool, backends=(Backend("a:1", "no-such-host.invalid", 1),))], {})
    with pytest.raises(UsageError, match="same backend"):
        plane.reload([replace(pool, backends=(*pool.backends, replace(pool.backends[0], name="again")))], {})
    assert Client(pool).split(4) == {b.port: 2 for b in backends}
    assert plane.tend() is None
    plane.reload([pool, pool_of(backends, "taken")], {})


def test_envoy_is_killed_and_stands_up_with_the_routing_it_had(plane, http_backends, folder) -> None:
    backends = http_backends(3)
    plane.start([pool := pool_of(backends)], {})
    plane.publish({"web": {backends[0].name: Share(Takes.NOTHING)}})
    client = Client(pool)
    until(lambda: backends[0].port not in client.split(6))
    before = plane.observe().readings["web"]
    first = pid_of(plane)
    os.kill(first, signal.SIGKILL)
    until(lambda: not process.alive(process.Running(first, 0, 0)) or True)
    time.sleep(0.05)
    with pytest.raises(NotNow):
        plane.observe()
    said: list[str | None] = []
    assert until(lambda: said.append(plane.tend()) or said[-1]) < 2
    assert "was started again" in said[-1]
    assert plane.tend() is None
    assert pid_of(plane) != first
    assert plane.facts()["restarts"] == 1
    assert set(Client(pool).split(10)) == {b.port for b in backends[1:]}
    after = plane.observe().readings["web"]
    assert sum(r.counters.requests for r in after.values()) == sum(r.counters.requests for r in before.values()) + 10
    assert all(after[b].counters.requests >= before[b].counters.requests for b in after)


def test_a_port_that_was_taken_while_envoy_was_away_is_had_again(planes, http_backends, folder, monkeypatch) -> None:
    monkeypatch.setattr(limits, "OFFER_SECONDS", 0.1)
    plane = planes()
    plane.start([pool := pool_of(http_backends(1))], {})
    (folder / "envoy.pid.new").mkdir()  # the file with its number cannot be written: it must not be started over and over
    os.kill(pid_of(plane), signal.SIGKILL)
    until(lambda: refuses(pool))
    with socket.create_server(("127.0.0.1", pool.port)):
        told: list[str] = []
        until(lambda: told.extend(filter(None, [plane.tend()])) or plane.facts().get("fault"))
        time.sleep(0.3)
        assert plane.tend() is None, "it is told once"
        assert "Address already in use" in plane.facts()["fault"]
        assert "Address already in use" in told[0]
        assert envoys(folder) == [pid_of(plane)]
    until(lambda: not refuses(pool) or plane.tend())
    assert Client(pool).ask()[0] == 200
    until(lambda: plane.tend() == "Envoy has taken what it refused before")
    assert "fault" not in plane.facts()
    os.kill(pid_of(plane), signal.SIGKILL)
    until(lambda: refuses(pool))
    with socket.create_server(("127.0.0.1", pool.port)):
        until(plane.tend)
    plane.leave()
    (
        folder / "routing.json.new"
    ).mkdir()  # nor keeps a word for a later brain that cannot be written it from beginning, or a change from holding
    after = planes()
    after.start([pool], {})  # the brain after it offers it too
    assert Client(pool).ask()[0] == 200
    after.reload([moved := replace(pool, port=free_port())], {})
    assert Client(moved).ask()[0] == 200
    assert refuses(pool)


def test_another_program_on_the_port_at_another_address_is_in_nobodys_way(plane, http_backends, spawned) -> None:
    pool = pool_of(http_backends(1))
    listens = "import socket, sys, time; s = socket.create_server((sys.argv[1], {})); print('ready', flush=True); time.sleep(60)"
    spawned(listens.format(pool.port), "127.0.0.2")
    plane.start([pool], {})
    spawned(listens.format(pool.port), "127.0.0.3")
    plane.reload([pool], {})
    with pytest.raises(UsageError, match="taken by process"):
        plane.reload([replace(pool, host="127.0.0.2")], {})
    with pytest.raises(UsageError, match="web listens there"):
        plane.reload([pool, replace(pool, name="twin", host="localhost")], {})


def test_envoy_is_ended_by_a_process_with_many_files(plane, http_backends, monkeypatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = os.pidfd_open
    high = 1100  # above what `select` takes

    def pidfd_open(pid: int) -> int:
        descriptor = opened(pid)
        try:
            return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, high)
        finally:
            os.close(descriptor)

    plane.start([pool := pool_of(http_backends(1))], {})
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, high + 100), hard))
    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    try:
        plane.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refuses(pool)


BRAIN = """
import json, sys, time
from pathlib import Path
from tierkeeper.balance.envoy.plane import EnvoyPlane
from tierkeeper.balance.envoy.feeding import _pool
from tierkeeper.balance.model import Share, Takes
plane = EnvoyPlane(Path(sys.argv[1]), concurrency=2)
pool = _pool(json.loads(sys.argv[2]))
plane.start([pool], {pool.name: {pool.backends[0].name: Share(Takes.NOTHING_NEW)}})
print("ready", flush=True)
time.sleep(60)
"""


def test_the_brain_is_killed_and_the_next_one_takes_over(planes, http_backends, folder, spawned) -> None:

    backends = http_backends(3)
    pool = pool_of(backends)
    with Load().on() as load:
        brain = spawned(BRAIN, folder, json.dumps(asdict(pool)))
        with pytest.raises(NotNow, match="another balancer"):
            planes().start([pool], {})
        envoy = process.remembered(Layout(str(folder)))
        assert envoy is not None
        with load.on(pool):
            brain.kill()
            brain.wait()
            time.sleep(0.2)
            assert process.alive(envoy)
            assert backends[0].port not in Client(pool).split(6)
            (folder / "envoy.pid").unlink()  # it is found all the same
            heir = planes()
            heir.start([pool], {})
            assert pid_of(heir) == envoy.pid
            assert backends[0].port not in Client(pool).split(6), "a drained one stays drained"
            heir.publish({"web": {backends[0].name: Share(), backends[1].name: Share(Takes.NOTHING)}})
            until(lambda: backends[1].port not in (split := Client(pool).split(9)) and backends[0].port in split)
            heir.observe()
            until(lambda: any(r.samples for r in heir.observe().readings["web"].values()))
    assert set(load.answers) == {200}
    heir.stop()
    assert not process.alive(envoy)


def test_another_bootstrap_is_taken_hot(planes, http_backends, folder, monkeypatch) -> None:
    monkeypatch.setattr(limits, "DRAIN_SECONDS", 1)
    monkeypatch.setattr(limits, "PARENT_SECONDS", 1)
    backends = http_backends(2, delay_seconds=0.01)
    pool = pool_of(backends)
    first, second = planes(), planes()
    first.start([pool], {})
    old = pid_of(first)
    with Load().on(pool) as load:
        first.leave()
        monkeypatch.setattr(limits, "CONNECTIONS_MAX", 1_000)
        second.start([pool], {})
        assert pid_of(second) != old
        assert second.facts()["epoch"] == 1
        second.publish({"web": {backends[0].name: Share(Takes.NOTHING)}})
        until(lambda: set(Client(pool).split(6)) == {backends[1].port})
        until(lambda: len(envoys(folder)) == 1)
    assert set(load.answers) == {200}
    os.kill(pid_of(second), signal.SIGKILL)
    until(second.tend)
    assert Client(pool).ask()[0] == 200


def test_stop_lets_requests_end_and_leaves_nothing(plane, http_backends, folder) -> None:
    [slow] = http_backends(1, delay_seconds=0.25)
    plane.start([pool := pool_of([slow])], {})
    envoy = pid_of(plane)
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(Client(pool).ask()))
    idle = Client(pool)
    idle.ask()
    asking.start()
    until(lambda: len(slow.requests) == 2)
    start = time.monotonic()
    plane.stop()
    assert time.monotonic() - start < 3, "a connection without a request is not waited for"
    asking.join()
    assert answers == [(200, str(slow.port))]
    assert envoy not in envoys(folder)
    assert process.find(Layout(str(folder))) is None
    assert not list(folder.glob("*.sock"))
    assert not list(Path("/dev", "shm").glob(f"envoy_shared_memory_{Layout(str(folder)).base_id * 10}*"))
    assert refuses(pool)
    with pytest.raises(Failed):
        plane.publish({})
    plane.stop()


def test_a_reader_that_stands_still_is_told_from_one_that_reads(planes, http_backends, folder, spawned) -> None:
    """The brain is stopped, not dead: the kernel goes on taking what Envoy writes, and then Envoy would keep it."""
    pool = pool_of(http_backends(2))
    prelude = (
        "from tierkeeper.balance.envoy import limits\n"
        "limits.SAMPLE_PERCENT_FIRST, limits.BRAIN_SECONDS, limits.SAMPLE_BUFFER_BYTES = 100.0, 0.1, 1024\n"
    )
    brain = spawned(prelude + BRAIN, folder, json.dumps(asdict(pool)))
    admin = Admin(Layout(str(folder)))

    def stats() -> tuple[int, int]:
        names = ("access_logs.fluentd.samples.entries_lost", "cluster.brain.upstream_cx_tx_bytes_buffered")
        told = admin.stats("entries_lost|brain.upstream_cx_tx_bytes_buffered")
        return tuple(int(told[name]) for name in names)

    client = Client(pool)
    for _ in range(100):
        client.ask()
    until(lambda: admin.stats("events_sent")["access_logs.fluentd.samples.events_sent"])
    time.sleep(0.25)
    assert stats() == (0, 0)
    brain.send_signal(signal.SIGSTOP)
    until(lambda: client.ask()[0] == 200 and stats()[0], 20)
    assert stats()[1] == 0
    brain.send_signal(signal.SIGCONT)
    sent = admin.stats("events_sent")
    until(lambda: client.ask()[0] == 200 and admin.stats("events_sent") != sent)


def test_what_cannot_be_started_says_why(planes, http_backends, folder, tmp_path) -> None:
    [backend] = http_backends(1)
    pool = pool_of([backend])

    def refused(changed) -> UsageError:
        with pytest.raises(UsageError) as caught:
            planes().start([changed], {})
        assert process.find(Layout(str(folder))) is None
        return caught.value

    with socket.create_server(("127.0.0.1", pool.port)):
        assert f"taken by process {os.getpid()} (" in refused(pool).cause
    assert "does not have the address" in refused(replace(pool, host="203.0.113.7")).cause
    assert "cannot be read" in refused(replace(pool, certificate=Certificate("nowhere.pem", "nowhere.key"))).cause
    text = tmp_path / "text"
    text.write_text("no certificate")
    assert "no certificate in PEM" in refused(replace(pool, certificate=Certificate(str(text), str(text)))).cause
    assert "no certificate in PEM" in refused(replace(pool, backend_ca=str(text))).cause
    planes().start([pool], {})
    assert Client(pool).ask()[0] == 200


def test_a_name_may_come_to_point_elsewhere(planes, http_backends) -> None:
    port = free_port()
    here, there = HttpBackend(port=port, host="127.0.0.1"), HttpBackend(port=port, host="127.0.0.2")
    where = {"app.internal": ["127.0.0.1"]}

    def resolve(host: str) -> list[str]:
        return where[host]

    plane = planes(resolve=resolve, resolve_seconds=0.05)
    numbers = pool_of(http_backends(1))
    pool = replace(numbers, backends=(Backend(f"app.internal:{port}", "app.internal", port),))
    try:
        plane.start([numbers], {})
        plane.reload([pool], {})
        client = Client(pool)
        client.ask()
        plane.observe()
        assert (len(here.requests), len(there.requests)) == (1, 0)
        where["app.internal"] = ["127.0.0.2", "127.0.0.1"]
        time.sleep(0.2)
        assert plane.tend() is None, "while the address is among them it stays"
        where["app.internal"] = ["127.0.0.2"]
        until(lambda: (plane.tend() or "").startswith("app.internal is at 127.0.0.2"))
        until(lambda: client.ask()[0] == 200 and there.requests)
        readings = plane.observe().readings["web"][f"app.internal:{port}"]
        assert readings.counters.requests == len(here.requests) + len(there.requests)
    finally:
        here.stop()
        there.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_port_below_1024_is_refused_to_who_may_not_take_it(spawned, tmp_path) -> None:
    program = """
import os, sys
os.setgid(65534); os.setuid(65534)
sys.path[:0] = sys.argv[1].split(":")
from tierkeeper.balance.envoy.checks import port_is_free
from tierkeeper.balance.model import Pool
from tierkeeper.kernel.errors import UsageError
try:
    port_is_free(Pool("web", "http", "127.0.0.1", 81, ()), "127.0.0.1")
except UsageError as error:
    assert "may not take" in error.cause, error
    print("ready", flush=True)
"""
    preload = "import tierkeeper.balance.envoy.checks\n"
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 81:
        spawned(preload + program, ":".join(sys.path))


def test_a_plane_may_be_started_again_and_its_state_may_be_lost(planes, http_backends, folder) -> None:
    backends = http_backends(2)
    pool = pool_of(backends)
    plane = planes()
    for _ in range(2):
        plane.start([pool], {"web": {backends[0].name: Share(Takes.NOTHING_NEW)}})
        assert Client(pool).split(4) == {backends[1].port: 4}
        plane.stop()
    plane.start([pool], {})
    assert Client(pool).split(4) == {b.port: 2 for b in backends}, "what was drained before the stop is forgotten"
    envoy = pid_of(plane)
    plane.leave()
    (folder / "routing.json").write_text("{}")
    plane.start([pool, other := pool_of(backends, "other")], {})
    assert pid_of(plane) == envoy
    assert Client(other).ask()[0] == 200
