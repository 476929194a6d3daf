"""What a server says when a scan fails, in our words: a reader whose time was over is told so, and may ask again."""

import pytest

from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.query.scans import OUTSIDE, scan_error


@pytest.mark.parametrize(
    "said",
    [
        """[libpq] Failed to execute query: ERROR:  snapshot "00000047-00000002-1" does not exist\n. SQLSTATE: 42704""",
        """[libpq] Failed to execute query: ERROR:  could not import the requested snapshot
DETAIL:  The source process with PID 3653 is not running anymore.\n. SQLSTATE: 55000""",
    ],
)
def test_a_snapshot_that_was_ended_is_a_reader_that_took_too_long(said: str) -> None:
    error = scan_error("tiers.core", said)
    assert isinstance(error, NotNow)
    assert error.cause == "it took longer than query.timeout"


def test_any_other_error_is_told_as_it_is() -> None:
    error = scan_error("tiers.core", "[libpq] ERROR:  division by zero\n. SQLSTATE: 22012")
    assert isinstance(error, Failed)
    assert "division by zero" in error.cause


def test_a_server_that_went_away_is_no_time_outside_of_the_years_though_the_query_says_so() -> None:
    query = f"Query was: COPY (SELECT CASE WHEN true THEN at ELSE ('x {OUTSIDE}')::timestamp END FROM t) TO STDOUT"
    gone = scan_error("tiers.main", f"[libpq] Failed to execute COPY: server closed the connection unexpectedly\n{query}")
    assert isinstance(gone, NotNow)
    shut = scan_error("tiers.main", f"[libpq] FATAL:  terminating connection\n{query}. SQLSTATE: 57P01")
    assert isinstance(shut, NotNow)
    odd = scan_error("tiers.main", f'ERROR:  invalid input syntax: "infinity {OUTSIDE}"\n{query}. SQLSTATE: 22007')
    assert isinstance(odd, Failed)
    assert f"a time {OUTSIDE} (ERROR:" in odd.cause
