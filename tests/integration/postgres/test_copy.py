"""The digest that COPY takes of rows on their way: a multiset of whole rows, to the bit."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors, sql

from support import Tiers
from tierkeeper.kernel.digest import RowDigest
from tierkeeper.kernel.limits import COPY_BLOCK_BYTES
from tierkeeper.postgres.copy import rows_in, rows_out
from tierkeeper.postgres.link import Connection, transaction

ROWS = st.lists(st.binary(max_size=12), max_size=8)
QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
FORMAT = {True: "(FORMAT binary)", False: "(FORMAT text)"}


@pytest.fixture
def conn(tiers: Tiers) -> Iterator[Connection]:
    with closing(tiers.core.connect("test")) as conn:
        yield conn


def digest(conn: Connection, rows: list[bytes], *, binary: bool) -> RowDigest:
    found = RowDigest()
    query = sql.SQL("COPY (SELECT * FROM unnest({}::bytea[])) TO STDOUT " + FORMAT[binary]).format(rows)
    with conn.cursor() as cur:
        list(rows_out(cur, query, binary=binary, digest=found))
    return found


@pytest.mark.parametrize("binary", [True, False])
def test_the_digest_is_of_the_rows_and_not_of_their_order(conn: Connection, *, binary: bool) -> None:
    @QUICK
    @given(ROWS, st.randoms())
    def holds(rows: list[bytes], random: object) -> None:
        shuffled = list(rows)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        found = digest(conn, rows, binary=binary)
        assert found.rows == len(rows)
        assert found.same_as(digest(conn, shuffled, binary=binary))
        assert not found.same_as(digest(conn, [*rows, b""], binary=binary))
        if rows:
            assert not found.same_as(digest(conn, [*rows[1:], bytes([*rows[0], 0])], binary=binary))
            assert not found.same_as(digest(conn, [*rows, rows[0]], binary=binary))

    holds()


@pytest.mark.parametrize("binary", [True, False])
def test_an_empty_answer_weighs_nothing(conn: Connection, *, binary: bool) -> None:
    assert digest(conn, [], binary=binary) == RowDigest(0, 0, 0)


def test_binary_bytes_are_the_rows_own(conn: Connection) -> None:
    assert digest(conn, [b"abc", b""], binary=True).size_bytes == 2 * (2 + 4) + 3


@pytest.mark.parametrize("binary", [True, False])
def test_rows_larger_than_a_block_arrive_as_they_were(conn: Connection, *, binary: bool) -> None:
    conn.execute("CREATE TABLE public.here (n int, body bytea)")
    conn.execute("CREATE TABLE public.there (n int, body bytea)")
    conn.execute(
        "INSERT INTO public.here SELECT n, decode(repeat(md5(n::text), n * %s), 'hex') FROM generate_series(0, 40) AS n",
        [COPY_BLOCK_BYTES // 160],
    )
    sent, kept = RowDigest(), RowDigest()
    with conn.cursor() as cur, closing(conn.cursor()) as other:
        read = sql.SQL("COPY public.here TO STDOUT " + FORMAT[binary]).format()
        blocks = list(rows_out(cur, read, binary=binary, digest=sent))
        rows_in(other, sql.SQL("COPY public.there FROM STDIN " + FORMAT[binary]).format(), blocks)
        read = sql.SQL("COPY (SELECT * FROM public.there ORDER BY n DESC) TO STDOUT " + FORMAT[binary]).format()
        list(rows_out(cur, read, binary=binary, digest=kept))
    assert len(blocks) > 2
    assert sent.rows == 41
    assert sent.same_as(kept)
    assert conn.execute("(TABLE public.here EXCEPT TABLE public.there)").fetchall() == []


def test_one_that_stops_early_leaves_the_connection_usable(conn: Connection) -> None:
    with conn.cursor() as cur:
        blocks = rows_out(
            cur, sql.SQL("COPY (SELECT repeat('x', 100) FROM generate_series(1, 100000)) TO STDOUT").format(), binary=False
        )
        next(blocks)
        blocks.close()
    assert conn.execute("SELECT 1").fetchone() == (1,)


MANY = sql.SQL("COPY (SELECT repeat('x', 100) FROM generate_series(1, 20000)) TO STDOUT").format()
ASKED = [
    sql.SQL("SELECT 1, 'one'"),
    sql.SQL("SET LOCAL lock_timeout = '3s'"),
    sql.SQL("SELECT i FROM generate_series(1, 3) AS i"),
]
ANSWERS = [[(1, "one")], [], [(1,), (2,), (3,)]]


def test_a_copy_comes_with_the_answers_to_what_is_asked_ahead_of_it(conn: Connection) -> None:
    with transaction(conn, isolation="repeatable read", read_only=True) as cur:
        asked = [sql.SQL("SELECT current_query()"), *ASKED]
        (message,), *answers = cur.all_of_then_copy(asked, MANY)
        assert str(message[0]).startswith("BEGIN")
        assert str(message[0]).rstrip().endswith("TO STDOUT")
        assert answers == ANSWERS
        assert sum(map(len, rows_out(cur, MANY, binary=False))) == 101 * 20_000
        assert cur.execute("SHOW lock_timeout").fetchone() == ("3s",)
        assert sum(map(len, rows_out(cur, MANY, binary=False))) == 101 * 20_000
    assert not conn.in_transaction


@pytest.mark.parametrize("stops", ["before it is read", "in the middle of it", "with an error"])
def test_a_copy_that_nobody_reads_to_its_end_leaves_the_connection_usable(conn: Connection, stops: str) -> None:
    def begin_and_stop() -> None:
        with transaction(conn, read_only=True) as cur:
            assert cur.all_of_then_copy(ASKED, MANY) == ANSWERS
            if stops != "before it is read":
                blocks = rows_out(cur, MANY, binary=False)
                next(blocks)
                blocks.close()
            if stops == "with an error":
                raise ValueError(stops)

    if stops == "with an error":
        with pytest.raises(ValueError, match=stops):
            begin_and_stop()
    else:
        begin_and_stop()
    assert conn.execute("SELECT 1").fetchone() == (1,)
    assert not conn.in_transaction


def test_another_copy_than_the_one_that_was_begun_is_what_it_says(conn: Connection) -> None:
    with transaction(conn, read_only=True) as cur:
        cur.all_of_then_copy([], MANY)
        other = sql.SQL("COPY (SELECT 'another') TO STDOUT").format()
        assert b"".join(bytes(b) for b in rows_out(cur, other, binary=False)) == b"another\n"


@pytest.mark.parametrize("wrong", ["SELECT 1 / 0", "COPY (SELECT 1 / 0) TO STDOUT", "SELECT 1"])
def test_what_fails_ahead_of_a_copy_or_in_it_is_told(conn: Connection, wrong: str) -> None:
    with pytest.raises((errors.DivisionByZero, psycopg.ProgrammingError)), transaction(conn, read_only=True) as cur:
        ahead = [sql.SQL(wrong)] if wrong == "SELECT 1 / 0" else []
        copy = MANY if ahead else sql.SQL(wrong).format()
        cur.all_of_then_copy([*ASKED, *ahead], copy)
        list(rows_out(cur, copy, binary=False))
    assert conn.execute("SELECT 1").fetchone() == (1,)
