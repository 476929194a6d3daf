"""A logger that loads its library with the first line: most runs have nothing to say, and loading it takes a while."""

import sys
from collections.abc import Callable
from typing import Any

_prepared: list[Callable[[], None]] = []


def prepare(configure: Callable[[], None]) -> None:
    """Has the library configured so before the first line; at once where it is loaded already."""
    _prepared[:] = [configure]
    if "structlog" in sys.modules:
        _configure()


def _configure() -> None:
    while _prepared:
        _prepared.pop()()


class Log:
    """What a module says, with facts by name."""

    def info(self, event: str, **facts: Any) -> None:
        _say("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        _say("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        _say("error", event, facts)

    def exception(self, event: str, **facts: Any) -> None:
        """An error with the traceback of what is being handled."""
        _say("exception", event, facts)


def _say(level: str, event: str, facts: dict[str, Any]) -> None:
    import structlog

    _configure()
    getattr(structlog.get_logger(), level)(event, **facts)
