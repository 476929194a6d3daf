"""What the builder of the artifacts takes for imported: as another reader of the same source sees it."""

import sys
from pathlib import Path

import grimp
import pytest
from pydantic import BaseModel, SecretStr

import artifacts
from packing import graph, settings
from tierkeeper.config import Settings
from tierkeeper.kernel.errors import Failed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> graph.Graph:
    return graph.Graph(ROOT / "src")


def test_every_import_is_seen(project: graph.Graph) -> None:
    other = grimp.build_graph("tierkeeper", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None)
    assert set(project.files) == {m for m in other.modules if m.startswith("tierkeeper")}
    for module in project.files:
        found = {i.target if i.target.startswith("tierkeeper") else i.target.partition(".")[0] for i in project.imports(module)}
        assert {m for m in other.find_modules_directly_imported_by(module) if m != module} <= found | {"tierkeeper"}, module


@pytest.mark.parametrize("function", artifacts.FUNCTIONS)
def test_what_is_left_out_would_else_be_there(project: graph.Graph, function: str) -> None:
    """No name stays in the list when nothing imports it any more."""
    left_out = artifacts.LEFT_OUT[function]
    root = ROOT / f"{function.replace('-', '_')}.py"
    for name in left_out:
        rest = {n: why for n, why in left_out.items() if n != name}
        try:
            reached = project.reached(root, rest)
        except Failed:  # what it loads at once is left out too
            continue
        assert any(m == name or m.startswith(f"{name}.") for m in (*reached.modules, *reached.outside)), name


def package(folder: Path, **modules: str) -> Path:
    (folder / "tierkeeper").mkdir()
    for name, text in {"__init__": "", **modules}.items():
        (folder / "tierkeeper" / f"{name}.py").write_text(text)
    root = folder / "function.py"
    root.write_text("from tierkeeper import one\n")
    return root


def test_what_is_loaded_at_once_cannot_be_left_out(tmp_path: Path) -> None:
    root = package(tmp_path, one="def later():\n    from tierkeeper import two\n", two="import duckdb\n")
    found = graph.Graph(tmp_path).reached(root, {"tierkeeper.two": "not needed"})
    assert (set(found.modules), dict(found.outside)) == ({"tierkeeper", "tierkeeper.one"}, {})
    (tmp_path / "tierkeeper" / "one.py").write_text("\nif True:\n    import tierkeeper.two\n")
    graph.read.cache_clear()
    with pytest.raises(Failed, match=r"one\.py, line 3"):
        graph.Graph(tmp_path).reached(root, {"tierkeeper.two": "not needed"})


def test_what_only_a_checker_or_a_caller_of_the_package_imports_is_not_needed(tmp_path: Path) -> None:
    root = package(
        tmp_path,
        __init__="def open():\n    import tierkeeper.two\n",
        one="if TYPE_CHECKING:\n    import numpy\nelse:\n    import httpx\nNAME = 'tierkeeper.three'\n",
        two="import duckdb\n",
        three="from importlib.util import find_spec\nfind_spec('procrastinate')\nimport json\n",
    )
    found = graph.Graph(tmp_path).reached(root, {})
    assert set(found.modules) == {"tierkeeper", "tierkeeper.one", "tierkeeper.three"}
    assert dict(found.outside) == {"httpx": "tierkeeper.one", "procrastinate": "tierkeeper.three"}
    assert "json" in sys.stdlib_module_names


def test_every_secret_of_the_configuration_is_known_to_the_builder() -> None:
    def secrets(model: type[BaseModel]) -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
            found |= {field.alias or name} if SecretStr in inner else set()
            for kind in inner:
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found |= secrets(kind)
        return found

    assert secrets(Settings) == {*settings.ADDRESSES, *settings.SECRETS} - {"store"}
