"""What stands around a table at either end of a hop: what would keep, hide, replay or change its rows.

Looking is one statement; judging is pure. Everything that would lose or double a row is refused by name before anything is
changed (I1, I10); what merely runs along is a note of the plan.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.mover.request import Request
from tierkeeper.postgres import replication, shapes
from tierkeeper.postgres.keeping import named, of_each
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.replication import End, Replicating
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "fitness.sql")


@dataclass(frozen=True)
class Surroundings:
    """What one server has around a table, in the order of `facts` in fitness.sql; names are quoted as SQL writes them.

    `effect`: a foreign key that deletes or changes rows when one of these is deleted. `hidden_rows`: a policy of row level
    security applies to this role. `counted`: columns that a sequence fills. `replicating` is of the tables below it, too.
    """

    replica: bool
    may_leave: bool
    may_arrive: bool
    effect: str | None
    durable: bool
    hidden_rows: bool
    delete_rules: list[str]
    insert_rules: list[str]
    insert_triggers: list[str]
    delete_triggers: list[str]
    counted: list[str]
    replicating: tuple[Replicating, ...]


@of_each
def look(conn: Connection, tables: Sequence[TableName]) -> dict[TableName, Surroundings]:
    """What is around a table; None where there is no such table."""
    with transaction(conn, read_only=True) as cur:
        rows, around = cur.all_of([(_SQL["facts"], named(tables)), replication.query(tables)], last=True)
    replicating = replication.found(around)
    names = [TableName(schema, name) for schema, name, *_ in rows]
    return {n: Surroundings(*[*facts, replicating.get(n, ())]) for n, (_, _, *facts) in zip(names, rows, strict=True)}


def fault(
    seen: Surroundings, table: TableName, tier: str, *, arrives: bool, among: Collection[TableName] | None = None
) -> UsageError | None:
    """Why rows of `table` must not leave `tier` (`arrives`: come to it), the gravest first.

    `among`: the tables below it that have the rows, where not all do.
    """
    return next(_faults(seen, table, tier, arrives=arrives, among=among), None)


def _faults(
    seen: Surroundings, table: TableName, tier: str, *, arrives: bool, among: Collection[TableName] | None
) -> Iterator[UsageError]:
    place, end = f"{table} ({tier})", End(tier, seen.replicating)
    if not arrives and seen.replica:
        yield UsageError(f"tiers.{tier}", "this is a replica, which takes no writes", "Give the address of its primary")
    if not arrives and not seen.may_leave:
        remedy = f"There: GRANT SELECT, DELETE ON {table}, or connect as its owner"
        yield UsageError(place, "the role may not read and delete its rows", remedy)
    if seen.hidden_rows:
        remedy = "Connect as a role with BYPASSRLS, or as its owner where it is not FORCE ROW LEVEL SECURITY"
        yield UsageError(place, "row level security hides rows of it from this role", remedy)
    if arrives:
        yield from replication.writers(end)
    if seen.delete_rules:
        cause = f"the rule {seen.delete_rules[0]} on DELETE stands between the mover and its rows"
        yield UsageError(place, cause, f"There: DROP RULE {seen.delete_rules[0]} ON {table}; a trigger can do the same work")
    yield from replication.stuck(end, among)
    if arrives and not seen.durable:
        yield UsageError(place, "the table is unlogged: a crash empties it", f"There: ALTER TABLE {table} SET LOGGED")
    if arrives and not seen.may_arrive:
        remedy = (
            f"Connect as its owner, or have its owner's role granted to this one; no privilege on {table} allows our triggers"
        )
        yield UsageError(place, "the role may not read, write and delete its rows", remedy)
    if arrives and seen.effect is not None and tier != "core":  # there rows go up with all that hangs on them, or not at all
        cause = f"the foreign key {seen.effect} deletes or changes rows there when a copy is taken back"
        yield UsageError(place, cause, "Drop it there, or make it one with ON DELETE NO ACTION")


def refuse_loop(leaves: Surroundings | None, left: Tier, arrives: Surroundings | None, reached: Tier) -> None:
    """Raises UsageError where what is done at the tier that is `reached` may come back to the one that is `left` (I1)."""
    if leaves and arrives:
        unfit = replication.loop(End(left, leaves.replicating), End(reached, arrives.replicating))
        if unfit:
            raise unfit


def around(source: Connection, destination: Connection | None, request: Request, table: TableName) -> list[str]:
    """What else happens to `table` at either end of the hop; the archive has no such end."""
    shape = shapes.read(source, table, tier=request.source)
    notes = delete_notes(shape, shapes.publications_and_slots(source, table))
    leaves = look(source, table)
    notes += departure_notes(leaves, request.source) if leaves else []
    arrives = look(destination, table) if destination is not None else None
    if arrives and request.upward and destination is not None:
        notes += strict_notes(shape, shapes.read(destination, table, tier=request.destination))
    return notes + (arrival_notes(arrives, request.destination) if arrives else [])


def strict_notes(leaves: TableShape, arrives: TableShape) -> list[str]:
    """Columns that want a value in Core, and may lack it at Main."""
    wanted = {c.name for c in arrives.columns if c.not_null}
    lacking = [c.name for c in leaves.columns if c.name in wanted and not c.not_null]
    return [f"column {c} is NOT NULL in core: a row of main that lacks it stops the move" for c in lacking]


def arrival_notes(seen: Surroundings, tier: str) -> list[str]:
    """What happens at `tier` besides, when rows arrive there."""
    notes = [f"trigger {t} at {tier} fires on each row that arrives; one that it changes or drops stops the move"
             for t in seen.insert_triggers]  # fmt: skip
    notes += [f"trigger {t} at {tier} fires when a copy is taken back" for t in seen.delete_triggers]
    notes += [f"rule {r} at {tier} does not see rows that arrive" for r in seen.insert_rules]
    if tier != "core":  # where the sequence is at home
        notes += [f"the sequence of column {c} at {tier} may hand out values that history has" for c in seen.counted]
    return notes


def departure_notes(seen: Surroundings, tier: str) -> list[str]:
    """What happens at `tier` besides, when rows leave it."""
    return replication.writer_notes(End(tier, seen.replicating))


def delete_notes(shape: TableShape, listeners: tuple[str, ...]) -> list[str]:
    """Who else sees the rows being deleted where they leave."""
    return [*(f"{t} fires on each row that is deleted" for t in shape.delete_triggers), *listeners]
