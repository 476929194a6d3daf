"""Why rows stay where they are. Reads only."""

from collections.abc import Sequence

from psycopg import sql

from tierkeeper.kernel.results import Stays
from tierkeeper.mover import model
from tierkeeper.mover.model import Bound, Selection
from tierkeeper.mover.source import Source
from tierkeeper.postgres.link import transaction
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "source.sql")


def stays(source: Source, selection: Selection, conflicts: Sequence[Bound], longest_reader_seconds: float) -> list[Stays]:
    """The rows of the table that a move of `selection` would leave, by reason; those of two reasons count for the first.

    `conflicts` are keys that are in both tiers. Resting rows are among those that fit, and keep all of them from moving.
    """
    name, cutoff = selection.shape.name, selection.cutoff.isoformat()
    query = _SQL["stays"].format(
        age=sql.Identifier(selection.age),
        old=selection.old,
        condition=selection.condition,
        table=model.qualified(name),
    )
    with transaction(source.conn, isolation="repeatable read", read_only=True) as cur:
        counted = cur.execute(query).fetchone() or (0, 0, 0, 0)
        asked = {"schema": name.schema, "table": name.name, "seconds": longest_reader_seconds}
        resting = cur.execute(_SQL["resting_rows"], asked).fetchone() or (0,)
    found = [
        Stays(reason=f"{selection.age} is NULL: nothing says how old the row is", rows=counted[0]),
        Stays(reason=f"{selection.age} is infinite", rows=counted[1]),
        Stays(reason=f"not older than {cutoff}", rows=counted[2]),
        Stays(reason="the condition of --where does not hold", rows=counted[3]),
        Stays(reason="its key is in both tiers", rows=len(conflicts), keys=[", ".join(k) for k in conflicts]),
        Stays(
            reason=f"resting: came to {source.tier} within the longest reader's time ({longest_reader_seconds:g} s, query.timeout)",
            rows=resting[0],
        ),
    ]
    return [s for s in found if s.rows]
