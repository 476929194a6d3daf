"""What the Arrow driver says when rows stop coming, in our words: each text as libpq gave it when a server was struck."""

import pytest

from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.postgres.arrow import stream_error


@pytest.mark.parametrize(
    "said",
    [
        "[libpq] PQgetCopyData() failed: SSL error: unexpected eof while reading\n",
        "IO: Failed to prepare query: FATAL:  terminating connection due to administrator command\nSSL connection closed",
        "IO: [libpq] Failed to rollback: SSL error: unexpected eof while reading",
        "[libpq] Execution error [PGRES_FATAL_ERROR]: ERROR:  canceling statement due to user request\n",
        "[libpq] Failed to execute query: ERROR:  could not serialize access\n. SQLSTATE: 40001",
        "[libpq] Failed to execute query: ERROR:  canceling statement due to lock timeout\n. SQLSTATE: 55P03",
        "",
    ],
)
def test_what_passes_by_itself_is_told_as_not_now(said: str) -> None:
    assert type(stream_error("tiers.core", said)) is NotNow


@pytest.mark.parametrize(
    "said",
    [
        "[libpq] Failed to execute query: ERROR:  division by zero\n. SQLSTATE: 22012",
        "[libpq] Execution error [PGRES_FATAL_ERROR]: ERROR:  division by zero\n",
    ],
)
def test_what_the_server_refuses_is_told_with_its_cause(said: str) -> None:
    error = stream_error("tiers.core", said)
    assert type(error) is Failed
    assert "division by zero" in error.cause
