"""Takes copies back where a move ends without them: exactly the rows that a batch wrote, and with a bundle's all of its rows."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from psycopg import errors, sql

from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Extent
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import model, references
from tierkeeper.mover.places import Going
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.references import Reference
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "destination.sql")
_TRIES: Final = 3  # whoever was in the way has ended when the server says so: a paused mover that woke, a row that came to refer
_OVERTAKEN = (errors.SerializationFailure, errors.DeadlockDetected)
_REFERRED = (errors.ForeignKeyViolation, errors.RestrictViolation)


class Untold(Failed):
    """The rows that a batch wrote are known by their writer no more; nothing was changed."""


def take_back(conn: Connection, tier: Tier, batch_id: UUID) -> bool:
    """Ledger open|copied -> undone, with all that are tied to the batch, and their rows away. False: it was settled before.

    Keeps I1: a foreign key at `tier` may delete or change whatever refers to a row that goes. So all rows go in one statement,
    after it was proved in its snapshot, under locks that keep new foreign keys out, that no other row refers to one of them;
    what comes later makes Postgres's own check fail. Raises NotNow, naming the foreign key, where a row does: the copy stays
    in flight, which counts for no reader, until that row is gone.
    """
    for _ in range(_TRIES - 1):
        with suppress(*_OVERTAKEN):
            return _take_back(conn, tier, batch_id)
    return _take_back(conn, tier, batch_id)


def withdraw(conn: Connection, batch_id: UUID) -> bool:
    """Ledger open -> undone, with all that are tied to the batch. I1: nothing was copied yet, so that no row can go by it.

    False where it is not `open`, and nothing was changed: those of a bundle change their state together.
    """
    with transaction(conn) as cur:
        tied = [r[0] for r in cur.execute(_SQL["ledger_family"], {"batch": batch_id}).fetchall()]
        withdrawn = cur.execute(_SQL["ledger_withdraw"], {"batches": tied}).rowcount
        reach(Point.UNDO_BEFORE_COMMIT)
    if withdrawn:
        reach(Point.UNDONE)
    return withdrawn > 0


def _take_back(conn: Connection, tier: Tier, batch_id: UUID) -> bool:
    with transaction(conn, read_only=True) as cur:
        tied = cur.last(_SQL["ledger_tied"], {"batch": batch_id}).fetchall()
    if not tied:
        return False
    tables = [sql.Identifier(schema, table) for _, schema, table, is_there in tied if is_there]
    lock = [sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(sql.SQL(", ").join(tables))] if tables else []
    try:
        with transaction(conn, isolation="repeatable read", opening=lock, own_path=True) as cur:
            undone = [cur.execute(_SQL["ledger_undo"], {"batch": batch}).fetchone() for batch, *_ in tied]
            if not any(undone):
                return False
            there = {(schema, table) for _, schema, table, is_there in tied if is_there}  # else its rows went with it
            _delete(cur, tier, [row for row in undone if row is not None and row[2] is not None and row[-2:] in there])
            reach(Point.UNDO_BEFORE_COMMIT)
    except _REFERRED as error:
        raise _referred(str(error.diag.constraint_name), f"{error.diag.schema_name}.{error.diag.table_name}", tier) from error
    return True


def _delete(cur: Cursor, tier: Tier, copied: Sequence[tuple[Any, ...]]) -> None:
    """Raises Untold unless every row of each batch can still be told, and is gone then."""
    if not copied:
        return
    going = [Going(TableName(row[-2], row[-1]), _own(row).as_string(cur.connection)) for row in copied]
    found: Reference | None = references.reaching(cur, going)
    if found is not None:
        raise _referred(str(found), str(found.child_at), tier)
    cur.execute("SELECT set_config('tierkeeper.mover', 'on', true)")
    names = [sql.Identifier(f"gone{i}") for i in range(len(going))]
    deletes = (
        _SQL["undo_rows"].format(name=name, table=model.qualified(one.table), own=sql.SQL(one.condition))
        for name, one in zip(names, going, strict=True)
    )
    counts = (sql.SQL("(SELECT count(*) FROM {})").format(name) for name in names)
    query = sql.SQL("WITH {} SELECT {}").format(sql.SQL(", ").join(deletes), sql.SQL(", ").join(counts))
    gone = cur.execute(query).fetchone() or ()
    for (batch, rows, *_), one, count in zip(copied, going, gone, strict=True):
        if count != rows:
            raise Untold(
                f"{one.table} ({tier})",
                f"batch {batch} left {rows} rows here, {count} of them can still be told apart",
                "Stop moving and compare the tiers: this table was rewritten or put back from a backup",
            )
    cur.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a deferred check that fails must fail here


def _own(row: Sequence[Any]) -> sql.Composed:
    """What holds for the rows that the batch wrote, and for no others."""
    _, rows, xid, min_age, max_age, age, *_ = row
    near = model.near(age, Extent(rows, "", min_age, max_age))
    return sql.SQL("xmin = {}::xid AND {}").format(sql.Literal(str(xid)), near)


def _referred(by: str, child: str, tier: Tier) -> NotNow:
    return NotNow(
        f"{child} ({tier})",
        f"a row of it refers to one that is on its way here and has to be taken back ({by})",
        "There: delete that row or change what it refers to, then run the same command again",
    )
