"""Each planted bug is seen by the test that it names: a suite that passes on broken code proves nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planted import ROOT, Mutant, mutants

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
_FAILED = 1  # pytest's exit code where tests ran and some failed


def run(source: Path, *tests: str) -> "subprocess.CompletedProcess[str]":
    """The named tests, on the package in `source`."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "300", *tests]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the code that may be broken; what Python imports is that copy."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    where = "import tierkeeper; print(tierkeeper.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    said = subprocess.run([sys.executable, "-c", where], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith(str(tmp_path))
    return tmp_path


def test_without_a_bug_the_tests_pass(copied: Path) -> None:
    done = run(copied / "src", *sorted({m.test for m in mutants()}))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("mutant", mutants(), ids=lambda m: m.name)
def test_the_bug_is_seen(copied: Path, mutant: Mutant) -> None:
    mutant.apply(copied)
    done = run(copied / "src", mutant.test)
    assert done.returncode == _FAILED, done.stdout[-3000:]
    assert re.search(r"^\d+ failed", done.stdout, re.MULTILINE), f"it stopped before it was tried:\n{done.stdout[-3000:]}"
