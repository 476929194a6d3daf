"""Logs go to the stderr of the moment, without secrets."""

import contextlib
import io

import pytest
import structlog

from tierkeeper.cli import logs


def test_a_log_outlives_the_stream_it_was_configured_on(capsys: pytest.CaptureFixture[str]) -> None:
    gone = io.StringIO()
    with contextlib.redirect_stderr(gone):
        logs.configure(verbose=False)
    gone.close()
    structlog.get_logger().warning("still here", url="postgresql://u:s3cr3t-passw0rd@h/x")
    structlog.get_logger().info("not asked for")
    said = capsys.readouterr().err
    assert "still here" in said
    assert "s3cr3t" not in said
    assert "not asked for" not in said
