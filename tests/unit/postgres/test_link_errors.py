"""What a user reads when a server cannot be reached: one cause, the gravest, and what to do."""

import psycopg
import pytest

from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.postgres.link import Full, Link, translate

HERE = 'connection to server at "127.0.0.1", port 5432 failed: '
WRONG = f'connection failed: {HERE}FATAL:  password authentication failed for user "u"'
PLAIN = f'{HERE}FATAL:  no pg_hba.conf entry for host "h", user "u", database "x", no encryption'


@pytest.mark.parametrize(
    ("said", "cause", "remedy"),
    [
        (f"{WRONG}\n{PLAIN}", 'password authentication failed for user "u"', "password"),
        (f'{HERE}FATAL:  database "x" does not exist', 'database "x" does not exist', "database's name"),
        (f"{HERE}SSL error: certificate verify failed", "SSL error: certificate verify failed", "it may have expired"),
        (f"{HERE}server does not support SSL, but SSL was required", "server does not support SSL, but SSL was required", "TLS"),
        (f"{HERE}FATAL:  Tenant or user not found", "Tenant or user not found", "postgres.REF"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_the_users_to_correct(said: str, cause: str, remedy: str) -> None:
    found = translate(psycopg.OperationalError(said), "tiers.core (h:5432/x)")
    assert (isinstance(found, UsageError), found.cause) == (True, cause)
    assert remedy in found.remedy


def test_a_full_server_is_not_taken_for_one_without_tls() -> None:
    """Without TLS libpq tries once more, and a server may have a place again that it gives to nobody without."""
    found = translate(
        psycopg.OperationalError(f"{HERE}FATAL:  sorry, too many clients already\n{PLAIN}"), "tiers.core (h:5432/x)"
    )
    assert type(found) is Full


def test_a_server_that_is_away_may_come_back() -> None:
    hint = "\n\tIs the server running on that host and accepting TCP/IP connections?"
    found = translate(psycopg.OperationalError(f"connection failed: {HERE}Connection refused{hint}"), "tiers.core (h:5432/x)")
    assert (type(found), found.cause) == (NotNow, "the server does not answer (Connection refused)")
    assert "pooler" not in found.remedy
    direct = translate(psycopg.OperationalError(f"{HERE}Network is unreachable"), "tiers.core (db.abc.supabase.co:5432/postgres)")
    assert "Session pooler" in direct.remedy


@pytest.mark.parametrize(
    "said",
    [
        "server sent an error response during SSL exchange",
        "SSL connection has been closed unexpectedly",
        "SSL SYSCALL error: EOF detected",
        "SSL error: unexpected eof while reading",
        "could not send SSL negotiation packet: Broken pipe",
    ],
)
def test_a_server_that_goes_away_while_it_is_greeted_may_come_back(said: str) -> None:
    for kind in (psycopg.OperationalError, psycopg.DatabaseError):  # the latter is made of a result without an SQLSTATE
        assert type(translate(kind(f"{HERE}{said}"), "tiers.core (h:5432/x)")) is NotNow


def test_a_ca_in_the_url_is_used_on_this_machine_too() -> None:
    given = Link("core", "postgresql://u:p@127.0.0.1/x?sslrootcert=/ca.crt").parameters
    assert (given["sslmode"], given["sslrootcert"]) == ("verify-full", "/ca.crt")
    assert "sslmode" not in Link("core", "postgresql://u:p@127.0.0.1/x").parameters
