"""Logs go to stderr: lines for a person on a terminal, JSON lines else. Secrets are taken out on the way."""

import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from tierkeeper.config import redact
from tierkeeper.kernel import log

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger


def configure(*, verbose: bool) -> None:
    """WARNING and above, with `verbose` INFO too."""
    log.prepare(partial(_configure, verbose=verbose))


def _configure(*, verbose: bool) -> None:
    import structlog

    terminal = sys.stderr.isatty()
    renderer: Processor = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(default=str)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redacted,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if verbose else logging.WARNING),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=False,
    )


class _Stderr:
    """Writes to the stderr of the moment: the stream of the time of `configure` may be closed by now."""

    def msg(self, message: str) -> None:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg


def _redacted(logger: "WrappedLogger", method: str, event: "EventDict") -> "EventDict":
    del logger, method
    return {key: _clean(value) for key, value in event.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, bool | int | float | None):
        return value
    return redact(str(value), os.environ)
