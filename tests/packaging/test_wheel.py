"""What is shipped, as wheel and as source: all that is needed, nothing else, the same bytes from both."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from installs import ROOT, built

MODULES = ("home_server_archiver", "intelligent_load_balancer", "multi_tier_quota_manager", "multi_tier_setup")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", tmp_path_factory.mktemp("sdist"))


def test_the_wheel_has_all_it_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [n for n in names if n.endswith("METADATA")]
        (entries,) = [n for n in names if n.endswith("entry_points.txt")]
        said = archive.read(metadata).decode()
        assert "tierkeeper = tierkeeper.cli:main" in archive.read(entries).decode()
    assert "License-Expression: MIT" in said
    assert "Requires-Python: >=3.11" in said
    there = [p.relative_to(ROOT / "src") for p in (ROOT / "src").rglob("*") if p.is_file()]
    shipped = {str(p) for p in there if "__pycache__" not in p.parts}
    assert len([n for n in shipped if n.endswith(".sql")]) > 40
    own = {n for n in names if ".dist-info/" not in n}
    assert own == shipped | {f"{m}.py" for m in MODULES}
    assert {n.rpartition("dist-info/")[2] for n in names - own} == {
        *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }


def test_the_source_archive_is_enough_to_build_from(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """And whoever builds from it gets the same wheel."""
    with tarfile.open(sdist) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
        archive.extractall(tmp_path)  # noqa: S202 - ours, made just now
    assert {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "pyproject.toml", "requirements.lock", "PKG-INFO"} <= names
    assert {n.partition("/")[0] for n in names if "/" in n} == {"src"}
    (source,) = (p for p in tmp_path.iterdir() if p.is_dir())
    again = built("wheel", tmp_path / "again", source, umask=0o077)
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()
