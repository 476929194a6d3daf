"""A segment written, stored, read back and compared, against the pipe that verifies nothing: pg_dump | zstd -3 | age."""

import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from bench.common import Figures, bench, connection, fill, in_turn, program, timed
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.ports import Batch
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.model import Selection
from tierkeeper.mover.recovery import settle
from tierkeeper.mover.source import Source
from tierkeeper.postgres import shapes

_ROOT = Path(__file__).parents[1]


def run(rows: int, runs: int) -> Figures:
    """Rows per second until the copy is proven; the delete that follows is the move's and is measured there."""
    figures = Figures("archive-write", "rows/s", "pg_dump | zstd -3 | age, unverified")
    dump, zstd, age, keygen = program("pg_dump"), program("zstd"), program("age"), program("age-keygen")
    with bench() as b:
        with connection(b.core) as core, connection(b.main) as main:
            fill(core, 1)
            fill(main, rows)
        config = b.configure()
        made = subprocess.run([keygen, "-o", str(b.folder / "age.key")], capture_output=True, text=True, check=True)
        recipient = made.stderr.split()[-1]

        def ours() -> None:
            ran = timed([sys.executable, "-m", "bench.archive_write", str(config)], {**b.environment, "PYTHONPATH": str(_ROOT)})
            figures.ours_runs.append(rows / json.loads(ran.output)["seconds"])
            figures.peaks_mb.append(ran.peak_mb)

        def peer() -> None:
            out = shlex.quote(str(b.folder / "dump.age"))
            parts = " | ".join(
                [
                    f"{shlex.quote(dump)} -t public.events {shlex.quote(b.main.url())}",
                    f"{shlex.quote(zstd)} -3 -q",
                    f"{shlex.quote(age)} -r {recipient} -o {out}",
                ]
            )
            ran = timed(["/bin/bash", "-c", f"set -eo pipefail; {parts}; sync {out}; rm {out}"], b.environment)
            figures.peer_runs.append(rows / ran.seconds)

        in_turn(runs, ours, peer)
    return figures


def write_once(config: Path) -> float:
    """Archives the whole table until its rows could be deleted, then takes it back. Returns the seconds of the first part."""
    keeper = open_keeper(load(config, os.environ, Path.cwd()))
    link = keeper.links["main"]
    with closing(link.connect("mover")) as conn, keeper.archive.destination() as destination:
        source = Source(link, conn, "main")
        shape = shapes.read(conn, TableName("public", "events"))
        selection = Selection(shape, "at", datetime(2030, 1, 1, tzinfo=UTC))
        began = time.monotonic()
        batch = Batch(uuid4(), "main", shape.name, "at", selection.cutoff, selection.eligible(None).as_string(conn))
        source.open_marker(destination.open(batch), "archive")
        with source.snapshot(batch, shape) as snapshot:
            destination.copy(batch, snapshot)
        seconds = time.monotonic() - began
        settle(source, destination, batch.id)
    return seconds


if __name__ == "__main__":
    print(json.dumps({"seconds": write_once(Path(sys.argv[1]))}))
