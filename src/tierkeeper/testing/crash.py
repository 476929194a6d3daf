"""Runs the command line and kills it with SIGKILL when it reaches a named point.

    python -m tierkeeper.testing.crash POINT[:NTH] ARGUMENT...

NTH counts arrivals at the point, from 1. Exits as the command does if it never gets there.
"""

import os
import signal
import sys
from itertools import count

from tierkeeper.kernel import faults
from tierkeeper.kernel.faults import Point


def kill_at(point: Point, nth: int = 1) -> None:
    """From now on, the `nth` arrival at `point` ends this process as a power cut would."""
    arrivals = count(1)

    def hook(reached: Point) -> None:
        if reached is point and next(arrivals) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    faults.arm(hook)


if __name__ == "__main__":
    name, _, number = sys.argv[1].partition(":")
    kill_at(Point(name), int(number or 1))
    from tierkeeper.cli import main

    sys.argv = ["tierkeeper", *sys.argv[2:]]
    sys.exit(main())
