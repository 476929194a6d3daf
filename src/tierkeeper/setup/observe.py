"""Looks at what a tier has, for `plan` to decide on. It changes nothing."""

from collections.abc import Collection, Sequence

from tierkeeper.kernel.tables import Followed, TableName
from tierkeeper.postgres import ddl, followed, shapes
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.ddl import SchemaObject
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load
from tierkeeper.setup.model import DestinationTable, ForeignKey, OwnSchema, SourceTable
from tierkeeper.tiers import identity

_SQL = load("tierkeeper.setup", "setup.sql")


def own_schema(conn: Connection) -> OwnSchema:
    """What `conn`'s database has of the schema `tierkeeper`."""
    roles = frozenset(identity.read(conn).roles)
    with catalog(conn) as cur:
        there = cur.execute(_SQL["own_schema"]).fetchone() == (True,)
        relations = frozenset(r[0] for r in cur.execute(_SQL["own_relations"]))
        functions = {r[0]: r[1] for r in cur.execute(_SQL["own_functions"])}
    return OwnSchema(there, relations, functions, roles)


def source_table(conn: Connection, name: TableName) -> SourceTable:
    """The table that rows come from. Raises UsageError as `shapes.read` does."""
    shape = shapes.read(conn, name, tier="core")
    with catalog(conn) as cur:
        values = {str(r[0]): str(r[1]) for r in cur.execute(_SQL["present_values"], {"table": shape.oid})}
    return SourceTable(shape, ddl.objects(conn, shape), foreign_keys(conn, name), values)


def called_now(conn: Connection, oid: int) -> TableName | None:
    """The name of the table with that object id; None where there is none."""
    with catalog(conn) as cur:
        row = cur.execute(_SQL["called_now"], {"table": oid}).fetchone()
    return TableName(*row) if row else None


def followed_table(conn: Connection, name: TableName) -> Followed | None:
    """What Core's table `name` looked like when the tier that `conn` leads to was last brought in step with it."""
    with catalog(conn) as cur:
        return followed.read(cur, [name]).get(name)


def destination_table(conn: Connection, name: TableName, needs: Sequence[SchemaObject] = (), *, tier: str) -> DestinationTable:
    """What there is of the table `name` and of its `needs`. Raises UsageError if it is there but can take no rows."""
    shape = None
    if shapes.exists(conn, name):
        shape = shapes.read(conn, name, tier=tier)
    params = {"schema": name.schema, "name": name.name}
    with catalog(conn) as cur:
        present = cur.execute(_SQL["present"], {"names": sorted({n.name for n in needs})}).fetchall()
        available = frozenset(r[0] for r in cur.execute(_SQL["available"]))
        leads = frozenset(r[0] for r in cur.execute(_SQL["index_leads"], params))
        parts = tuple(part.name for part in shapes.parts(cur, name))
        held = {"schemas": [p.schema for p in (name, *parts)], "names": [p.name for p in (name, *parts)]}
        guards = frozenset((TableName(s, t), trigger) for s, t, trigger in cur.execute(_SQL["guards"], held))
        own = {r[0] for r in cur.execute(_SQL["own_relations"])}
        in_flight = cur.execute(_SQL["in_flight"], params).fetchone() if "ledger" in own else (0,)
        size = cur.execute(_SQL["size"], {"table": shape.oid}).fetchone() if shape else (0,)
    return DestinationTable(
        shape=shape,
        present=frozenset((kind, schema, thing) for kind, schema, thing, *_ in present),
        labels={(schema, thing): tuple(labels) for kind, schema, thing, labels, _ in present if kind == "type"},
        checks={(schema, thing): dict(map(reversed, checks)) for kind, schema, thing, _, checks in present if kind == "type"},
        index_leads=leads,
        guards=guards,
        parts=parts,
        foreign_keys=frozenset(fk.name for fk in foreign_keys(conn, name)),
        meanings=ddl.meanings(conn, needs),
        available=available,
        size_bytes=size[0] if size else 0,
        in_flight=in_flight[0] if in_flight else 0,
        followed=followed_table(conn, name),
    )


def index_leads(conn: Connection, name: TableName) -> frozenset[str]:
    """The columns that a whole B-tree index of `name` begins with."""
    with catalog(conn) as cur:
        return frozenset(r[0] for r in cur.execute(_SQL["index_leads"], {"schema": name.schema, "name": name.name}))


def foreign_keys(conn: Connection, name: TableName, parents: Collection[TableName] | None = None) -> tuple[ForeignKey, ...]:
    """The foreign keys of `name`, those towards `parents` if given."""
    with catalog(conn) as cur:
        rows = cur.execute(_SQL["foreign_keys"], {"schema": name.schema, "name": name.name}).fetchall()
    found = (ForeignKey(n, TableName(s, t), tuple(columns), tuple(theirs), full) for n, s, t, columns, theirs, full in rows)
    return tuple(fk for fk in found if parents is None or fk.parent in parents)
