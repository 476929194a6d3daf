"""A session's transactions on a real server: one message where one is enough, and nothing left behind."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from psycopg import errors, sql

from support import Tiers
from tierkeeper.kernel.errors import NotNow
from tierkeeper.postgres import session
from tierkeeper.postgres.link import Connection, transaction


@pytest.fixture
def conn(tiers: Tiers) -> Iterator[Connection]:
    with closing(tiers.core.connect("test")) as conn:
        conn.execute("CREATE TABLE public.t (a int PRIMARY KEY)")
        yield conn


def count(conn: Connection) -> object:
    return conn.execute("SELECT count(*) FROM public.t").fetchone()


def sent(conn: Connection) -> str:
    """The message that the server is answering."""
    row = conn.execute("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()").fetchone()
    return "" if row is None else str(row[0])


def test_the_first_statement_comes_with_the_begin_and_its_settings(conn: Connection) -> None:
    with transaction(conn) as cur:
        found = cur.execute("SELECT current_setting('TimeZone'), %s::int[], current_query()", [[1, 2]]).fetchall()
        assert found[0][:2] == ("UTC", [1, 2])
        assert found[0][2].startswith("BEGIN ISOLATION LEVEL READ COMMITTED")
        assert conn.in_transaction
        cur.execute("INSERT INTO public.t VALUES (%s)", [1])
        assert cur.rowcount == 1
    assert not conn.in_transaction
    assert count(conn) == (1,)


def test_whatever_is_first_comes_behind_the_begin(conn: Connection) -> None:
    insert = "INSERT INTO public.t VALUES (%s)"
    with transaction(conn), conn.cursor() as another:
        another.execute(insert, [1])
        assert conn.in_transaction
    with transaction(conn) as cur:
        cur.executemany(insert, [[2], [3]])
        assert conn.in_transaction
    with transaction(conn) as cur, cur.copy("COPY public.t FROM STDIN") as copy:
        copy.write("4\n5\n")
    assert count(conn) == (5,)
    with pytest.raises(ValueError, match="after"), transaction(conn) as cur:
        with cur.copy("COPY public.t FROM STDIN") as copy:
            copy.write("6\n")
        raise ValueError("after")
    assert count(conn) == (5,)


def test_the_last_statement_takes_the_commit_along(tiers: Tiers, conn: Connection) -> None:
    with closing(tiers.core.connect("test")) as other:
        with transaction(conn) as cur:
            cur.execute("INSERT INTO public.t VALUES (1)")
            assert cur.last("INSERT INTO public.t VALUES (%s) RETURNING a", [2]).fetchall() == [(2,)]
            assert not conn.in_transaction
            assert count(other) == (2,)
        with transaction(conn, read_only=True) as cur:
            assert [r[0] for r in cur.last("SELECT a FROM public.t ORDER BY a -- all of them")] == [1, 2]


def test_a_last_statement_that_fails_undoes_what_came_before(conn: Connection) -> None:
    with pytest.raises(errors.UniqueViolation), transaction(conn) as cur:
        cur.execute("INSERT INTO public.t VALUES (1)")
        cur.last("INSERT INTO public.t VALUES (1)")
    assert not conn.in_transaction
    assert count(conn) == (0,)


def test_a_first_statement_that_fails_leaves_the_session_usable(conn: Connection) -> None:
    with pytest.raises(errors.UndefinedTable), transaction(conn) as cur:
        cur.execute("INSERT INTO public.missing VALUES (1)")
    assert not conn.in_transaction
    assert count(conn) == (0,)


def test_a_transaction_in_which_nothing_was_asked_sends_nothing(conn: Connection) -> None:
    before = sent(conn)
    with transaction(conn):
        assert conn.in_transaction
    with pytest.raises(ValueError, match="of the body's own"), transaction(conn):
        raise ValueError("of the body's own")
    assert sent(conn) == before
    assert not conn.in_transaction


def test_several_statements_share_a_message(conn: Connection) -> None:
    with transaction(conn) as cur:
        cur.together([sql.SQL("INSERT INTO public.t VALUES (1), (2) -- two"), sql.SQL("SELECT a FROM public.t ORDER BY a")])
        assert cur.rowcount == 2
        assert cur.nextset()
        assert cur.fetchall() == [(1,), (2,)]
        assert not cur.nextset()


def test_a_reading_that_has_ended_holds_no_snapshot(tiers: Tiers, conn: Connection) -> None:
    """I2: whoever waits for older snapshots must not wait for one that nobody reads in."""
    with closing(tiers.core.connect("test")) as other:
        with transaction(conn, isolation="repeatable read", read_only=True) as cur:
            pid = cur.execute("SELECT pg_backend_pid()").fetchone()
        query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND (backend_xmin IS NOT NULL OR state <> 'idle')"
        for _ in range(100):
            if other.execute(query, pid).fetchone() == (0,):
                break
            other.execute("SELECT pg_sleep(0.05)")
        else:
            pytest.fail("the transaction is still open")
    assert count(conn) == (0,)


def test_a_connection_that_is_lost_behind_a_reading_says_so_next_time(tiers: Tiers, conn: Connection) -> None:
    with transaction(conn, read_only=True) as cur:
        pid = cur.execute("SELECT pg_backend_pid()").fetchone()
    with closing(tiers.core.connect("test")) as other:
        other.execute("SELECT pg_terminate_backend(%s)", pid)
    with pytest.raises(errors.OperationalError), transaction(conn) as cur:
        cur.execute("SELECT 1")
    assert conn.closed


def test_whoever_waits_for_a_connection_that_is_cut_hears_it_in_any_thread(tiers: Tiers, conn: Connection) -> None:
    """Nothing of what was begun is kept, and none is dialled until it may be."""
    heard: list[BaseException] = []

    def wait() -> None:
        try:
            with transaction(conn) as cur:
                cur.execute("INSERT INTO public.t VALUES (1)")
                cur.execute("SELECT pg_sleep(20)")
        except errors.OperationalError as error:
            heard.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    try:
        session.cut_all()
        thread.join(2)
        assert len(heard) == 1
        with pytest.raises(NotNow, match="no time is left"):
            tiers.core.connect("test")
    finally:
        session.dial_again()
    with closing(tiers.core.connect("test")) as other:
        assert count(other) == (0,)
