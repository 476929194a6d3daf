"""One archiving of the bench's table, in a process of its own that loads no more than it needs."""

import json
import os
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from tierkeeper.cli import lean


def write_once(config: Path, age: str, began: float) -> float:
    """Archives the table until its rows could be deleted, then takes it back. Returns the seconds from `began` till then."""
    lean()  # as the command begins
    from tierkeeper.compose import open_keeper
    from tierkeeper.config import load
    from tierkeeper.kernel.ports import Batch
    from tierkeeper.kernel.tables import TableName
    from tierkeeper.mover.model import Selection
    from tierkeeper.mover.recovery import settle
    from tierkeeper.mover.source import Source
    from tierkeeper.postgres import shapes

    keeper = open_keeper(load(config, os.environ, Path.cwd()))
    link = keeper.links["main"]
    with closing(link.connect("mover")) as conn, keeper.archive.destination() as destination:
        source = Source(link, conn, "main")
        shape = shapes.read(conn, TableName("public", "events"))
        selection = Selection(shape, age, datetime(2030, 1, 1, tzinfo=UTC))
        batch = Batch(uuid4(), "main", shape.name, age, selection.cutoff, selection.eligible(None).as_string(conn))
        source.open_marker_of([destination.open(batch)], "archive")
        with source.snapshot(batch, shape) as snapshot:
            destination.copy(batch, snapshot)
        seconds = time.time() - began
        settle(source, destination, batch.id)
    return seconds


if __name__ == "__main__":
    print(json.dumps({"seconds": write_once(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))}))
