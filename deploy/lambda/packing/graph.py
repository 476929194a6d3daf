"""Which modules and which libraries a root module can come to import, as the source says it; nothing is imported.

An import inside a function counts too, unless what it brings is left out by name: the caller answers for it that the function
never gets there. One that happens when a module is loaded can not be left out.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tierkeeper.kernel.errors import Failed

OWN: Final = "tierkeeper"
_BY_NAME: Final = ("find_spec", "import_module")


@dataclass(frozen=True)
class Import:
    """`target`, a module's full name, imported at `line`; `late` where that happens in a function, not on loading."""

    target: str
    line: int
    late: bool


@dataclass(frozen=True)
class Reached:
    """`modules`: those of the project, by their full names. `outside`: other top-level names, each with who imports it first."""

    modules: frozenset[str]
    outside: Mapping[str, str]


class Graph:
    """The imports of the package in `source`; each file is read once."""

    def __init__(self, source: Path) -> None:
        self.files = {_name(file, source): file for file in sorted(source.joinpath(OWN).rglob("*.py"))}

    def imports(self, module: str) -> tuple[Import, ...]:
        """What `module` of the package imports."""
        return read(self.files[module], frozenset(self.files))

    def reached(self, root: Path, left_out: Mapping[str, str]) -> Reached:
        """From the file `root`. Raises Failed where something of `left_out` (its names, with their reasons) is loaded at once."""
        seen, loaded, outside = set[str](), set[str](), dict[str, str]()
        waiting = [(found, root.stem, root) for found in read(root, frozenset(self.files))]
        while waiting:
            found, origin, file = waiting.pop()
            if any(found.target == name or found.target.startswith(f"{name}.") for name in left_out):
                if not found.late:
                    raise _loaded_at_once(found, file, root.stem)
            elif found.target not in self.files:
                outside.setdefault(found.target.partition(".")[0], origin)
            elif found.target not in seen:
                seen.add(found.target)
                waiting += [(i, found.target, self.files[found.target]) for i in self.imports(found.target)]
                # A package is loaded with each of its modules; what its own functions import is for who calls those.
                for parent in _parents(found.target):
                    if parent not in seen | loaded:
                        loaded.add(parent)
                        waiting += [(i, parent, self.files[parent]) for i in self.imports(parent) if not i.late]
        return Reached(frozenset(seen | loaded), {n: o for n, o in outside.items() if n not in sys.stdlib_module_names})


def _name(file: Path, source: Path) -> str:
    parts = file.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _loaded_at_once(found: Import, file: Path, function: str) -> Failed:
    return Failed(
        f"{file.name}, line {found.line}",
        f"it loads {found.target}, which {function} is to do without",
        "Import it in the function that uses it, or take it out of LEFT_OUT in deploy/lambda/artifacts.py",
    )


@cache
def read(file: Path, modules: frozenset[str]) -> tuple[Import, ...]:
    """The imports of `file`; of `modules` one that it names in a text counts too. What only a type checker reads does not."""
    return tuple(_found(ast.parse(file.read_text(encoding="utf-8")), modules, late=False))


def _found(node: ast.AST, modules: frozenset[str], *, late: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, late) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        whole = (f"{node.module}.{alias.name}" for alias in node.names)
        yield from (Import(name if name in modules else str(node.module), node.lineno, late) for name in whole)
    elif isinstance(node, ast.Call) and _called(node) in _BY_NAME:
        named = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        yield from (Import(name, node.lineno, late=True) for name in named)
    elif isinstance(node, ast.Constant) and node.value in modules and node.value != OWN:
        yield Import(str(node.value), node.lineno, late=True)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        inner: list[ast.AST] = list(node.orelse)
    else:
        inner = list(ast.iter_child_nodes(node))
    later = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in inner:
        yield from _found(child, modules, late=later)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
