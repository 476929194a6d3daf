"""The house's style, where a machine can see it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(
    [*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "bench").glob("*.py"), *(ROOT / "deploy").rglob("*.py")]
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES, TEST_FILE_LINES, FUNCTION_LINES = 400, 700, 70
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError|for now|placeholder|in a real|simplified)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


@pytest.mark.parametrize("path", SHIPPED + TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_can_be_read_in_one_go(path: Path) -> None:
    limit = TEST_FILE_LINES if path in TESTS else FILE_LINES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit
    long = [f.name for f in functions(path) if (f.end_lineno or f.lineno) - f.lineno + 1 > FUNCTION_LINES]
    assert long == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_why_it_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert [line for line in text.splitlines() if UNFINISHED.search(line)] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_function_is_a_stub(path: Path) -> None:
    def empty(f: Function) -> bool:
        rest = [
            s
            for s in f.body
            if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) and not isinstance(s, ast.Pass)
        ]
        return not rest and ast.get_docstring(f) is None

    tree = ast.parse(path.read_text(encoding="utf-8"))
    protocols = {f for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and "Protocol" in ast.dump(c.bases[0] if c.bases else c)
                 for f in ast.walk(c) if isinstance(f, Function)}  # fmt: skip
    assert [f.name for f in ast.walk(tree) if isinstance(f, Function) and f not in protocols and empty(f)] == []


def test_nothing_names_a_machine_or_a_registry() -> None:
    suspicious = re.compile(r"/(?:work|root|home/\w+|opt)/|pypi\.org|registry\.npmjs|files\.pythonhosted|deb\.debian")
    looked_at = [
        *SHIPPED,
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
        ROOT / "requirements.lock",
    ]
    assert [str(p) for p in looked_at if suspicious.search(p.read_text(encoding="utf-8"))] == []
