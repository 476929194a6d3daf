"""The command line: reads arguments, asks one `Keeper`, prints what it answers. It decides nothing about rows.

One JSON document on stdout with `--json`, tables for a person else; logs, progress and errors of a person go to stderr.
"""

import atexit
import gc
import os
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
    """Makes this process start and end sooner. For one that runs nothing but tierkeeper."""
    gc.set_threshold(_GARBAGE)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy's, which comes with Arrow; nobody asks them anything
    atexit.register(_leave)


def _leave() -> None:
    """What is there at the end the system takes back, unlooked at; but DuckDB, which tells of all that it finds left over."""
    if "duckdb" not in sys.modules:
        gc.freeze()
