"""The planted bugs fit the code as it is, and the documentation lists them all; `tests/crash/test_mutants.py` runs them."""

import ast

import pytest

from planted import PAGE, ROOT, Mutant, mutants


@pytest.mark.parametrize("mutant", mutants(), ids=lambda m: m.name)
def test_it_applies_and_its_test_is_there(mutant: Mutant) -> None:
    mutant.apply(ROOT, only_check=True)
    path, _, name = mutant.test.partition("::")
    names = [f.name for f in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if isinstance(f, ast.FunctionDef)]
    assert name.partition("[")[0] in names


def test_the_documentation_lists_them_all() -> None:
    assert len(mutants()) >= 20
    listed = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert listed == [m.line for m in mutants()]
