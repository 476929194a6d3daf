"""Commands in processes of their own, and the most memory that each ever had, as the system counts it."""

import subprocess
import sys

from support import Tiers

_PROGRAM = """
import sys
from pathlib import Path
from tierkeeper.cli import main
try:
    main(sys.argv[1:])
finally:
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def peak_bytes(tiers: Tiers, *arguments: str) -> int:
    """Runs `tierkeeper ARGUMENTS`, which must succeed, to its end; returns its peak of memory."""
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        env=tiers.environment, cwd=tiers.home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return 1024 * int(ended.stdout.split()[-1])
