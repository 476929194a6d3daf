"""Why rows stay where they are. Reads only."""

from psycopg import sql

from tierkeeper.kernel.results import Stays
from tierkeeper.mover import conflicts, model
from tierkeeper.mover.model import Selection
from tierkeeper.mover.source import Source
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "source.sql")


def stays(source: Source, main: Connection, selection: Selection, longest_reader_seconds: float) -> list[Stays]:
    """The rows of the table that a move of `selection` would leave, by reason; those of two reasons count for the first.

    Resting rows are among those that fit, and keep all of them from moving.
    """
    name, cutoff = selection.shape.name, selection.cutoff.isoformat()
    query = _SQL["stays"].format(
        age=sql.Identifier(selection.age),
        old=selection.old,
        held=selection.stays,
        condition=selection.condition,
        table=model.rows_of(selection.shape),
    )
    asked = {"schema": name.schema, "table": name.name, "seconds": longest_reader_seconds}
    with transaction(source.conn, isolation="repeatable read", read_only=True, own_path=selection.where is not None) as cur:
        counted = cur.execute(query).fetchone() or (0, 0, 0, 0, 0)
        resting = cur.execute(_SQL["resting_rows"], asked).fetchone() if _set_up(source.conn) else None
    both = conflicts.noted(main, name) if _set_up(main) else []
    found = [
        Stays(reason=f"{selection.age} is NULL: nothing says how old the row is", rows=counted[0]),
        Stays(reason=f"{selection.age} is infinite", rows=counted[1]),
        Stays(reason=f"not older than {cutoff}", rows=counted[2]),
        Stays(reason="thawed: came back from the archive for a while", rows=counted[3]),
        Stays(reason="the condition of --where does not hold", rows=counted[4]),
        Stays(reason="its key is in core and in main", rows=len(both), keys=[", ".join(k) for k in both]),
        Stays(
            reason=f"resting: came to {source.tier} less than {longest_reader_seconds:g} s ago (query.timeout)",
            rows=resting[0] if resting else 0,
        ),
    ]
    return [s for s in found if s.rows]


def _set_up(conn: Connection) -> bool:
    """Whether the tier has been set up: nothing can have come to one that has not."""
    return conn.execute("SELECT to_regclass('tierkeeper.ledger') IS NOT NULL").fetchone() == (True,)
