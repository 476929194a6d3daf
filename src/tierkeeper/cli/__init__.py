"""The command line: reads arguments, asks one `Keeper`, prints what it answers. It decides nothing about rows.

One JSON document on stdout with `--json`, tables for a person else; logs, progress and errors of a person go to stderr.
"""

import atexit
import gc
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

__all__ = ["lean", "main"]

_GARBAGE: Final = 200_000  # new objects between two looks for garbage; with 700 a tenth of the start goes into looking


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Raises SystemExit with one of `kernel.errors.Exit`."""
    lean()
    from tierkeeper.cli import app

    app.main(argv)


def lean() -> None:
    """Makes this process start sooner. For one that runs nothing but tierkeeper, before Arrow is loaded.

    Arrow loads numpy where there is one, to exchange values with it: nothing here does, and it takes a fifth of the start.
    """
    gc.set_threshold(_GARBAGE)
    atexit.register(gc.freeze)  # what is there at the end the system takes back, unlooked at
    sys.meta_path.insert(0, _Without())


class _Without:
    """Finds every module but numpy, which is as if it were not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - the protocol's
        if name == "numpy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
