"""Whose folder is swept away."""

import tempfile
from pathlib import Path

import pytest

from tierkeeper.demo import folder


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_demo_left_goes_and_nothing_else(parent: Path) -> None:
    left, making, other = (parent / f"{folder.PREFIX}{name}" for name in ("left", "making", "other"))
    for made in (left, making):
        made.mkdir()
    (left / "core").mkdir()
    (left / "core" / "data").write_text("rows")
    precious = parent / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    other.symlink_to(precious)
    with folder.own_folder() as running:
        (running / "core").mkdir()
        assert not left.exists(), "it is swept when the next one begins"
        assert folder.sweep(parent) == []
        assert (running / "core").exists(), "one that is in use stays"
        assert making.exists()
        assert (precious / "file").exists()
    assert not running.exists()
