"""Asking a brain that cannot be asked."""

from pathlib import Path

import pytest

from tierkeeper.balance.kept import Kept
from tierkeeper.cli import balance
from tierkeeper.kernel.errors import UsageError


def test_the_folder_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shut(path: Path) -> bool:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "exists", shut)
    with pytest.raises(UsageError, match="another user"):
        balance._asked(Kept(tmp_path), "GET", "/status")
