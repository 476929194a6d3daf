"""A segment written, stored, read back and compared, against the pipe that verifies nothing: pg_dump | zstd -3 | age."""

import json
import os
import shlex
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pyrage

from bench.common import Figures, Options, age_command, bench, connection, fill, in_turn, program, timed
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.ports import Batch
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.model import Selection
from tierkeeper.mover.recovery import settle
from tierkeeper.mover.source import Source
from tierkeeper.postgres import shapes

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
    with bench(options.postgres) as b:
        with connection(b.core) as core, connection(b.main) as main:
            fill(core, 1)
            fill(main, rows)
        config = b.configure()

        def ours() -> None:
            command = [sys.executable, "-m", "bench.archive_write", str(config), str(time.time())]
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


def write_once(config: Path, began: float) -> float:
    """Archives the table until its rows could be deleted, then takes it back. Returns the seconds from `began` till then."""
    keeper = open_keeper(load(config, os.environ, Path.cwd()))
    link = keeper.links["main"]
    with closing(link.connect("mover")) as conn, keeper.archive.destination() as destination:
        source = Source(link, conn, "main")
        shape = shapes.read(conn, TableName("public", "events"))
        selection = Selection(shape, "time_hour", datetime(2030, 1, 1, tzinfo=UTC))
        batch = Batch(uuid4(), "main", shape.name, "time_hour", selection.cutoff, selection.eligible(None).as_string(conn))
        source.open_marker_of([destination.open(batch)], "archive")
        with source.snapshot(batch, shape) as snapshot:
            destination.copy(batch, snapshot)
        seconds = time.time() - began
        settle(source, destination, batch.id)
    return seconds


if __name__ == "__main__":
    print(json.dumps({"seconds": write_once(Path(sys.argv[1]), float(sys.argv[2]))}))
