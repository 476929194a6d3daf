"""The supervisor: a server comes up verified, goes down in order, and never outlives the process that started it."""

import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from support import eventually, runs, sampled
from tierkeeper.demo import certificates
from tierkeeper.demo import runtime as runtimes
from tierkeeper.demo import server as servers
from tierkeeper.demo.runtime import Runtime, find_runtime, workspace
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.postgres.link import Link

ROOT = os.geteuid() == 0
AS_ROOT = pytest.mark.skipif(not ROOT, reason="root alone can become somebody else")

# Starts a server as argv[2] in argv[1], says its pid, then waits; Ctrl-C must find the server alive.
PARENT = """
import signal, sys, time
from contextlib import closing
from pathlib import Path
from tierkeeper.demo.runtime import Runtime, find_runtime
from tierkeeper.demo.server import EmbeddedPostgres

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
print("starting", flush=True)
found = find_runtime()
identity = found.identity if sys.argv[2] == "found" else sys.argv[2]
with EmbeddedPostgres.start(Path(sys.argv[1]), durable=False, runtime=Runtime(found.bin_dir, identity)) as server:
    with closing(server.link("core").connect("test")) as conn:
        try:
            print(server.pid, identity, flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("still", conn.execute("SELECT 'here'").fetchone()[0], flush=True)
            raise SystemExit(130)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with workspace("tierkeeper-server-") as made:
        yield made


@pytest.fixture
def data_dir(server_folder: Path) -> Iterator[Path]:
    """Where a server of the test's own may lie, beside the shared one's template."""
    path = server_folder / f"own-{secrets.token_hex(4)}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _spawn(folder: Path, identity: str, python: str = sys.executable, **options: object) -> "subprocess.Popen[str]":
    parent: subprocess.Popen[str] = subprocess.Popen(
        [python, "-c", PARENT, str(folder / "data"), identity],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )
    return parent


def _server_of(parent: "subprocess.Popen[str]") -> tuple[int, list[int], str]:
    """The server's pid, those of its children, and as whom it runs."""
    assert parent.stdout is not None
    parent.stdout.readline()
    line = parent.stdout.readline().split()
    assert line, parent.communicate()[1]
    children = servers._children(int(line[0]))
    assert len(children) >= 5, "checkpointer, writers, launchers and a session"
    return int(line[0]), children, line[1]


def _end(parent: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        parent.kill()
    parent.communicate()


def test_it_starts_stops_and_starts_again(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGUSER": "nobody-known", "PGOPTIONS": "-c bad"}.items():
        monkeypatch.setenv(name, value)
    server = EmbeddedPostgres.start(data_dir, durable=False, settings={"cluster_name": "it's ours", "work_mem": "7MB"})
    monkeypatch.delenv("PGOPTIONS")
    pid, port = server.pid, server.port
    assert pid is not None
    assert port < 32_768
    children = servers._children(pid)
    with closing(server.link("core").connect("test")) as conn:
        settings = conn.execute(
            "SELECT current_setting('cluster_name'), current_setting('work_mem'), current_setting('fsync')"
        ).fetchone()
        assert settings == ("it's ours", "7MB", "off")
        server.stop()  # ends the session too
    assert server.pid is None
    assert not any(runs(p) for p in (pid, *children))
    server.stop()
    server.restart()
    assert server.pid != pid
    assert server.pid is not None
    assert server.port == port
    server.stop()


def test_a_kill_keeps_what_was_committed(data_dir: Path) -> None:
    with EmbeddedPostgres.start(data_dir) as server:
        with closing(server.link("core").connect("test")) as conn:
            conn.execute("CREATE TABLE t AS SELECT 1 AS i")
            assert conn.execute("SELECT current_setting('fsync'), current_setting('full_page_writes')").fetchone() == ("on", "on")
            pid = server.pid
            assert pid is not None
            processes = [pid, *servers._children(pid)]
            server.kill()
        assert not any(runs(p) for p in processes)
        server.kill()
        server.restart()
        with closing(server.link("core").connect("test")) as conn:
            assert conn.execute("SELECT i FROM t").fetchall() == [(1,)]


def test_databases_are_made_from_templates_and_dropped_with_their_sessions(cluster: EmbeddedPostgres) -> None:
    cluster.create_database('odd "name"')
    with closing(cluster.link("core", 'odd "name"').connect("test")) as conn:
        conn.execute("CREATE TABLE t AS SELECT 1 AS i")
    cluster.create_database("a copy", 'odd "name"')
    with closing(cluster.link("core", "a copy").connect("test")) as conn:
        assert conn.execute("SELECT i FROM t").fetchall() == [(1,)]
        cluster.drop_database("a copy")
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    cluster.drop_database('odd "name"')
    cluster.drop_database('odd "name"')


def test_the_peer_is_verified(cluster: EmbeddedPostgres, folder: Path) -> None:
    with closing(cluster.link("core").connect("test")) as conn:
        assert conn.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    with closing(
        psycopg.connect(cluster.url().replace("127.0.0.1", "localhost"), sslmode="verify-full", sslrootcert=str(cluster.ca_file))
    ):
        pass
    other = certificates.issue(folder / "tls")
    with pytest.raises(UsageError, match="certificate verify failed"):
        Link("core", cluster.url(), str(other.ca_file)).connect("test")


def test_it_refuses_plain_links_and_wrong_passwords(cluster: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(cluster.url(), sslmode="disable")
    with pytest.raises(UsageError, match="password"):
        Link("core", cluster.url(password="wrong"), str(cluster.ca_file)).connect("test")


def test_others_cannot_read_the_folder_and_the_password_is_nowhere(cluster: EmbeddedPostgres) -> None:
    assert stat.S_IMODE(cluster.data_dir.stat().st_mode) == 0o700
    secret = urlsplit(cluster.url()).password or ""
    assert len(secret) > 20
    assert not list(cluster.data_dir.parent.glob("*.password"))
    for path in cluster.data_dir.glob("*.conf"):
        assert secret not in path.read_text()
    assert secret not in repr(cluster.link("core"))
    assert secret.encode() not in Path(f"/proc/{cluster.pid}/cmdline").read_bytes()


def test_a_server_outlives_the_thread_that_started_it(data_dir: Path) -> None:
    made: list[EmbeddedPostgres] = []
    thread = threading.Thread(target=lambda: made.append(EmbeddedPostgres.start(data_dir, durable=False)))
    thread.start()
    thread.join()
    with made[0] as server:
        assert not eventually(lambda: server.pid is None, seconds=0.5)


SIGNS = (".cluster-*/PG_VERSION", "data/postmaster.pid")  # of initdb, and of a start


@pytest.mark.parametrize("identity", sampled(["found", *(("namespace", "nobody") if ROOT else ())], "found"))
def test_nothing_is_left_when_the_parent_is_killed(folder: Path, identity: str) -> None:
    found = find_runtime()
    if identity not in ("found", found.identity) and not runtimes._runs(Runtime(found.bin_dir, identity)):  # type: ignore[arg-type]
        pytest.skip(f"this machine cannot run Postgres as {identity}")
    parent = _spawn(folder, identity)
    try:
        pid, children, _ = _server_of(parent)
        parent.kill()
        assert eventually(lambda: not any(runs(p) for p in (pid, *children)))
    finally:
        _end(parent)


@pytest.mark.parametrize("sign", sampled(SIGNS, SIGNS[0]), ids=["initdb", "start"])
def test_nothing_is_left_when_the_parent_is_killed_while_it_starts(folder: Path, sign: str) -> None:
    parent = _spawn(folder, "found")
    try:
        assert eventually(lambda: any(folder.glob(sign)))
    finally:
        _end(parent)
    assert eventually(lambda: not _at_work_in(folder))


def test_ctrl_c_stops_it_in_order(folder: Path) -> None:
    parent = _spawn(folder, "found")
    try:
        pid, children, _ = _server_of(parent)
        os.killpg(parent.pid, signal.SIGINT)  # what a terminal does to its foreground group
        said, errors = parent.communicate(timeout=30)
        assert (parent.returncode, said, errors) == (130, "still here\n", "")
        assert not any(runs(p) for p in (pid, *children))
        assert "database system is shut down" in (folder / "data" / "server.log").read_text()
    finally:
        _end(parent)


@AS_ROOT
def test_an_ordinary_user_runs_it_without_a_home(folder: Path) -> None:
    path = os.pathsep.join([str(Path(runtimes.__file__).parents[2]), str(Path(psycopg.__file__).parents[1])])
    options = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/", "env": {"PYTHONPATH": path, "HOME": "/nonexistent"}}
    python = next((p for p in (sys.executable, "/usr/bin/python3.11", "/usr/bin/python3") if _can_import(p, options)), None)
    if python is None:
        pytest.skip("no Python that an ordinary user can run with this project's libraries")
    folder.chmod(0o777)
    parent = _spawn(folder, "found", python, **options)
    try:
        pid, children, identity = _server_of(parent)
        assert identity == "as-is"
        assert Path(f"/proc/{pid}").stat().st_uid == 65534
        parent.kill()
        assert eventually(lambda: not any(runs(p) for p in (pid, *children)))
    finally:
        _end(parent)


@AS_ROOT
@pytest.mark.long
def test_programs_that_no_server_user_can_enter_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = folder / "closed"
    shutil.copytree(find_runtime().bin_dir.parent, closed / "install")
    os.chown(closed, 12_345, 12_345)
    closed.chmod(0o700)
    monkeypatch.setattr(runtimes, "_installations", lambda: iter([closed / "install" / "bin"]))
    found = find_runtime.__wrapped__()
    assert found.identity == "nobody"
    with EmbeddedPostgres.start(folder / "data", durable=False, runtime=found) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == 65534


@AS_ROOT
def test_a_folder_closed_to_the_servers_user_is_named(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(UsageError, match=str(closed)):
        EmbeddedPostgres.start(closed / "data", runtime=Runtime(find_runtime().bin_dir, "nobody"))


def test_a_system_postgres_serves_as_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    try:
        found = find_runtime.__wrapped__()
    except UsageError:
        pytest.skip("no system Postgres: pg_config is missing, or its server is")
    assert "pginstall" not in found.bin_dir.parts
    with EmbeddedPostgres.start(folder / "data", durable=False, runtime=found) as server:
        conn = server.link("core").connect("test")
        assert conn.execute("SELECT 1").fetchone() == (1,)
        conn.close()


def test_without_any_postgres_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_installations", lambda: iter(()))
    with pytest.raises(UsageError, match=r"pip install 'tierkeeper\[demo\]'"):
        find_runtime.__wrapped__()


def test_a_server_that_does_not_start_says_why_and_is_gone(data_dir: Path) -> None:
    with pytest.raises(Failed, match="no_such_setting"):
        EmbeddedPostgres.start(data_dir, settings={"no_such_setting": "1"})
    assert not _at_work_in(data_dir)


def test_a_port_that_is_taken_is_passed_over(data_dir: Path, cluster: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    free = servers.free_port()
    answers = iter([cluster.port, *[free] * 20])
    monkeypatch.setattr(servers, "free_port", lambda: next(answers))
    with EmbeddedPostgres.start(data_dir, durable=False) as server:
        assert server.port == free


def _can_import(python: str, options: dict[str, object]) -> bool:
    try:
        probe = subprocess.run([python, "-c", "import tierkeeper.demo.server"], capture_output=True, check=False, **options)  # type: ignore[call-overload]
    except OSError:
        return False
    return bool(probe.returncode == 0)


def _at_work_in(folder: Path) -> list[int]:
    """Running processes that name `folder` in their command line or have it as their working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder) in (process / "cmdline").read_text(errors="replace") or (process / "cwd").resolve().is_relative_to(
                folder
            ):
                found.append(int(process.name))
    return found
