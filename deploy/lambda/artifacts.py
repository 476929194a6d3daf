"""Builds what AWS Lambda runs: `dist/lambda/FUNCTION.zip`, one for each of the four functions.

    .venv/bin/python deploy/lambda/artifacts.py [--function FUNCTION] [--python 3.13] [--arch x86_64] [--out dist/lambda]

In an artifact lie the root module, those modules of the project and those libraries that it can come to import, in the versions
and with the hashes of requirements.lock, and the user's tierkeeper.toml, where there is one. The same inputs give the same bytes.
What was downloaded or squeezed once is kept in build/lambda; an artifact whose inputs are the same is left as it is.
"""

import argparse
import hashlib
import os
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

try:
    from packing import graph, parts, settings, wheels, zips
    from tierkeeper.cli import output
    from tierkeeper.kernel.errors import Exit, Failed, TierkeeperError, UsageError
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}. Run: make setup, then .venv/bin/python deploy/lambda/artifacts.py")

ROOT: Final = Path(__file__).resolve().parents[2]
FUNCTIONS: Final = ("home-server-archiver", "intelligent-load-balancer", "multi-tier-quota-manager", "multi-tier-setup")
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
ARCHES: Final = ("x86_64", "arm64")
ZIPPED_BYTES_MAX: Final = 50_000_000  # what Lambda takes in one request, in the smaller reading of its "50 MB"
UNZIPPED_BYTES_MAX: Final = 250_000_000  # what it unpacks, with its layers

# What a function's code could import and never does. Loading one at once is refused here; that no event needs one is tested.
_TERMINAL: Final = {
    "tierkeeper.cli.render_rows": "draws tables for a person; a function returns a document",
    "tierkeeper.cli.trusting": "asks a person whom to believe",
    "rich": "draws them",
}
_ALERTS: Final = {"tierkeeper.monitoring.alerts.child": "`tierkeeper run` sends alerts, and remembers whom it told"}
_TIERS: Final = {
    "tierkeeper.query": "no event asks a question in SQL",
    "adbc_driver_postgresql": "reads for questions; what is archived comes by COPY",
}
_KEYRING: Final = {"keyring": "is a person's; a function has TIERKEEPER_KEY"}
_FORMS: Final = dict.fromkeys(
    ("tierkeeper.postgres.binary", "tierkeeper.postgres.own_form", "numpy"),
    "turns what a restore sends, with numpy, which has no room; as text it arrives as well",
)
_BACKENDS: Final = {
    "tierkeeper.compose.keeper": "moves and archives; here backends are asked and requests are passed on",
    "pyarrow": "counts what an archive reads",
}
LEFT_OUT: Final[Mapping[str, Mapping[str, str]]] = {
    "home-server-archiver": {**_TERMINAL, **_ALERTS, **_TIERS, **_FORMS, **_KEYRING},
    "intelligent-load-balancer": {**_TERMINAL, **_ALERTS, **_BACKENDS},
    "multi-tier-quota-manager": {**_TERMINAL, **_ALERTS, **_TIERS, **_FORMS, **_KEYRING},
    "multi-tier-setup": {**_TERMINAL, **_ALERTS, **_TIERS, **_FORMS, **_KEYRING},
}


@dataclass(frozen=True)
class Inputs:
    """All that an artifact is made of. `own` by their names in it; `needed` are its libraries."""

    function: str
    own: Mapping[str, bytes]
    needed: Sequence[wheels.Locked]
    target: wheels.Target

    @property
    def digest(self) -> str:
        """Changes with any of them, and with how they are put together."""
        seen = hashlib.sha256(f"{self.function} {self.target} {zlib.ZLIB_RUNTIME_VERSION}".encode())
        makers = {str(f.relative_to(ROOT)): f.read_bytes() for f in sorted(Path(__file__).parent.rglob("*.py"))}
        locked = {one.name: one.text.encode() for one in self.needed}
        for group in (makers, self.own, locked):
            for name, content in sorted(group.items()):
                seen.update(f"{name}\0{len(content)}\0".encode() + content)
        return seen.hexdigest()


def inputs(function: str, project: graph.Graph, libraries: wheels.Libraries, config: Mapping[str, bytes]) -> Inputs:
    """What `function` is made of."""
    root = ROOT / f"{function.replace('-', '_')}.py"
    reached = project.reached(root, LEFT_OUT[function])
    own = {root.name: root.read_bytes(), "LICENSE": (ROOT / "LICENSE").read_bytes(), **config}
    for module in reached.modules:
        file = project.files[module]
        own |= {str(f.relative_to(ROOT / "src")): f.read_bytes() for f in (file, *_data(file))}
    return Inputs(function, own, libraries.behind(reached.outside, alone=parts.ALONE), libraries.target)


def _data(file: Path) -> Iterable[Path]:
    """What lies beside a package's modules and is read by them: its statements."""
    if file.name != "__init__.py":
        return ()
    folders = [file.parent, *(f for f in file.parent.iterdir() if f.is_dir() and not (f / "__init__.py").exists())]
    return [f for d in folders for f in d.iterdir() if f.is_file() and f.suffix not in (".py", ".pyc", ".typed")]


def built(made: Inputs, libraries: wheels.Libraries, cache: Path, out: Path) -> str:
    """Writes the artifact unless it is there already. Returns what there is to say. Raises Failed for one that is too large."""
    began, file, digest = time.monotonic(), out / f"{made.function}.zip", made.digest
    if zips.comment(file) == digest:
        return f"{file}  {file.stat().st_size / 1e6:.1f} MB, unchanged"
    found = {
        one: parts.part(one, wheel, cache / "parts") for one, wheel in libraries.fetched(made.needed, cache / "wheels").items()
    }
    found[graph.OWN] = [zips.deflated(name, content) for name, content in made.own.items()]
    raw = zips.write((entry for entries in found.values() for entry in entries), comment=digest)
    unzipped = sum(zips.unpacked_bytes(entries) for entries in found.values())
    _fits(made.function, len(raw), unzipped, found)
    out.mkdir(parents=True, exist_ok=True)
    beside = out / f".{made.function}.{os.getpid()}"
    beside.write_bytes(raw)
    beside.replace(file)
    seconds = time.monotonic() - began
    return f"{file}  {len(raw) / 1e6:.1f} MB, {unzipped / 1e6:.0f} MB unpacked, built in {seconds:.1f} s"


def _fits(function: str, zipped: int, unzipped: int, found: Mapping[str, Sequence[zips.Entry]]) -> None:
    if zipped <= ZIPPED_BYTES_MAX and unzipped <= UNZIPPED_BYTES_MAX:
        return
    sizes = {name: sum(len(e.deflated) for e in entries) for name, entries in found.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    raise Failed(
        f"{function}.zip",
        f"it has {zipped / 1e6:.1f} MB and {unzipped / 1e6:.1f} MB unpacked; Lambda takes {ZIPPED_BYTES_MAX / 1e6:.0f}"
        f" and {UNZIPPED_BYTES_MAX / 1e6:.0f}",
        f"Leave something out: {', '.join(f'{name} has {sizes[name] / 1e6:.1f} MB' for name in largest)}",
    )


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        chosen = given.function or FUNCTIONS
        if unknown := [name for name in chosen if name not in FUNCTIONS]:
            raise UsageError("--function", f"there is no function {unknown[0]}", f"Name one of: {', '.join(FUNCTIONS)}")
        settings.check_variables(given.config, os.environ)
        project, config = graph.Graph(ROOT / "src"), settings.files(given.config)
        libraries = wheels.Libraries(ROOT, wheels.Target(given.python, given.arch))
        for function in chosen:
            print(built(inputs(function, project, libraries, config), libraries, given.cache, given.out))  # noqa: T201
    except TierkeeperError as error:
        output.show_error(error, as_json=False, debug=False)
        return error.exit_code
    return Exit.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="artifacts.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--function", action="append", help=f"one of {', '.join(FUNCTIONS)}; may be given again; left out, all")
    parser.add_argument(
        "--python", choices=PYTHONS, default="3.13", help="Lambda's python3.11 has too old a C library for pyarrow"
    )
    parser.add_argument("--arch", choices=ARCHES, default="x86_64", help="as Lambda names it")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "lambda", help="the folder of the artifacts")
    parser.add_argument("--config", type=Path, default=ROOT / settings.FILE, help="goes along, if it is there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "lambda", help="what was downloaded and squeezed before")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
