"""The one family of errors a user sees: where, why, and what to do about it.

Drivers' errors are translated into these at the edge (`postgres`, `objectstore`, `crypto`); nothing here knows a driver.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line (design section 2)."""

    DONE = 0
    FAILED = 1  # failed, or found wrong
    USAGE = 2  # usage or configuration; nothing was changed
    NOT_NOW = 75  # a tier is away, locked, or the run was asked to stop: try again


class TierkeeperError(Exception):
    """An error with its place, cause and remedy. It never carries a secret.

    Raises nothing itself. `place` names the key, table, tier or file; `remedy` is an instruction.
    """

    exit_code = Exit.FAILED

    def __init__(self, place: str, cause: str, remedy: str) -> None:
        super().__init__(f"{place}: {cause}. {remedy}")
        self.place = place
        self.cause = cause
        self.remedy = remedy


class UsageError(TierkeeperError):
    """Bad input: an argument, a configuration value, a table that cannot be moved. Nothing was changed."""

    exit_code = Exit.USAGE


class NotNow(TierkeeperError):  # noqa: N818 - it reads as what it says: not a fault, a time
    """A tier is away, a lock is held, the run was told to stop: the same command may work later."""

    exit_code = Exit.NOT_NOW


class Busy(NotNow):
    """Another run of ours is at it, perhaps on another machine: what it does shows in the sizes when it is through."""


class InFlight(NotNow):
    """Copies that are in flight, or not forgotten yet, keep a table from being altered; settling them makes room."""


class PassedOver(NotNow):
    """A part of another process's move that is nobody's any more, or none that this process can read: no fault of anything."""


class Failed(TierkeeperError):  # noqa: N818 - as NotNow
    """The work failed or found something wrong."""


class Fenced(TierkeeperError):  # noqa: N818 - as NotNow
    """Another mover or a recovery won the batch: this one must not go on with it."""

    exit_code = Exit.NOT_NOW


class Faults(TierkeeperError):  # noqa: N818 - as NotNow
    """Several errors found in one look; the exit code is the gravest of theirs (usage, then failed, then not now)."""

    def __init__(self, errors: Sequence[TierkeeperError]) -> None:
        first = errors[0]
        super().__init__(first.place, first.cause, first.remedy)
        self.errors = tuple(errors)
        codes = {e.exit_code for e in errors}
        self.exit_code = next(c for c in (Exit.USAGE, Exit.FAILED, Exit.NOT_NOW) if c in codes)

    def __str__(self) -> str:
        """All of them, each in a line of its own."""
        return "\n".join(str(error) for error in self.errors)


def each(errors: Iterable[TierkeeperError]) -> list[TierkeeperError]:
    """`errors` with those that were found together one by one, each once."""
    found = [one for error in errors for one in (error.errors if isinstance(error, Faults) else (error,))]
    return list({(e.place, e.cause): e for e in found}.values())
