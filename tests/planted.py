"""Planted bugs: the patches of `tests/mutants`, each with the invariant that it breaks and the test that must see it."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "mutants"
PAGE = ROOT / "docs" / "internals" / "mutants.md"

_HEADER = re.compile(r"Invariant: (?P<invariant>I\d+)\nFault: (?P<fault>.+)\nCaught by: (?P<test>\S+)\n\n--- a/")


@dataclass(frozen=True)
class Mutant:
    """One planted bug. `fault` says it in words, `test` is a pytest node id."""

    name: str
    invariant: str
    fault: str
    test: str

    @property
    def patch(self) -> Path:
        return FOLDER / f"{self.name}.patch"

    @property
    def line(self) -> str:
        """Its row in the documentation's table."""
        return f"| `{self.name}` | {self.invariant} | {self.fault} | `{self.test.removeprefix('tests/')}` |"

    def apply(self, tree: Path, *, only_check: bool = False) -> None:
        """Changes `tree`. Raises AssertionError with git's words where the patch does not fit any more."""
        check = ["--check"] if only_check else []
        done = subprocess.run(["git", "apply", *check, str(self.patch)], cwd=tree, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{self.name} no longer applies, cut it anew: {done.stderr}"


def mutants() -> list[Mutant]:
    """All of them, by name."""
    found = []
    for path in sorted(FOLDER.glob("*.patch")):
        header = _HEADER.match(path.read_text(encoding="utf-8"))
        assert header is not None, f"{path.name} does not say its invariant, its fault and its test"
        found.append(Mutant(path.stem, **header.groupdict()))
    return found
