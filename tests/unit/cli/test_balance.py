"""Asking a brain that cannot be asked, and starting one."""

import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tierkeeper.balance.kept import Kept
from tierkeeper.cli import balance
from tierkeeper.cli.app import app
from tierkeeper.kernel.errors import UsageError


def test_the_folder_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shut(path: Path) -> bool:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "exists", shut)
    with pytest.raises(UsageError, match="another user"):
        balance._asked(Kept(tmp_path), "GET", "/status")


def test_a_hangup_that_comes_too_soon_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler comes with the brain, a second later; what the system does by default is to end the process."""
    found = []
    monkeypatch.setattr(
        "tierkeeper.compose.balancer.serve", lambda *_given, **_named: found.append(signal.getsignal(signal.SIGHUP))
    )
    before = signal.getsignal(signal.SIGHUP)
    try:
        assert CliRunner().invoke(app, ["balance", "serve"]).exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found == [signal.SIG_IGN]
