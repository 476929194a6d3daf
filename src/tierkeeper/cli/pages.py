"""The page of the tiers for a command: its libraries are an extra, which loads when the page begins and not before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.results import BoardResult

if TYPE_CHECKING:
    from tierkeeper.web.board import Place

DEFAULT_PORT: Final = 8900
_HIGHEST_PORT: Final = 65_535
_NEEDED: Final = ("fastapi", "uvicorn")


def require(place: str, extra: str) -> None:
    """Raises UsageError where the page's libraries are not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        cause = f"the page needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise UsageError(place, cause, f"Run: pip install 'tierkeeper[{extra}]'")


def on_this_machine(port: int | None) -> "Place":
    """Listens at `port` of loopback, else at DEFAULT_PORT, else at any that is free. Raises UsageError for one that is taken."""
    from tierkeeper.web import board

    if port is not None:
        if not 0 < port <= _HIGHEST_PORT:
            raise UsageError("--port", f"{port} is no port", f"Write a number from 1 to {_HIGHEST_PORT}")
        return board.bind(("127.0.0.1", port), "--port")
    try:
        return board.bind(("127.0.0.1", DEFAULT_PORT))
    except UsageError:
        return board.bind(("127.0.0.1", 0))


@contextmanager
def serving(place: "Place", look: Callable[[], BoardResult]) -> Iterator[str]:
    """Serves while the block runs; gives the address."""
    from tierkeeper.web import board

    with board.serving(place, look) as url:
        yield url
