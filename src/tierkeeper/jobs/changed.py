"""Says that the configuration is no longer what a process of `run` or `worker` began with. It goes on as it began."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tierkeeper.config import Settings
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.results import RunEvent

_CHANGED: Final = "the configuration has changed, and this process goes on with what it began with: start it again"
_BROKEN: Final = (
    "the configuration has faults by now ({}), and this process goes on with what it began with: see `tierkeeper check`"
)
_SHOWN: Final = 300  # characters of the faults


@dataclass
class Changed:
    """Whoever changes a quota and reads it in `status` would think that the schedule keeps to it. Told once for each change."""

    begun: Settings
    read: Callable[[], Settings]
    tell: Callable[[RunEvent], None]
    clock: Clock
    _said: str | None = None

    def look(self) -> None:
        """It takes a hundredth of a second, and is asked before each job."""
        try:
            words = None if self.read() == self.begun else _CHANGED
        except TierkeeperError as error:
            words = _BROKEN.format(" ".join(str(error).split())[:_SHOWN])
        if words is not None and words != self._said:
            self.tell(RunEvent(at=self.clock.now(), event="changed", told=words))
        self._said = words
