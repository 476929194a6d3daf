"""What runs by itself, as values. Pure: no clock, no driver, no library that works jobs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tierkeeper.kernel.limits import LEASE_SECONDS
from tierkeeper.kernel.ports import PART_VERSION
from tierkeeper.kernel.results import Result

if TYPE_CHECKING:
    from tierkeeper.compose import Keeper

WORK: Final = "work"
LATER: Final = "later"
PARTS: Final = f"parts {PART_VERSION}"
PART: Final = "part"


@dataclass(frozen=True)
class Job:
    """One job of the schedule, whose time the key `name` of `[schedule]` says.

    A job that `watches` runs in the process that has the lease, also while Main is away; all others are rows of the queue on
    Main, and any process of `run` and `worker` may work them. One that found something wrong is tried `again`. Of those with the
    same `lock` one runs at a time; none: no two of its own.
    """

    name: str
    run: "Callable[[Keeper], Result | None]"
    watches: bool = False
    again: bool = True
    lock: str | None = None


@dataclass(frozen=True)
class Timing:
    """How often, in seconds, a process does what the schedule does not say. Tests hurry it."""

    turn: float = 1  # between two looks at the schedule
    poll: float = 2  # between two looks at the queue: a pooler does not pass on what would wake us
    heartbeat: float = 10  # between two signs of life of a worker
    stalled: float = 40  # a worker without one for so long is taken for dead, and its jobs are run by another
    sweep: float = 10  # between two looks for the jobs of dead workers
    renew: float = 20  # of the lease, well within its time
    lease: float = LEASE_SECONDS  # for so long a leader that was heard of may live, where Main does not say so any more
    back_off: float = 1  # after the first failure to reach Main; it doubles up to
    back_off_most: float = 60
    again: float = 60  # after the first failure of a job; it doubles up to
    again_most: float = 3600


class Again(Exception):  # noqa: N818 - a word to the queue, not an error of anybody's
    """The job is to run again in `seconds`. It has told already why."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds:g} s")
        self.seconds = seconds


class GivenUp(Exception):  # noqa: N818 - as Again
    """The job failed, and its next time is the next of its schedule."""
