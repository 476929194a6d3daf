"""Where this user's configuration lies beside tierkeeper.toml: the archive's key, and the authorities that were confirmed."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tierkeeper.kernel.host import home
from tierkeeper.postgres.link import Link
from tierkeeper.postgres.pins import applied


def of_user(environment: Mapping[str, str]) -> Path:
    """The user's configuration folder (XDG); nothing is made."""
    given = environment.get("XDG_CONFIG_HOME")
    return (Path(given) if given else home(environment) / ".config") / "tierkeeper"


def pins(environment: Mapping[str, str]) -> Callable[[Link], Link]:
    """Gives a tier's link the authority that this user has confirmed for it. Raises UsageError where that cannot be told."""
    return partial(applied, folder=of_user(environment))
