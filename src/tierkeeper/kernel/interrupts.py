"""Ctrl-C amid a library that answers it with an error of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_DUCKDB: Final = "Query interrupted"


@contextmanager
def interruptible() -> Iterator[None]:
    """DuckDB makes a RuntimeError of a signal's KeyboardInterrupt; a user who ended a command would read of a fault of ours."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == _DUCKDB:
            raise KeyboardInterrupt from error
        raise
