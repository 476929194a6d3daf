"""What a run is weighed by, and what it may go on with from there."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import plan
from tierkeeper.mover.pacing import Weighed, kept_of, server
from tierkeeper.mover.request import Request
from tierkeeper.mover.source import Source
from tierkeeper.mover.weighing import weigh_all
from tierkeeper.mover.worker import Pace
from tierkeeper.tiers.tier import Tier

TABLE = TableName("public", "events")


@pytest.mark.parametrize(("wal_bytes", "kept"), [(10**9, True), (10**6, False)])
def test_pieces_are_kept_only_for_batches_that_they_are_fine_enough_for(
    pair: Any, selection: Any, wal_bytes: int, kept: bool
) -> None:
    """I9: a piece that was counted for whole batches may be more than one that the log has room for."""
    core = pair.tiers.core
    pair.core.execute("ANALYZE public.events")
    with closing(core.connect("mover")) as conn, closing(core.connect("budget")) as aside:
        now = replace(server(aside, Tier("core", core, 10**12)), max_wal_bytes=wal_bytes)
        weighed: Weighed = weigh_all(
            Source(core, conn, "core"),
            Request(TABLE, "core", "main"),
            Pace(50_000, 1.0),
            [selection()],
            conn=aside,
            looked_at=lambda: ((now, now), kept_of(aside, TABLE)),
            cuts=True,
        )
    assert weighed.rows == 1_000
    assert (weighed.pieces is not None) == kept
    assert (plan.piece_pages(weighed.batch_rows) == plan.piece_pages(50_000)) == kept
    assert sum(p.rows for p in weighed.pieces or ()) == (1_000 if kept else 0)
