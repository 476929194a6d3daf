"""Settles what an interrupted run left, also beside a mover that is only paused.

I5: after it, the tiers are as if the interrupted batch had been moved whole or never begun. An outcome that is not known is
settled by a conflicting write to the marker and a read in a new statement, never by a look alone.
"""

from collections.abc import Collection, Iterable
from contextlib import closing
from uuid import UUID

from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.ports import Destination, LedgerRow
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.lost import lost
from tierkeeper.mover.plan import Verdict, verdict
from tierkeeper.mover.refinding import take_back_equal
from tierkeeper.mover.source import Markers, Source
from tierkeeper.mover.undoing import Untold
from tierkeeper.postgres.link import Link, translated
from tierkeeper.tiers import memory


def refuse_restored(source: Source, destination: Destination) -> Markers:
    """Raises Failed where the source remembers moves of which the destination's ledger knows nothing.

    Then the destination was put back from an older backup, and the rows that it lost lie nowhere else online. Returns what the
    source remembers.
    """
    markers = source.markers(destination.tier)
    for batch_id, state in markers.settled.items():
        if state == "moved" and destination.knows(batch_id) in (None, "open", "undone"):
            raise memory.restored(source.tier, destination.tier, batch_id)
    return markers


def refuse_put_back(source: Source, archive: Link) -> None:
    """Raises Failed where Main, the source, or the archive is older than what the other remembers of it."""
    with translated("tiers.archive"), closing(archive.connect("mover")) as catalog:
        memory.refuse_put_back(source.conn, catalog)


def refuse_stranger(source: Source, destination: Destination, tables: Iterable[TableName], now: UUID | None) -> None:
    """Raises Failed where rows of one of `tables` came to the destination from another database than the source, which is `now`.

    What they left in flight is settled before, by the markers that the source may have after all.
    """
    known = {table: one for table in tables if (one := destination.origin(table)) is not None}
    for stranger in memory.strangers(source.tier, now, known, known).values():
        raise stranger


def settle(source: Source, destination: Destination, batch_id: UUID) -> Verdict:
    """Ends a batch, with all that are tied to it, one way or the other, whoever began it. Safe to call again.

    I1: a copy is taken back on the source's word alone. Raises Failed where it has none for one: the copy may be the only one.
    """
    marker = source.abort(batch_id)
    reach(Point.UNDO_ABORTED)
    if marker is None:
        if destination.withdraw(batch_id):
            return Verdict.WITHDRAW
        marker = source.abort(batch_id)  # a mover that was only paused may have come by
    if marker is None:
        ledger = destination.knows(batch_id)
        if verdict(ledger or "undone", marker) is not Verdict.LOST:
            return Verdict.FINISH if ledger in ("done", "forgotten") else Verdict.UNDO  # somebody else has settled it
        if not destination.source_keeps(batch_id):
            raise lost(source, destination, batch_id)
    if verdict("open", marker) is Verdict.FINISH:
        destination.finish(batch_id)
        return Verdict.FINISH
    try:
        destination.undo(batch_id)
    except Untold:
        if source.tier == "archive" or not isinstance(destination, PostgresDestination):
            raise
        take_back_equal(source, destination, batch_id)
    return Verdict.UNDO


def recover(source: Source, destination: Destination, table: TableName, markers: Markers) -> tuple[int, list[list[LedgerRow]]]:
    """Settles `table`'s unsettled batches, each with all that are tied to it; `markers` as they were when the run began.

    Returns how many, and those copies that are proven and only await their delete, a bundle's together.
    """
    bundles: dict[UUID, list[LedgerRow]] = {}
    for row in destination.unsettled(table):
        bundles.setdefault(row.batch.bundle or row.batch.id, []).append(row)
    resumed, settled = [], 0
    for bundle in bundles.values():
        # The rows of a bundle change their state in one transaction, and its markers too: the first speaks for all.
        if verdict(bundle[0].state, source.marker(bundle[0].batch.id)) is Verdict.RESUME:
            resumed.append(bundle)
        else:
            settle(source, destination, bundle[0].batch.id)
            settled += len(bundle)
    known = {row.batch.id for bundle in resumed for row in bundle}
    for batch_id in markers.open.get(table, []):
        # A mover that was paused between its ledger row and its marker, and undone meanwhile, opens a marker that leads nowhere.
        if batch_id not in known and destination.knows(batch_id) == "undone":
            source.abort(batch_id)
    return settled, resumed


def clear(source: Source, destination: Destination, longest_reader_seconds: float, remembered: Markers | None = None) -> None:
    """Forgets at the destination what no reader can mistake any more; then, a longest reader later, drops its marker.

    `remembered`: what the source did a moment ago. What has been settled since is left to the next time.
    """
    markers = (remembered or source.markers(destination.tier)).settled
    source.drop_markers(destination.forget(longest_reader_seconds, list(markers)), destination.tier)


def arrivals_rest(
    source: Source,
    destination: Destination,
    tables: Iterable[TableName],
    longest_reader_seconds: float,
    arriving: Collection[TableName],
) -> str | None:
    """Why rows of `tables` may not leave `destination` yet, for those that come to it from `source`; None if they may.

    `arriving`: the tables there in which rows were on their way a moment ago, or had lately come. What an interrupted run in that
    direction left is settled first: nobody may ask for it again, and rows that wait for it would rest for ever. The caller holds
    the lease of both directions.
    """
    if refuse_restored(source, destination).settled:
        clear(source, destination, longest_reader_seconds)
    unrested = [table for table in tables if table in arriving and destination.rests(table, longest_reader_seconds) is not None]
    for table in unrested:
        for row in destination.unsettled(table):
            settle(source, destination, row.batch.id)
    return lately_come(destination, unrested, longest_reader_seconds, arriving)


def lately_come(
    destination: Destination, tables: Iterable[TableName], longest_reader_seconds: float, arriving: Collection[TableName]
) -> str | None:
    """Why rows of `tables` must rest at `destination`, whatever way they came; None if they need not."""
    reasons = (destination.rests(table, longest_reader_seconds) for table in tables if table in arriving)
    return next((why for why in reasons if why is not None), None)
