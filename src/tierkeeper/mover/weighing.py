"""Weighs a move before its first write: how many rows there are, what they cost each tier, and how many of them fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from tierkeeper.kernel.limits import BATCH_ROWS_MIN
from tierkeeper.mover import budget, width
from tierkeeper.mover.budget import Cost
from tierkeeper.mover.model import Selection
from tierkeeper.mover.pacing import LookedAt, Weighed, kept_of, table
from tierkeeper.mover.request import Request
from tierkeeper.mover.source import Source
from tierkeeper.mover.worker import Pace
from tierkeeper.postgres.link import Connection


def weigh_all(
    source: Source,
    request: Request,
    pace: Pace,
    selections: Sequence[Selection],
    *,
    conn: Connection,
    looked_at: Callable[[], LookedAt],
) -> Weighed:
    """What `request` would move of the first of `selections`, with rows of the others along; where it says so, as much as fits.

    `conn` looks at the source while `source` is asked for its rows. Raises UsageError for a row that is too wide to travel.
    """
    selection = selections[0]
    for one in selections:
        parts, as_text = source.holdings.parts(one), request.destination == "archive"
        width.refuse(source.conn, source.tier, one, parts, as_text=as_text)
    counted = source.holdings.count(selection)
    rows = counted if request.limit is None else min(counted, request.limit)
    size, in_flight, along = pace.batch_rows, pace.in_flight, selections[1:]
    put = partial(weigh, looked_at(), conn, selection, batch_rows=size, in_flight=in_flight, along=along)
    weighed = put(rows)
    fits = weighed.fitting_rows
    if request.as_room_allows and BATCH_ROWS_MIN <= fits < rows:
        return replace(put(fits), limit=fits)
    return replace(weighed, limit=request.limit)


def weigh(
    looked_at: LookedAt,
    conn: Connection,
    selection: Selection,
    rows: int,
    *,
    batch_rows: int,
    in_flight: int,
    along: Sequence[Selection] = (),
) -> Weighed:
    """Weighs moving `rows` of `selection` from the first of the servers, where `conn` leads, to the second (none: the archive).

    Of each table that goes `along` as large a part is taken to move as of its own. On the way to the archive each batch is
    sorted whole. Changes nothing.
    """
    servers, kept = looked_at
    table_ = table(conn, selection, rows, kept, sampled=rows > 0)
    others = [table(conn, s, 0, kept_of(conn, s.shape.name), sampled=True) for s in along]
    further = [(other, int(other.rows * table_.share(rows))) for other in others]

    def costs(size: int) -> tuple[Cost, ...]:
        batches = -(-rows // size)
        leaving = budget.delete_cost(table_, servers[0], rows, batches=batches, sorted_rows=size if len(servers) == 1 else 0)
        leaving = sum((budget.delete_cost(t, servers[0], n, batches=batches) for t, n in further), leaving)
        own = (budget.copy_cost(table_, there, rows, batches=batches) for there in servers[1:])
        more = ([budget.copy_cost(t, there, n, batches=batches) for t, n in further] for there in servers[1:])
        return leaving, *(sum(costs, cost) for cost, costs in zip(own, more, strict=True))

    size = budget.batch_rows(batch_rows, rows, list(zip(servers, costs(batch_rows), strict=True)), in_flight=in_flight)
    along_bytes = int(sum(t.row_bytes * n for t, n in further))
    return Weighed(rows, size, table_, servers, costs(size), along_bytes=along_bytes)
