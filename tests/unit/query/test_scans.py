"""What a server says when a scan fails, in our words: a reader whose time was over is told so, and may ask again."""

import pytest

from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.query.scans import scan_error


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
