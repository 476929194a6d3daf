"""Weighs a move before its first write: how many rows there are, what they cost each tier, and how many of them fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from tierkeeper.kernel.limits import BATCH_ROWS_MIN
from tierkeeper.mover import budget, plan, width
from tierkeeper.mover.budget import Cost, Server
from tierkeeper.mover.model import Selection
from tierkeeper.mover.pacing import Kept, LookedAt, Sizes, Weighed, kept_of, sample, table
from tierkeeper.mover.request import Request
from tierkeeper.mover.source import Source
from tierkeeper.mover.worker import Pace
from tierkeeper.postgres.keeping import beside
from tierkeeper.postgres.link import Connection


def weigh_all(
    source: Source,
    request: Request,
    pace: Pace,
    selections: Sequence[Selection],
    *,
    conn: Connection,
    looked_at: Callable[[], LookedAt],
    cuts: bool,
) -> Weighed:
    """What `request` would move of the first of `selections`, with rows of the others along; where it says so, as much as fits.

    `conn` looks at the source while `source` is asked for its rows. A run that `cuts` batches in a moment gets the pieces that
    they are made of along with the count: they are the same look. Raises UsageError for a row that is too wide to travel.
    """
    selection, holdings = selections[0], source.holdings
    with beside(lambda: _stored(conn, looked_at(), selections)) as stored:
        for one in selections:
            parts, as_text = holdings.parts(one), request.destination == "archive"
            width.refuse(source.conn, source.tier, one, parts, holdings.toasted, as_text=as_text)
        whole = cuts and request.limit is None and request.destination != "archive"
        pieces = holdings.pieces(selection, plan.piece_pages(pace.batch_rows), []) if whole else None
        counted = holdings.count(selection) if pieces is None else sum(p.rows for p in pieces)
        put = partial(weigh, looked_at()[0], stored(), selections, batch_rows=pace.batch_rows, in_flight=pace.in_flight)
    rows = counted if request.limit is None else min(counted, request.limit)
    weighed = put(rows)
    fits = weighed.fitting_rows
    if request.as_room_allows and BATCH_ROWS_MIN <= fits < rows:
        return replace(put(fits), limit=fits)
    fine = plan.piece_pages(weighed.batch_rows) == plan.piece_pages(pace.batch_rows)  # else a piece may be more than a batch
    return replace(weighed, limit=request.limit, pieces=pieces if fine else None)


Stored = tuple[Kept | None, Sizes]
"""What a server keeps for a table, and what some of its rows take."""


def _stored(conn: Connection, looked_at: LookedAt, selections: Sequence[Selection]) -> list[Stored]:
    """Of each selection's table; `conn` leads to the server of them all."""
    keeps = [looked_at[1], *(kept_of(conn, s.shape.name) for s in selections[1:])]
    return [(kept, sample(conn, s, kept)) for s, kept in zip(selections, keeps, strict=True)]


def weigh(
    servers: Sequence[Server],
    stored: Sequence[Stored],
    selections: Sequence[Selection],
    rows: int,
    *,
    batch_rows: int,
    in_flight: int,
) -> Weighed:
    """Weighs moving `rows` of the first of `selections` from the first of the servers to the second (none: the archive).

    Of each table that goes along as large a part is taken to move as of its own. On the way to the archive each batch is
    sorted whole. Pure.
    """
    table_, *others = (table(s, rows if s is selections[0] else 0, *one) for s, one in zip(selections, stored, strict=True))
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
    return Weighed(rows, size, table_, tuple(servers), costs(size), along_bytes=along_bytes)
