"""Values of many megabytes: the mover's memory is bounded by the largest row, as the system counts it."""

import subprocess
import sys

import pytest

from hop import Hop

MOVE = """
import sys
from pathlib import Path
from tierkeeper.cli import main
try:
    main(sys.argv[1:])
finally:
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
MB = 10**6


@pytest.mark.parametrize("size_mb", [60, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_the_movers_memory_is_bounded_by_the_largest_row(hop: Hop, size_mb: int) -> None:
    hop.core.execute("CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL, x bytea)")
    hop.core.execute("INSERT INTO t SELECT 1, '2024-01-01', decode(repeat('0123456789abcdef', %s), 'hex')", [size_mb * MB // 8])
    before = hop.core.execute("SELECT sha256(x) FROM t").fetchone()
    moved = subprocess.run(
        [sys.executable, "-c", MOVE, "move", "t", "--from", "core", "--to", "main", "--before", "2024-06-01"],
        env=hop.tiers.environment, cwd=hop.tiers.home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert moved.returncode == 0, moved.stderr
    assert hop.counts() == (0, 1)
    assert hop.main.execute("SELECT sha256(x) FROM t").fetchone() == before
    peak_bytes = 1024 * int(moved.stdout.split()[-1])
    assert size_mb * MB < peak_bytes < 200 * MB + 3 * size_mb * MB
