"""The only place that wires objects together: from settings to a keeper. It decides nothing and opens nothing by itself.

Importing it loads none of the capabilities: the keeper does, once there is one, and what only balances needs no mover.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tierkeeper.kernel.limits import BATCH_ROWS, SEGMENT_ROWS

if TYPE_CHECKING:
    from tierkeeper.compose.keeper import Keeper
    from tierkeeper.config import Settings
    from tierkeeper.kernel.clock import Clock
    from tierkeeper.kernel.ports import Progress, Sharing, Stop

__all__ = ["Keeper", "open_keeper"]


def open_keeper(
    settings: "Settings",
    *,
    clock: "Clock | None" = None,
    progress: "Progress | None" = None,
    stop: "Stop | None" = None,
    environment: Mapping[str, str] | None = None,
    batch_rows: int = BATCH_ROWS,
    segment_rows: int = SEGMENT_ROWS,
    sharing: "Sharing | None" = None,
) -> "Keeper":
    """A keeper of the configured tiers. No connection is made before it is asked for something.

    `sharing`: other processes that take parts of its large moves.
    """
    from tierkeeper.compose.keeper import Keeper, never, silent
    from tierkeeper.kernel.clock import SystemClock
    from tierkeeper.mover.request import Bounds

    return Keeper(
        settings,
        clock=clock or SystemClock(),
        progress=progress or silent,
        stop=stop or never,
        environment=settings.environment(os.environ if environment is None else environment),
        bounds=Bounds(settings.query.timeout.seconds, batch_rows, segment_rows),
        sharing=sharing,
    )


def __getattr__(name: str) -> object:
    if name == "Keeper":
        from tierkeeper.compose.keeper import Keeper

        return Keeper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
