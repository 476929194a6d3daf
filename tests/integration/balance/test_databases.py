"""A program's sessions over a real primary and its replica: through a kill -9, a promotion and the old primary's return."""

import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import tierkeeper
from replicas import pair
from support import eventually
from tierkeeper.balance.databases import Databases
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import NotNow


def port(conn: psycopg.Connection) -> int:
    return conn.info.port


def insert(conn: psycopg.Connection, key: int) -> int:
    conn.execute("INSERT INTO t VALUES (%s) ON CONFLICT DO NOTHING", [key])
    return port(conn)


def caught_up(servers: Databases, rows: int) -> int:
    until = time.monotonic() + 10
    while True:
        with closing(servers.connect(writes=False)) as conn:
            row = conn.execute("SELECT count(*) FROM t").fetchone()
            if (row is not None and row[0] == rows) or time.monotonic() > until:
                return port(conn)


def test_sessions_go_where_they_belong_through_a_failover(server_folder: Path) -> None:
    with pair(server_folder) as (a, replica):
        b = replica.port
        urls = [replica.url(), a.url()]  # the replica first: the order says nothing
        servers = tierkeeper.databases(urls, sslrootcert=str(a.ca_file))
        with closing(servers.connect(autocommit=True)) as conn:
            assert port(conn) == a.port
            conn.execute("CREATE TABLE t (key int PRIMARY KEY)")
        with psycopg.connect(replica.url(), autocommit=True) as there:  # it may not even have the table yet
            assert eventually(lambda: there.execute("SELECT to_regclass('t')").fetchone() != (None,))
        assert servers.run(insert, 1) == a.port
        assert caught_up(servers, 1) == b
        assert servers.read(port) == b
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            servers.read(lambda conn: conn.execute("INSERT INTO t VALUES (9)").rowcount)

        # One that has fallen behind is not read from.
        behind = Databases(urls, sslrootcert=str(a.ca_file), max_lag_bytes=10_000)
        with closing(behind.connect(writes=False)) as conn:
            assert port(conn) == b
        with psycopg.connect(replica.url(), autocommit=True) as there:
            there.execute("SELECT pg_wal_replay_pause()")
            with closing(servers.connect(autocommit=True)) as conn:
                conn.execute("CREATE TABLE wide AS SELECT repeat('x', 100) FROM generate_series(1, 1000)")
            assert behind.read(port) == a.port
            assert servers.read(port) == b
            there.execute("SELECT pg_wal_replay_resume()")

        # The primary dies in the middle of a transaction, the replica is promoted: the work is run again there.
        runs: list[int] = []

        def work(conn: psycopg.Connection) -> int:
            runs.append(port(conn))
            if len(runs) == 1:
                a.kill()
                with psycopg.connect(replica.url(), autocommit=True) as there:
                    there.execute("SELECT pg_promote(true, 10)")
            return insert(conn, 2)

        began = time.monotonic()
        assert servers.run(work) == b
        assert time.monotonic() - began < 5
        assert runs == [a.port, b]
        assert servers.run(insert, 3) == b

        # The old one comes back and still thinks that it is the primary: nobody writes there.
        a.restart()
        assert {servers.run(insert, key) for key in range(10, 20)} == {b}
        fresh = tierkeeper.databases(list(reversed(urls)), sslrootcert=str(a.ca_file))
        assert fresh.run(insert, 20) == b
        with psycopg.connect(a.url()) as old, psycopg.connect(replica.url()) as new:
            keys = [{row[0] for row in conn.execute("SELECT key FROM t").fetchall()} for conn in (old, new)]
        assert keys == [{1}, {1, 2, 3, *range(10, 21)}]


def test_where_nobody_takes_writes_it_says_so_in_time(tmp_path: Path) -> None:
    servers = tierkeeper.databases(["postgresql://nobody:none@127.0.0.1:1/none"])
    began = time.monotonic()
    with pytest.raises(NotNow, match="no server takes writes"):
        servers.connect(wait_seconds=0.5)
    assert time.monotonic() - began < 3


def test_what_is_no_loss_of_the_connection_is_not_run_again(cluster: EmbeddedPostgres) -> None:
    servers = tierkeeper.databases([cluster.url()], sslrootcert=str(cluster.ca_file))
    runs: list[int] = []

    def work(conn: psycopg.Connection) -> None:
        runs.append(1)
        conn.execute("SET statement_timeout = 50")
        conn.execute("SELECT pg_sleep(5)")

    with pytest.raises(psycopg.errors.QueryCanceled):
        servers.run(work)
    assert len(runs) == 1


def test_a_session_that_is_ended_is_run_again_and_not_for_ever(cluster: EmbeddedPostgres) -> None:
    servers = tierkeeper.databases([cluster.url()], sslrootcert=str(cluster.ca_file))
    runs: list[int] = []

    def work(conn: psycopg.Connection) -> int:
        runs.append(conn.info.backend_pid)
        if len(runs) <= lost:
            with closing(servers.connect(autocommit=True)) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
        conn.execute("SELECT 1")
        return len(runs)

    lost = 1
    assert servers.run(work) == 2
    runs.clear()
    lost = 100
    with pytest.raises(NotNow):
        servers.run(work)
    assert len(set(runs)) == len(runs) == 4
