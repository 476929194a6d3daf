"""A segment written, stored, read back and compared, against the pipe that verifies nothing: pg_dump | zstd -3 | age."""

import json
import shlex
import sys
import time
from pathlib import Path

import pyrage

from bench.common import Figures, Options, age_command, bench, connection, in_turn, program, timed

_ROOT = Path(__file__).parents[1]


def run(options: Options) -> Figures:
    """Rows per second until the copy is proven, each side from the start of its process.

    The delete that follows is the move's and is measured there.
    """
    rows = options.rows
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    age, age_name = age_command(recipient)
    figures = Figures("archive-write", "rows/s", f"pg_dump | zstd -3 | {age_name}, unverified")
    dump, zstd = shlex.quote(program("pg_dump")), shlex.quote(program("zstd"))
    with bench(options.postgres, options.table) as b:
        with connection(b.core) as core, connection(b.main) as main:
            b.table.fill(core, 1)
            b.table.fill(main, rows)
        config = b.configure()

        def ours() -> None:
            command = [sys.executable, "-m", "bench.archive_once", str(config), b.table.age, str(time.time())]
            ran = timed(command, {**b.environment, "PYTHONPATH": str(_ROOT)})
            figures.ours_runs.append(rows / json.loads(ran.output)["seconds"])
            figures.peaks_mb.append(ran.peak_mb)

        def peer() -> None:
            out = shlex.quote(str(b.folder / "dump.age"))
            pipe = f"{dump} -t public.events {shlex.quote(b.main.url())} | {zstd} -3 -q | {age} > {out}"
            ran = timed(["/bin/bash", "-c", f"set -eo pipefail; {pipe}; sync {out}; rm {out}"], b.environment)
            figures.peer_runs.append(rows / ran.seconds)

        in_turn(options.runs, ours, peer)
    return figures
