"""The digest that COPY takes of rows on their way: a multiset of whole rows, to the bit."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from support import Tiers
from tierkeeper.kernel.digest import RowDigest
from tierkeeper.kernel.limits import COPY_BLOCK_BYTES
from tierkeeper.postgres.copy import rows_in, rows_out
from tierkeeper.postgres.link import Connection

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
