"""Looks at what a tier has, for `plan` to decide on. It changes nothing."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from tierkeeper.kernel.tables import Followed, TableName
from tierkeeper.postgres import ddl, followed, shapes
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.ddl import SchemaObject
from tierkeeper.postgres.keeping import asked_once, named, of_each
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load
from tierkeeper.setup.model import DestinationTable, ForeignKey, OwnSchema, SourceTable
from tierkeeper.tiers import identity

_SQL = load("tierkeeper.setup", "setup.sql")


@asked_once
def own_schema(conn: Connection) -> OwnSchema:
    """What `conn`'s database has of the schema `tierkeeper`."""
    roles = frozenset(identity.read(conn).roles)
    with catalog(conn) as cur:
        asked = ("own_schema", "own_relations", "own_functions")
        there, relations, functions = cur.all_of([(_SQL[one], None) for one in asked], last=True)
    is_there, may_create, database, may_stage, has_queue, queue = there[0]
    refuses_in = None if is_there or may_create else str(database)
    refuses_temp_in = None if may_stage else str(database)
    return OwnSchema(
        is_there, frozenset(r[0] for r in relations), dict(functions), roles, refuses_in, refuses_temp_in, has_queue, queue
    )


def source_table(conn: Connection, name: TableName) -> SourceTable:
    """The table that rows come from. Raises UsageError as `shapes.read` does."""
    shape = shapes.read(conn, name, tier="core")
    objects = shapes.read_with_objects(conn, name)[1]
    return SourceTable(shape, objects, foreign_keys(conn, name), dict(_present_values(conn, name) or ()))


def called_now(conn: Connection, oid: int) -> TableName | None:
    """The name of the table with that object id; None where there is none."""
    with catalog(conn) as cur:
        row = cur.last(_SQL["called_now"], {"table": oid}).fetchone()
    return TableName(*row) if row else None


@of_each
def followed_table(conn: Connection, names: Sequence[TableName]) -> Mapping[TableName, Followed]:
    """What Core's table looked like when the tier that `conn` leads to was last brought in step with it."""
    with catalog(conn) as cur:
        return followed.read(cur, names)


def destination_table(conn: Connection, name: TableName, needs: Sequence[SchemaObject] = (), *, tier: str) -> DestinationTable:
    """What there is of the table `name` and of its `needs`. Raises UsageError if it is there but can take no rows."""
    shape = shapes.read(conn, name, tier=tier) if _exists(conn, name) else None
    present = _present(conn, frozenset(n.name for n in needs if n.kind != "table"))
    with catalog(conn) as cur:
        parts = (name,) if shape and not shape.is_tree else tuple(part.name for part in shapes.parts(cur, name)) if shape else ()
    return DestinationTable(
        shape=shape,
        present=frozenset((kind, schema, thing) for kind, schema, thing, *_ in present),
        labels={(schema, thing): tuple(labels) for kind, schema, thing, labels, _ in present if kind == "type"},
        checks={(schema, thing): dict(map(reversed, checks)) for kind, schema, thing, _, checks in present if kind == "type"},
        index_leads=index_leads(conn, name),
        guards=frozenset((part, trigger) for part in {name, *parts} for trigger in guards(conn).get(part, ())),
        parts=parts,
        foreign_keys=frozenset(fk.name for fk in foreign_keys(conn, name)),
        meanings=ddl.meanings(conn, frozenset(TableName(n.schema, n.name) for n in needs if n.kind == "type")),
        available=_available(conn)[0],
        collations=_available(conn)[1],
        size_bytes=_size(conn, name) or 0,
        in_flight=_in_flight(conn, name) or 0,
        followed=followed_table(conn, name),
        owner=next(iter(_relations(conn, name) or ()), None),
    )


def index_leads(conn: Connection, name: TableName) -> frozenset[str]:
    """The columns that a whole B-tree index of `name` begins with."""
    return frozenset(_index_leads(conn, name) or ())


def foreign_keys(conn: Connection, name: TableName, parents: Collection[TableName] | None = None) -> tuple[ForeignKey, ...]:
    """The foreign keys of `name`, those towards `parents` if given."""
    found = (
        ForeignKey(n, TableName(s, t), tuple(columns), tuple(theirs), full)
        for n, s, t, columns, theirs, full in _foreign_keys(conn, name) or ()
    )
    return tuple(fk for fk in found if parents is None or fk.parent in parents)


def _by_table(rows: Iterable[Sequence[Any]]) -> dict[TableName, list[Any]]:
    """What rows that begin with a schema and a table have behind that: one value as it is, several as a tuple."""
    found: dict[TableName, list[Any]] = {}
    for schema, table, *rest in rows:
        found.setdefault(TableName(schema, table), []).append(rest[0] if len(rest) == 1 else tuple(rest))
    return found


def _asked(statement: str) -> Callable[[Connection, TableName], list[Any] | None]:
    """The question about a table that `statement` of setup.sql answers for several, by schema and name."""

    def ask(conn: Connection, names: Sequence[TableName]) -> dict[TableName, list[Any]]:
        with catalog(conn) as cur:
            return _by_table(cur.last(_SQL[statement], named(names)))

    return of_each(ask)


_foreign_keys = _asked("foreign_keys")
_index_leads = _asked("index_leads")
_present_values = _asked("present_values")
_sizes = _asked("size")
_relations = _asked("relations")


def _exists(conn: Connection, name: TableName) -> bool:
    return _relations(conn, name) is not None


def _size(conn: Connection, name: TableName) -> int:
    return sum(_sizes(conn, name) or ())


@of_each
def _in_flight(conn: Connection, names: Sequence[TableName]) -> dict[TableName, int]:
    if "ledger" not in own_schema(conn).relations:
        return {}
    with catalog(conn) as cur:
        return {table: batches[0] for table, batches in _by_table(cur.last(_SQL["in_flight"], named(names))).items()}


@asked_once
def _present(conn: Connection, names: frozenset[str]) -> list[tuple[Any, ...]]:
    with catalog(conn) as cur:
        return cur.last(_SQL["present"], {"names": sorted(names)}).fetchall() if names else []


@asked_once
def guards(conn: Connection) -> dict[TableName, list[str]]:
    """The triggers that hold for everybody, by their table."""
    with catalog(conn) as cur:
        return _by_table(cur.last(_SQL["guards"]))


@asked_once
def _available(conn: Connection) -> tuple[frozenset[str], frozenset[str]]:
    """The extensions that can be made there, and Postgres's own collations."""
    with catalog(conn) as cur:
        extensions, collations = cur.all_of([(_SQL["available"], None), (_SQL["collations"], None)], last=True)
    return frozenset(r[0] for r in extensions), frozenset(r[0] for r in collations)
