"""Runs a handler on this machine for `serverless invoke local`: its answer has stdout alone, its fault goes to stderr.

`invoke.py MODULE HANDLER`, with {"event", "context"} on stdin. Exits as the module does that is run as a program.
"""

import ctypes
import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tierkeeper.functions import as_script

_PR_SET_PDEATHSIG = 1


def main(module: str, name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is at work yet that would have to be ended well
    if sys.platform == "linux":  # whoever would say how it ended is gone: nothing new is begun
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    given = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a handler that asks is answered as at AWS: by nobody
    sys.path.insert(0, str(Path.cwd()))
    handler = getattr(import_module(module), name)
    as_script(handler, given["event"], _context(**given["context"]))


def _context(name: str, timeout: float, **other: Any) -> SimpleNamespace:
    """What Lambda gives a handler beside the event."""
    ends = time.monotonic() + timeout
    return SimpleNamespace(
        **{"function_version": "$LATEST", "aws_request_id": "local", **other},
        function_name=name,
        get_remaining_time_in_millis=lambda: max(0, int((ends - time.monotonic()) * 1000)),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
