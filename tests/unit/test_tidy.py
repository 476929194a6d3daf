"""The house's style, where a machine can see it."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(
    [*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "bench").glob("*.py"), *(ROOT / "deploy").rglob("*.py")]
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES, TEST_FILE_LINES, FUNCTION_LINES = 400, 700, 70
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError|for now|placeholder|in a real|simplified)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]  # a function's


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, Function)]


def test_files_and_functions_can_be_read_in_one_go() -> None:
    for files, limit in ((SHIPPED, FILE_LINES), (TESTS, TEST_FILE_LINES)):
        assert [str(p) for p in files if len(p.read_text(encoding="utf-8").splitlines()) > limit] == []
    long = [place(p, f) for p in SHIPPED + TESTS for f in functions(p) if (f.end_lineno or 0) - f.lineno + 1 > FUNCTION_LINES]
    assert long == []


def test_every_module_says_why_it_exists() -> None:
    assert [str(p) for p in SHIPPED if not ast.get_docstring(tree(p))] == []


def test_nothing_is_unfinished() -> None:
    lines = [(p, line) for p in SHIPPED for line in p.read_text(encoding="utf-8").splitlines()]
    assert len(lines) > 10_000
    assert [(str(p), line) for p, line in lines if UNFINISHED.search(line)] == []


def test_no_function_is_a_stub() -> None:
    def empty(f: Function) -> bool:
        rest = [
            s
            for s in f.body
            if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) and not isinstance(s, ast.Pass)
        ]
        return not rest and ast.get_docstring(f) is None

    def protocols(path: Path) -> set[ast.AST]:
        classes = [c for c in ast.walk(tree(path)) if isinstance(c, ast.ClassDef)]
        return {f for c in classes if "Protocol" in ast.dump(c.bases[0] if c.bases else c) for f in ast.walk(c)}

    assert [place(p, f) for p in SHIPPED for f in functions(p) if empty(f) and f not in protocols(p)] == []


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
