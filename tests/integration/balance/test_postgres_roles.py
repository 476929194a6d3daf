"""A real primary and a real standby: who takes writes, who takes reads, and how soon that is known."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from brains import Running, running
from replicas import ask, pair, standing_still
from support import eventually
from tierkeeper.balance.asking import PostgresQuestion
from tierkeeper.balance.kept import Kept
from tierkeeper.balance.model import Pool
from tierkeeper.balance.pools import Ask, Service, node, pools
from tierkeeper.demo.server import OWNER, EmbeddedPostgres

Two = tuple[EmbeddedPostgres, EmbeddedPostgres]
ASK = Ask("postgres", interval_seconds=30.0, timeout_seconds=2.0, max_lag_bytes=1_000_000)


@pytest.fixture(scope="module")
def two(server_folder: Path) -> Iterator[Two]:
    with pair(server_folder) as (first, second):
        ask(first, "CREATE ROLE watcher LOGIN PASSWORD 'looks'")
        assert eventually(lambda: ask(second, "SELECT 1 FROM pg_roles WHERE rolname = 'watcher'") == 1)
        yield first, second


def name(server: EmbeddedPostgres) -> str:
    return f"127.0.0.1:{server.port}"


def service(*servers: EmbeddedPostgres, how: Ask = ASK, called: str = "db", user: str = OWNER) -> Service:
    password = None if user == OWNER else "looks"
    nodes = tuple(node(s.url(user=user, password=password), 1, 0) for s in servers)
    base = Pool(called, "tcp", "127.0.0.1", 1, tuple(n.backend for n in nodes))
    return Service(called, how, nodes, pools(base, "postgres", ("127.0.0.1", 2)))


def question(server: EmbeddedPostgres, user: str = OWNER, password: str | None = None) -> PostgresQuestion:
    return PostgresQuestion(ASK, node(server.url(user=user, password=password), 1, 0))


def test_a_plain_role_may_ask_all_of_it(two: Two) -> None:
    first, _ = two
    claims = []
    for server in two:
        with closing(question(server, "watcher", "looks")) as asked:
            heard = asked.ask()
            assert heard.answer.ok, heard.answer.why
            assert heard.claim is not None
            claims.append(heard.claim)
    system = ask(first, "SELECT system_identifier::text FROM pg_control_system()")
    assert [(c.writable, c.timeline, c.system) for c in claims] == [(True, 1, system), (False, 1, system)]
    assert claims[0].lsn > 0
    assert abs(claims[0].lsn - claims[1].lsn) < 1_000_000


def test_a_role_that_may_not_read_the_control_file_still_says_its_role(two: Two) -> None:
    first, _ = two
    functions = "pg_control_system(), pg_control_checkpoint()"
    ask(first, f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC")
    try:
        with closing(question(first, "watcher", "looks")) as asked:
            for _ in range(2):
                heard = asked.ask()
                assert heard.claim is not None
                assert (heard.claim.writable, heard.claim.timeline, heard.claim.system) == (True, 1, None)
            assert "may not say which" in heard.answer.why
    finally:
        ask(first, f"GRANT EXECUTE ON FUNCTION {functions} TO PUBLIC")


def test_whom_a_replica_follows_is_known_to_a_role_that_sees_statistics(two: Two) -> None:
    first, second = two
    ask(first, "GRANT pg_read_all_stats TO watcher")
    _follows(first, second)
    found = []
    for server in two:
        with closing(question(server, "watcher", "looks")) as asked:
            claim = asked.ask().claim
            found.append(claim.follows if claim is not None else claim)
    ask(first, "REVOKE pg_read_all_stats FROM watcher")
    assert found == [None, 1]


def test_a_server_that_lets_the_check_not_in_keeps_its_traffic(tmp_path: Path, two: Two) -> None:
    first, second = two
    watched = service(first, second, user="watcher")
    with running(tmp_path, watched) as run:
        assert run.plane.taking("db") == {name(first)}
        ask(first, "ALTER ROLE watcher CONNECTION LIMIT 0")
        try:
            ask(first, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'watcher'")
            time.sleep(1.0)  # two checks of one in doubt would be through
            assert (run.plane.taking("db"), run.plane.taking("db/reads")) == ({name(first)}, {name(second)})
            assert eventually(lambda: "no further connection" in _why(run, first), 5)
            ask(first, "ALTER ROLE watcher PASSWORD 'another'")
            assert eventually(lambda: "password authentication failed" in _why(run, first), 5)
            assert (run.plane.taking("db"), run.plane.taking("db/reads")) == ({name(first)}, {name(second)})
        finally:
            ask(first, "ALTER ROLE watcher CONNECTION LIMIT -1 PASSWORD 'looks'")
            _follows(first, second)


def test_a_primary_that_hangs_takes_no_writes_before_it_answers(tmp_path: Path, two: Two) -> None:
    first, second = two
    quick = replace(ASK, timeout_seconds=0.5)
    with running(tmp_path, service(first, second, how=quick)) as run:
        assert run.plane.taking("db") == {name(first)}
        with standing_still(first):
            assert eventually(lambda: run.plane.taking("db") == set(), 10)
            assert "no answer within 0.5 s" in _why(run, first)
        assert eventually(lambda: run.plane.taking("db") == {name(first)}, 10)
        assert run.told("fault") == []


def test_an_asking_that_is_given_up_ends_at_once(two: Two) -> None:
    first, _ = two
    with closing(question(first)) as asked:
        assert asked.ask().answer.ok
        with standing_still(first):
            thread = threading.Thread(target=asked.ask)
            thread.start()
            time.sleep(0.2)
            asked.abort()
            thread.join(1.5)  # a new connection would be waited for longer
            ended = not thread.is_alive()
        thread.join()
        assert ended


def _follows(first: EmbeddedPostgres, second: EmbeddedPostgres) -> None:
    lsn = ask(first, "SELECT pg_current_wal_lsn()")
    assert eventually(lambda: bool(ask(second, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")), 5)


def _why(run: Running, server: EmbeddedPostgres) -> str:
    return next(b.why for b in run.brain.do(run.brain.status).services[0].backends if b.name == name(server))


def test_an_ended_session_is_no_ended_server(two: Two) -> None:
    first, _ = two
    with closing(question(first)) as asked:
        assert asked.ask().answer.ok
        ask(first, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tierkeeper balance'")
        assert asked.ask().answer.ok


def test_a_replica_that_lags_takes_no_reads_until_it_has_caught_up(tmp_path: Path, two: Two) -> None:
    first, second = two
    with running(tmp_path, service(first, second)) as run:
        assert (run.plane.taking("db"), run.plane.taking("db/reads")) == ({name(first)}, {name(second)})
        ask(second, "SELECT pg_wal_replay_pause()")
        ask(first, "CREATE TABLE big AS SELECT repeat(md5(i::text), 10) FROM generate_series(1, 10000) AS i")
        assert eventually(lambda: run.plane.taking("db/reads") == {name(first)}, 5), "the primary takes the reads"
        backends = {b.name: b for b in run.brain.do(run.brain.status).services[0].backends}
        assert (backends[name(second)].lag_bytes or 0) > 1_000_000
        assert "behind" in backends[name(second)].why
        ask(second, "SELECT pg_wal_replay_resume()")
        assert eventually(lambda: run.plane.taking("db/reads") == {name(second)}, 5)
        assert run.plane.taking("db") == {name(first)}


def _fails_over(run: Running, first: EmbeddedPostgres, second: EmbeddedPostgres) -> tuple[float, float]:
    """Seconds until nobody takes writes after a kill -9, and until the promoted one does after its promotion."""
    killed = time.monotonic()
    first.kill()
    assert eventually(lambda: run.plane.taking("db") == set(), 5)
    gone = time.monotonic() - killed
    assert run.plane.taking("db/reads") == {name(second)}
    ask(second, "SELECT pg_promote(true, 30)")
    promoted = time.monotonic()
    assert eventually(lambda: run.plane.taking("db") == {name(second)}, 5)
    return gone, time.monotonic() - promoted


def _stands(run: Running, server: EmbeddedPostgres) -> tuple[str, str | None]:
    (found,) = [b for b in run.brain.do(run.brain.status).services[0].backends if b.name == name(server)]
    return found.state, found.role


def test_a_primary_that_dies_is_followed_and_gets_nothing_when_it_is_back(tmp_path: Path, two: Two) -> None:
    first, second = two
    db = service(first, second)
    with running(tmp_path, db) as run:
        gone, resumed = _fails_over(run, first, second)
        assert gone < 0.5, f"no write {gone:.3f} s after kill -9"
        assert resumed < 0.5, f"writes {resumed:.3f} s after the promotion"
        first.restart()
        assert ask(first, "SELECT pg_is_in_recovery()") is False
        assert eventually(lambda: _stands(run, first) == ("in", "not the primary"), 5)
        assert (run.plane.taking("db"), run.plane.taking("db/reads")) == ({name(second)}, {name(second)})
        second.kill()
        assert eventually(lambda: run.plane.taking("db") == set(), 5)
        time.sleep(0.6)  # two checks of one in doubt
        assert run.plane.taking("db") == set(), "a write would go to a demoted node"
    assert Kept(tmp_path).remembered()["db"].timeline == 2
    assert all(
        name(first) not in shares or shares[name(first)].takes.value != "traffic"
        for _, r in run.plane.published
        for shares in [r.get("db", {})]
    )
    with running(tmp_path, db) as again:
        time.sleep(0.3)
        assert again.plane.taking("db") == set(), "a brain that was restarted has forgotten"
        for called in ("renamed", "db"):
            again.services[:] = [service(first, second, called=called)]
            again.brain.do(again.brain.reload)
            assert eventually(lambda: _stands(again, first) == ("in", "not the primary"), 5), f"as {called} it is trusted"
            assert again.plane.taking(called) == set()
        second.restart()
        assert eventually(lambda: again.plane.taking("db") == {name(second)}, 5)
    with psycopg.connect(second.url()) as conn:
        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)


def test_a_server_that_refuses_the_role_is_out_and_says_why(tmp_path: Path, two: Two) -> None:
    _, second = two
    wrong = replace(service(second), nodes=(node(second.url(user="watcher", password="not it"), 1, 0),))
    with running(tmp_path, wrong) as run:
        assert any("password authentication failed" in told for told in run.told("state"))
        assert run.plane.taking("db") == set()
        assert eventually((tmp_path / "status.json").exists)
        assert "not it" not in (tmp_path / "changes.jsonl").read_text() + (tmp_path / "status.json").read_text()
