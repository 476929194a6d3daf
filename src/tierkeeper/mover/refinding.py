"""Takes a copy back whose rows are known by their writer no more: its table was written anew, or another has its name.

What the source has still, key for key and value for value, need not be here: I1 holds by the source's row, whoever put the other
one here. What differs was changed in the source since, or is another row: Core's counts, as with every key that is in two tiers.
"""

from contextlib import closing
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.ports import LedgerRow
from tierkeeper.mover import conflicts, model, references
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.model import Bound
from tierkeeper.mover.places import Going
from tierkeeper.mover.source import Source
from tierkeeper.postgres import shapes
from tierkeeper.postgres.copy import rows_in, rows_out
from tierkeeper.postgres.link import transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "refinding.sql")


@dataclass(frozen=True)
class _Found:
    """What the destination has of a batch: rows that are the source's, keys whose rows differ, rows that may be the batch's."""

    row: LedgerRow
    condition: str
    equal: int
    differing: list[Bound]
    others: int


def take_back_equal(source: Source, destination: PostgresDestination, batch_id: UUID) -> None:
    """Ledger copied -> undone, with all that are tied to the batch. The caller has won the marker.

    Keeps I1 and I4: only those rows go that the source has as well, equal in key and in every column. The source's are locked by
    nobody: whoever changes or deletes one after the look does it to the row itself. Keys whose rows differ become conflicts.
    Raises Failed, and changes nothing, where rows of the batch may be neither: the source has deleted them since, and
    here they cannot be told from others.
    """
    unsettled = destination.unsettled()
    bundle = next((one.batch.bundle for one in unsettled if one.batch.id == batch_id), None)
    tied = [r for r in unsettled if r.batch.id == batch_id or (bundle is not None and r.batch.bundle == bundle)]
    there = [r for r in tied if shapes.exists(destination.conn, r.batch.table)]
    if not tied:
        return
    tables = sql.SQL(", ").join(model.qualified(r.batch.table) for r in there)
    lock = [sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(tables)] if there else []
    with transaction(destination.conn, opening=lock) as cur:
        found = [_look(source, cur, row, destination.tier) for row in there]
        for one in found:
            _refuse_unaccounted(one, destination.tier)
        for one in found:
            _note(source, cur, one, destination.tier)
        _delete(cur, found, destination.tier)
        for row in tied:
            cur.execute(_SQL["undone"], {"batch": row.batch.id})
        reach(Point.UNDO_BEFORE_COMMIT)
    reach(Point.UNDONE)


def _look(source: Source, cur: Cursor, row: LedgerRow, tier: str) -> _Found:
    """Brings the source's rows of the batch's ages, and finds each beside the destination's of the same key."""
    batch, extent = row.batch, row.extent
    shape = shapes.read(source.conn, batch.table, tier=source.tier)
    near = model.near(batch.age, extent) if batch.age and extent is not None else sql.SQL("true")
    staged, found = (sql.Identifier("pg_temp", f"tierkeeper_{what}_{batch.id.hex}") for what in ("staged", "found"))
    columns, table = [c.name for c in shape.columns], model.qualified(batch.table)
    cur.execute(_SQL["staging"].format(staged=staged, columns=model.names(columns), table=table))
    out = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(model.names(columns), model.rows_of(shape), near)
    with transaction(source.conn, read_only=True) as here, closing(rows_out(here, out, binary=False)) as blocks:
        rows_in(cur, sql.SQL("COPY {} ({}) FROM STDIN").format(staged, model.names(columns)), blocks)
    mains = "t" if tier == "main" else "s"  # equal keys may be written otherwise, and conflicts are noted as Main writes them
    values = (sql.SQL("ROW({})::text").format(sql.SQL(", ").join(sql.Identifier(of, c) for c in columns)) for of in ("s", "t"))
    cur.execute(
        _SQL["found"].format(
            found=found,
            staged=staged,
            table=table,
            same=model.same_rows(shape),
            equal=sql.SQL(" = ").join(values),
            key=sql.SQL(", ").join(model.text_of(k, mains) for k in shape.key),
        )
    )
    equal, differing, others = cur.execute(_SQL["count"].format(found=found, table=table, near=near)).fetchone() or (0, [], 0)
    condition = _SQL["among"].format(found=found).as_string(cur.connection)
    return _Found(row, condition, int(equal), [tuple(map(str, key)) for key in differing or []], int(others))


def _refuse_unaccounted(found: _Found, tier: str) -> None:
    """Raises Failed where rows of the batch may be left that the source has deleted since."""
    rows, known = found.row.extent.rows if found.row.extent is not None else 0, found.equal + len(found.differing)
    missing = min(rows - known, found.others)
    if missing <= 0:
        return
    extent, batch = found.row.extent, found.row.batch
    ages = f", with ages from {extent.min_age} to {extent.max_age}" if extent is not None and extent.min_age is not None else ""
    settled = _SQL["settled"].format(batch=sql.Literal(str(batch.id)), rows=sql.Literal(known)).as_string(None)
    raise Failed(
        f"{batch.table} ({tier})",
        f"the table was written anew or replaced under a copy in flight, and {missing} of the {rows} rows of batch {batch.id} "
        f"can be told from others no more: {batch.source} has {known} of its keys, and deleted or moved the rest meanwhile",
        f"Delete in {tier} what {batch.source} has deleted ({found.others} rows there may be{ages}); then say that the rest is "
        f"all, there: {settled}; and run this again",
    )


def _note(source: Source, cur: Cursor, found: _Found, tier: str) -> None:
    """Notes keys whose rows differ, at Main, before the copy is settled: Core's row counts from then on."""
    if tier == "main":
        conflicts.note_in(cur, found.row.batch.table, found.differing)
    else:
        conflicts.note(source.conn, found.row.batch.table, found.differing)


def _delete(cur: Cursor, found: list[_Found], tier: str) -> None:
    """Children first, each in one statement, after it was proved that no other row refers to one that goes."""
    reference = references.reaching(cur, [Going(one.row.batch.table, one.condition) for one in found])
    if reference is not None:
        raise Failed(
            f"{reference.child} ({tier})",
            f"a row of it refers to one that is on its way there and has to be taken back ({reference})",
            "There: delete that row or change what it refers to, then run the same command again",
        )
    cur.execute("SET CONSTRAINTS ALL DEFERRED")
    cur.execute("SELECT set_config('tierkeeper.mover', 'on', true)")
    for one in reversed(found):
        cur.execute(_SQL["delete"].format(table=model.qualified(one.row.batch.table), condition=sql.SQL(one.condition)))
    cur.execute("SET CONSTRAINTS ALL IMMEDIATE")
