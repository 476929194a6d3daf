"""Signals that ask."""

import os
import signal

import pytest

from tierkeeper.cli.stop import STOPPED, StopFlag


def test_a_signal_asks_where_nobody_reads_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(descriptor: int, text: bytes) -> int:
        raise BrokenPipeError(descriptor, text)

    monkeypatch.setattr(os, "write", gone)
    stop = StopFlag()
    stop._ask(signal.SIGTERM, None)
    assert stop() == STOPPED
