"""What `pip install` brings: the command, the four modules, every statement and the licence."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = ("home_server_archiver", "intelligent_load_balancer", "multi_tier_quota_manager", "multi_tier_setup")


def built(kind: str, folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    (artifact,) = folder.iterdir()
    return artifact


def test_the_wheel_has_all_it_needs(tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        (metadata,) = [n for n in names if n.endswith("METADATA")]
        (entries,) = [n for n in names if n.endswith("entry_points.txt")]
        assert "License-Expression: MIT" in wheel.read(metadata).decode()
        assert "tierkeeper = tierkeeper.cli:main" in wheel.read(entries).decode()
    assert {f"{m}.py" for m in MODULES} <= names
    shipped = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*") if p.suffix in (".py", ".sql", ".typed")}
    assert shipped <= names
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_the_wheel_runs_from_another_folder(tmp_path: Path) -> None:
    """The modules and the command work from the wheel's own files, not from this checkout."""
    wheel = built("wheel", tmp_path / "dist")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # noqa: S202 - built a moment ago, by us
    code = "import tierkeeper, multi_tier_setup; print(tierkeeper.__file__); from tierkeeper.cli import main; main(['--version'])"
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(str(site))


@pytest.mark.parametrize(
    "name", ["LICENSE", "README.md", "pyproject.toml", "home_server_archiver.py", "src/tierkeeper/compose/__init__.py"]
)
def test_the_source_archive_can_be_built_from(tmp_path: Path, name: str) -> None:
    with tarfile.open(built("sdist", tmp_path)) as archive:
        assert any(n.partition("/")[2] == name for n in archive.getnames())
