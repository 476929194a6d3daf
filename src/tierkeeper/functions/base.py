"""What the four classes share: the configuration, the keeper, and a report whose end is an exit code."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tierkeeper.cli import output
from tierkeeper.config import Settings, load
from tierkeeper.kernel.errors import Exit, TierkeeperError
from tierkeeper.kernel.results import Result

if TYPE_CHECKING:
    from tierkeeper.compose import Keeper


class Function:
    """Base of the four functions. Constructing one does no I/O; each method reads the configuration anew."""

    def __init__(self, config: Path | str | None = None) -> None:
        """`config` names the TOML; else TIERKEEPER_CONFIG, else ./tierkeeper.toml, else the environment alone."""
        self._config = Path(config) if config is not None else None

    def _settings(self) -> Settings:
        return load(self._config, os.environ, Path.cwd())

    def _keeper(self) -> "Keeper":
        settings = self._settings()
        from tierkeeper import compose

        return compose.open_keeper(settings)


def report(work: Callable[[], Result]) -> None:
    """Prints what `work` finds, or its error, for a person. Raises SystemExit with the exit code unless that is 0."""
    try:
        result = work()
    except TierkeeperError as error:
        output.show_error(error, as_json=False, debug=False)
        raise SystemExit(error.exit_code) from None
    output.show(result, as_json=False)
    code = output.exit_code(result)
    if code is not Exit.DONE:
        raise SystemExit(code)
