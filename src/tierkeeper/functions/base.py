"""What the four classes share: the configuration, the keeper, and a report whose end is an exit code."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tierkeeper.functions import parameters
from tierkeeper.functions.limit import Bounds
from tierkeeper.kernel.errors import Exit, TierkeeperError

if TYPE_CHECKING:
    from tierkeeper.compose import Keeper
    from tierkeeper.config import Settings
    from tierkeeper.kernel.results import Result


def environment() -> Mapping[str, str]:
    """The variables that a function goes by: its own, and below them its secrets where it runs at AWS. Raises TierkeeperError."""
    return parameters.environment()


class Function:
    """Base of the four functions. Constructing one does no I/O; each method reads the configuration anew."""

    def __init__(self, config: Path | str | None = None, *, bounds: Bounds | None = None) -> None:
        """`config` names the TOML; else TIERKEEPER_CONFIG, else ./tierkeeper.toml, else the environment alone.

        `bounds`: the time that an invocation has.
        """
        self._config = Path(config) if config is not None else None
        self._bounds = bounds or Bounds()

    def _settings(self) -> "Settings":
        from tierkeeper.config import load

        return load(self._config, environment(), Path.cwd())

    def _keeper(self) -> "Keeper":
        settings = self._settings()
        from tierkeeper import compose

        return compose.open_keeper(settings, environment=environment(), **self._bounds.for_keeper)


def report(work: "Callable[[], Result]") -> None:
    """Prints what `work` finds, or its error, for a person. Raises SystemExit with the exit code unless that is 0."""
    from tierkeeper.cli import output
    from tierkeeper.kernel.results.meaning import exit_code

    try:
        result = work()
    except TierkeeperError as error:
        output.show_error(error, as_json=False, debug=False)
        raise SystemExit(error.exit_code) from None
    output.show(result, as_json=False)
    code = exit_code(result)
    if code is not Exit.DONE:
        raise SystemExit(code)
