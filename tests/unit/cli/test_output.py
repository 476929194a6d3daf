"""Where output goes when nobody takes it."""

import errno
import os
import sys
from datetime import UTC, datetime

import pytest

from tierkeeper.cli import output
from tierkeeper.kernel.results import BalanceEvent

EVENT = BalanceEvent(at=datetime(2014, 1, 1, tzinfo=UTC), event="state", told="out")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_stream_goes_on_when_its_reader_has_gone(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        for _ in range(3):
            output.line(EVENT, as_json=as_json)


def test_a_stream_goes_on_when_its_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", text)

    monkeypatch.setattr(output, "write", full)
    output.line(EVENT, as_json=True)
