"""Takes a copy back whose rows are known by their writer no more: its table was written anew, or another has its name.

What the source has still, key for key and value for value, need not be here: I1 holds by the source's row, whoever put the other
one here. What differs was changed in the source since, or is another row: Core's counts, as with every key that is in two tiers.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.limits import REFOUND_BYTES
from tierkeeper.kernel.ports import Block, LedgerRow
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import conflicts, model, references
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.ledger import ledger_row
from tierkeeper.mover.model import Bound
from tierkeeper.mover.places import Going
from tierkeeper.mover.source import Source
from tierkeeper.postgres import shapes
from tierkeeper.postgres.copy import rows_in, rows_out
from tierkeeper.postgres.link import take_own_path, transaction
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load
from tierkeeper.tiers import standing

_SQL = load("tierkeeper.mover", "refinding.sql")
_LEDGER = load("tierkeeper.mover", "destination.sql")
_KEYS_TOLD = 5


@dataclass(frozen=True)
class _Found:
    """What the destination has of a table's `copies`: rows that are the source's, keys whose rows differ, how many of these may
    be copies by their age, and how many further rows may be.
    """

    copies: Sequence[LedgerRow]
    condition: str
    equal: int
    differing: list[Bound]
    of_age: int
    others: int

    @property
    def table(self) -> TableName:
        return self.copies[0].batch.table


def take_back_equal(source: Source, destination: PostgresDestination, batch_id: UUID) -> None:
    """Ledger copied -> undone, with all that nobody can tell from the batch. The caller has won its marker.

    Keeps I1 and I4: only those rows go that the source has as well, equal in key and in every column, and that no copy which
    stands has written. The source's are locked by nobody: whoever changes or deletes one after the look does it to the row
    itself; by a move none can go, for each batch that may have it has lost its marker. Here nobody can write, or come to refer to
    a row, from before the look until the end. I9: beside the copy lie `REFOUND_BYTES` of the source's rows at once.

    Keys whose rows differ become conflicts. Raises Failed, and changes nothing, where a row may be the batch's and is not the
    source's: the source has deleted it since, or, on the way up, has changed it.
    """
    with transaction(destination.conn) as cur:
        copies = _astray(source, cur, destination.tier, batch_id)
        cur.execute(_SQL["undone"], {"batches": [row.batch.id for row in copies]})
        found = [_look(source, cur, rows, destination.tier) for rows in _by_table(cur, copies)]
        for one in found:
            _refuse_unaccounted(one, source.tier, destination.tier)
            _settle_differing(cur, one, source.tier, destination.tier)
        _delete(cur, found, destination.tier)
        reach(Point.UNDO_BEFORE_COMMIT)
    reach(Point.UNDONE)


def _astray(source: Source, cur: Cursor, tier: str, batch_id: UUID) -> list[LedgerRow]:
    """The batch, and each other whose rows lie in the same tables and are known by their writer as little, with all that are tied
    to them. Their markers are won; those that had ended before are left out. Their tables are locked from here on.
    """
    taken, passed, locked = list[LedgerRow](), set[UUID](), set[TableName]()
    bundles = _bundles(source, cur)
    wanted = [key for key, rows in bundles.items() if any(row.batch.id == batch_id for row in rows)]
    while wanted:
        tables = {row.batch.table for key in wanted for row in bundles[key]} - locked
        _lock(cur, tables)
        locked |= tables
        passed.update(wanted)
        bundles = _bundles(source, cur)  # while their tables were not locked, others may have settled them
        for key in wanted:
            if key in bundles and source.abort(bundles[key][0].batch.id) == "aborted":
                taken += bundles[key]
        wanted = [
            key
            for key, rows in bundles.items()
            if key not in passed and any(row.batch.table in locked for row in rows) and not _stands(cur, rows, tier)
        ]
    return sorted(taken, key=lambda row: row.seq)


def _by_table(cur: Cursor, copies: Sequence[LedgerRow]) -> list[list[LedgerRow]]:
    """Parents first, as they were opened; those of a table that is gone went with it."""
    tables: dict[TableName, list[LedgerRow]] = {}
    for row in copies:
        tables.setdefault(row.batch.table, []).append(row)
    there = set(_there(cur, tables))
    return [rows for table, rows in tables.items() if table in there]


def _bundles(source: Source, cur: Cursor) -> dict[UUID, list[LedgerRow]]:
    """The copies in flight that came from `source`, those together that are tied."""
    bundles: dict[UUID, list[LedgerRow]] = {}
    rows = cur.execute(_LEDGER["ledger_unsettled"], {"source": source.tier, "schema": None, "table": None}).fetchall()
    for row in map(ledger_row, rows):
        if row.state == "copied":
            bundles.setdefault(row.batch.bundle or row.batch.id, []).append(row)
    return bundles


def _there(cur: Cursor, tables: Collection[TableName]) -> list[TableName]:
    asked = {"schemas": [t.schema for t in tables], "names": [t.name for t in tables]}
    return [TableName(*name) for name in cur.execute(_SQL["there"], asked).fetchall()]


def _lock(cur: Cursor, tables: Collection[TableName]) -> None:
    """Keeps out who would write, and the checks of foreign keys: a row that came to refer to one that goes might go with it."""
    there = [model.qualified(table) for table in _there(cur, tables)]
    if there:
        cur.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(sql.SQL(", ").join(there)))


def _stands(cur: Cursor, rows: Sequence[LedgerRow], tier: str) -> bool:
    return standing.told(cur.execute(*standing.question([row.batch.id for row in rows])).fetchall(), tier) is None


def _look(source: Source, cur: Cursor, copies: Sequence[LedgerRow], tier: str) -> _Found:
    """Finds the source's rows of the copies' ages, all of one table, beside the destination's of the same key."""
    batch = copies[0].batch
    name, asked = {"schema": batch.table.schema, "table": batch.table.name}, {"batches": [row.batch.id for row in copies]}
    shape = shapes.read(source.conn, batch.table, tier=source.tier)
    staged, found = (sql.Identifier("pg_temp", f"tierkeeper_{what}_{batch.id.hex}") for what in ("staged", "found"))
    columns = [c.name for c in shape.columns]
    in_flight = [xid for (xid,) in cur.execute(_SQL["in_flight"], {**name, **asked}).fetchall()]
    mains = "t" if tier == "main" else "s"  # equal keys may be written otherwise, and conflicts are noted as Main writes them
    values = (sql.SQL("ROW({})::text").format(sql.SQL(", ").join(sql.Identifier(of, c) for c in columns)) for of in ("s", "t"))
    parts = {
        "staged": staged, "found": found, "columns": model.names(columns), "table": model.qualified(batch.table),
        "near": sql.SQL("({})").format(sql.SQL(" OR ").join(map(_near, copies))),
        "own": sql.SQL("t.xmin <> ALL ({}::xid[])").format(sql.Literal(in_flight)),
        "same": model.same_rows(shape), "equal": sql.SQL(" = ").join(values),
        "key": sql.SQL(", ").join(model.text_of(k, mains) for k in shape.key),
    }  # fmt: skip
    cur.execute(_SQL["staging"].format(**parts))
    cur.execute(_SQL["finding"].format(**parts))
    into = sql.SQL("COPY {staged} ({columns}) FROM STDIN").format(**parts)
    out = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(parts["columns"], model.rows_of(shape), parts["near"])
    with transaction(source.conn, isolation="repeatable read", read_only=True) as here:
        if here.execute(_SQL["arriving"], name).fetchone() == (True,):
            raise NotNow(
                f"{batch.table} ({source.tier})",
                f"rows are on their way into it, and what {tier} has of them may be all that there is",
                "Finish that move or run it again, then run this again",
            )
        with closing(rows_out(here, out, binary=False)) as blocks:
            for first in blocks:
                rows_in(cur, into, _piece(first, blocks))
                cur.execute(_SQL["find"].format(**parts))
                reach(Point.REFOUND)
                cur.execute(_SQL["emptied"].format(**parts))
    equal, differing, others = cur.execute(_SQL["count"].format(**parts)).fetchone() or (0, [], 0)
    known = set(conflicts.noted_in(cur, batch.table) if tier == "main" else conflicts.noted(source.conn, batch.table))
    fresh = [(key, near) for texts, near in differing or [] if (key := tuple(map(str, texts))) not in known]
    condition = _SQL["among"].format(found=found).as_string(cur.connection)
    return _Found(copies, condition, int(equal), [k for k, _ in fresh], sum(near for _, near in fresh), int(others))


def _near(row: LedgerRow) -> sql.Composable:
    age, extent = row.batch.age, row.extent
    return model.near(age, extent) if age and extent is not None else sql.SQL("true")


def _piece(first: Block, more: Iterator[Block]) -> Iterator[Block]:
    """`first` and further blocks, which are of whole rows, up to a piece."""
    size_bytes = len(first)
    yield first
    while size_bytes < REFOUND_BYTES and (block := next(more, None)) is not None:
        size_bytes += len(block)
        yield block


def _refuse_unaccounted(found: _Found, source: str, tier: str) -> None:
    """Raises Failed where rows of the copies may be left that the source has deleted since."""
    extents = [row.extent for row in found.copies if row.extent is not None]
    rows, known = sum(e.rows for e in extents), found.equal + found.of_age
    missing = min(rows - known, found.others)
    if missing <= 0:
        return
    ids = [sql.Literal(str(row.batch.id)) for row in found.copies]
    bounds = [(e.min_age, e.max_age) for e in extents if e.min_age is not None and e.max_age is not None]
    ages = f", with ages from {min(b[0] for b in bounds)} to {max(b[1] for b in bounds)}" if len(bounds) == len(extents) else ""
    # Of several copies it is the sum that counts, and none of them may have no rows: its table would not be looked at.
    settled = _SQL["settled"].format(first=ids[0], rows=sql.Literal(known + len(ids) - 1), batches=sql.SQL(", ").join(ids))
    raise Failed(
        f"{found.table} ({tier})",
        f"the table was written anew or replaced under a copy in flight, and {missing} of the {rows} rows of batch "
        f"{', '.join(str(row.batch.id) for row in found.copies)} can be told from others no more: {source} has {known} of its "
        "keys, and deleted or moved the rest meanwhile",
        f"Delete in {tier} what {source} has deleted ({found.others} rows there may be{ages}); then say that the rest is "
        f"all, there: {settled.as_string(None)}; and run this again",
    )


def _settle_differing(cur: Cursor, found: _Found, source: str, tier: str) -> None:
    """On the way to Main they are noted before the copy is settled: Core's row counts from then on.

    I4: on the way up Core's may be an old copy of a row that was changed at Main since, or a row of the application's. Raises
    Failed: only a person knows.
    """
    if tier == "main":
        conflicts.note_in(cur, found.table, found.differing)
    elif found.differing:
        keys = [", ".join(key) for key in found.differing]
        told = "; ".join(keys[:_KEYS_TOLD]) + (f" and {len(keys) - _KEYS_TOLD} more" if len(keys) > _KEYS_TOLD else "")
        raise Failed(
            f"{found.table} ({tier})",
            "the table was written anew or replaced under a copy in flight, and rows there differ from those of the same key in "
            f"{source} ({told}): an old copy of what was changed in {source} cannot be told from a row of {tier}'s own",
            f"Make them the same in both, or delete in {tier} what is out of date; then run this again",
        )


def _delete(cur: Cursor, found: Sequence[_Found], tier: str) -> None:
    """Children first, each in one statement, after it was proved that no other row refers to one that goes."""
    reference = references.reaching(cur, [Going(one.table, one.condition) for one in found])
    if reference is not None:
        raise Failed(
            f"{reference.child} ({tier})",
            f"a row of it refers to one that is on its way there and has to be taken back ({reference})",
            "There: delete that row or change what it refers to, then run the same command again",
        )
    cur.execute("SET CONSTRAINTS ALL DEFERRED")
    cur.execute("SELECT set_config('tierkeeper.mover', 'on', true)")
    take_own_path(cur)  # triggers are the user's
    for one in reversed(found):
        cur.execute(_SQL["delete"].format(table=model.qualified(one.table), condition=sql.SQL(one.condition)))
    cur.execute("SET CONSTRAINTS ALL IMMEDIATE")
