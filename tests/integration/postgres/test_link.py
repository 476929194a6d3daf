"""Transactions on a real server: what was committed is durable, what failed is told."""

from collections.abc import Iterator
from contextlib import closing, suppress

import psycopg
import pytest
from psycopg import errors, sql

from support import Tiers
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.postgres.link import Connection, transaction, translate


@pytest.fixture
def conn(tiers: Tiers) -> Iterator[Connection]:
    with closing(tiers.core.connect("test")) as conn:
        conn.execute("CREATE TABLE public.t (a int PRIMARY KEY)")
        conn.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(sql.Identifier(conn.info.dbname)))
        yield conn


def count(conn: Connection) -> object:
    return conn.execute("SELECT count(*) FROM public.t").fetchone()


def test_a_failed_statement_that_was_passed_over_is_no_commit(conn: Connection) -> None:
    def passes_over() -> None:
        with transaction(conn) as cur:
            cur.execute("INSERT INTO public.t VALUES (1)")
            with suppress(errors.UniqueViolation):
                cur.execute("INSERT INTO public.t VALUES (1)")

    with pytest.raises(Failed, match="rolled back"):
        passes_over()
    assert count(conn) == (0,)


def test_an_error_rolls_back_and_the_connection_goes_on(conn: Connection) -> None:
    def fails() -> None:
        with transaction(conn) as cur:
            cur.execute("INSERT INTO public.t VALUES (1)")
            raise ValueError("of the body's own")

    with pytest.raises(ValueError, match="own"):
        fails()
    assert count(conn) == (0,)
    with transaction(conn) as cur:
        cur.execute("INSERT INTO public.t VALUES (1)")
    assert count(conn) == (1,)


def test_a_write_is_durable_whatever_the_default_and_leaves_no_setting(tiers: Tiers, conn: Connection) -> None:
    with closing(tiers.core.connect("test")) as fresh:
        assert fresh.execute("SHOW synchronous_commit").fetchone() == ("off",)
        with transaction(fresh) as cur:
            assert cur.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert fresh.execute("SHOW synchronous_commit").fetchone() == ("off",)
        assert fresh.execute("SHOW search_path").fetchone() != ("pg_catalog",)


def test_a_reader_may_end_early(conn: Connection) -> None:
    with transaction(conn, isolation="repeatable read", read_only=True) as cur:
        cur.execute("COMMIT")
    assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


def test_no_statement_is_compiled(conn: Connection) -> None:
    assert conn.execute("SHOW jit").fetchone() == ("on",)
    with transaction(conn, read_only=True) as cur:
        assert cur.execute("SHOW jit").fetchone() == ("off",)


@pytest.mark.parametrize(
    ("purpose", "read_only", "soon"), [("test", False, (40, 40_000)), ("mover", True, (40, 300_000)), ("test", True, None)]
)
def test_a_server_ends_soon_what_holds_locks_where_its_machine_is_cut_off(
    tiers: Tiers, purpose: str, read_only: bool, soon: tuple[int, int] | None
) -> None:
    """The server asks the socket itself, so that what it shows is what the kernel keeps to: with nothing under way, and with."""
    shown = (
        "SELECT current_setting('tcp_keepalives_idle')::int + 4 * current_setting('tcp_keepalives_interval')::int,"
        " current_setting('tcp_user_timeout')::int"
    )
    with closing(tiers.core.connect(purpose)) as conn:
        before = conn.execute(shown).fetchone()
        with transaction(conn, read_only=read_only) as cur:
            waits = cur.execute(shown).fetchone()
        assert waits == (soon or before)
        assert conn.execute(shown).fetchone() == before, "nothing is left in the session of a pooler"


@pytest.mark.parametrize("kind", ["regclass", "regtype", "regprocedure", "regnamespace"])
def test_an_object_that_a_value_names_is_to_be_made_first_whatever_state_says_that_it_lacks(conn: Connection, kind: str) -> None:
    conn.execute(f"ALTER TABLE public.t ADD o {kind}".encode())
    with pytest.raises(psycopg.Error) as raised, conn.cursor().copy("COPY public.t FROM STDIN") as copy:
        copy.write({"regprocedure": "1\tnone.x(int4)\n", "regnamespace": "1\tnone\n"}.get(kind, "1\tpublic.x\n"))
    found = translate(raised.value, "public.t (main)")
    assert (type(found), found.cause[-10:]) == (UsageError, "(column o)")
    assert "Make it there first" in found.remedy


def test_a_value_that_its_own_type_cannot_read_is_the_values_fault(conn: Connection) -> None:
    """An empty query goes out in binary, and Postgres 17 does not take it in."""
    conn.execute("ALTER TABLE public.t ADD q tsquery")
    empty = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\2" + b"\0\0\0\4\0\0\0\1" + b"\0\0\0\4" + bytes(4) + b"\xff\xff"
    with pytest.raises(psycopg.Error) as raised, conn.cursor().copy("COPY public.t FROM STDIN (FORMAT binary)") as copy:
        copy.write(empty)
    found = translate(raised.value, "public.t (main)")
    assert (type(found), found.cause[-10:]) == (Failed, "(column q)")
    assert "--where" in found.remedy
