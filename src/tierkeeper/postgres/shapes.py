"""Reads what the mover must know of a table from Postgres's catalog, by exact name; it refuses what cannot be moved.

It decides nothing about tiers. Types come out qualified, because it reads under the search path of `link.transaction`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import Column, Part, TableName, TableShape, UsedCollation, UsedType
from tierkeeper.postgres import ddl
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.ddl import PgType, SchemaObject
from tierkeeper.postgres.keeping import asked_once, named, of_each
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

if TYPE_CHECKING:
    from psycopg.abc import Params, Query

AGE_TYPES: Final = frozenset({"date", "timestamp", "timestamptz"})

_SQL = load("tierkeeper.postgres", "shapes.sql")
ACTIONS: Final[Mapping[str, str]] = {
    "a": "NO ACTION",
    "r": "RESTRICT",
    "c": "CASCADE",
    "n": "SET NULL",
    "d": "SET DEFAULT",
}
_OURS_OR_POSTGRES: Final = ("tierkeeper", "information_schema")
_NEVER_READ: Final = frozenset(
    {"pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary"}
    | {"gtsvector", "pg_ddl_command"}
)
_KINDS: Final[Mapping[str, str]] = {
    "v": "a view",
    "m": "a materialised view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "c": "a composite type",
}


def read(conn: Connection, name: TableName, *, tier: str | None = None) -> TableShape:
    """The shape of the table `name`, which may have partitions or children, with its key and the DDL that recreates it.

    Reads in the transaction that `conn` is in, else in one of its own. Raises UsageError, naming the table (and `tier`), if it
    is missing, is no table, has a foreign one below it, or has neither a primary key nor a unique index over NOT NULL columns.
    """
    try:
        return read_with_objects(conn, name)[0]
    except UsageError as error:
        place = error.place if tier is None else f"tiers.{tier}, {error.place}"
        raise UsageError(place, error.cause, error.remedy) from None


def read_with_objects(conn: Connection, name: TableName) -> tuple[TableShape, tuple[SchemaObject, ...]]:
    """The shape of `name`, and what must be there before a table of that shape can be made elsewhere. Raises as `read` does."""
    found = _read(conn, name)
    if isinstance(found, UsageError):
        raise found
    assert found is not None  # noqa: S101 - a table that is missing is told, too
    return found


@of_each
def _read(
    conn: Connection, names: Sequence[TableName]
) -> dict[TableName, tuple[TableShape, tuple[SchemaObject, ...]] | UsageError]:
    made: dict[TableName, tuple[TableShape, tuple[SchemaObject, ...]] | UsageError] = {}
    with catalog(conn) as cur:
        found = _Found.read(cur, names)
        for name in names:
            try:
                made[name] = _assembled(cur, name, found)
            except UsageError as error:
                made[name] = error
    return made


@dataclass
class _Found:
    """Rows of the catalog about several tables: by name what they are, by their oid what they have."""

    relations: dict[TableName, tuple[int, str, list[int]]]
    columns: dict[int, list[tuple[Any, ...]]]
    types: dict[int, PgType]
    keys: dict[int, tuple[Any, ...]]
    foreign: dict[int, TableName]
    triggers: list[tuple[Any, ...]]

    @classmethod
    def read(cls, cur: Cursor, names: Sequence[TableName]) -> "_Found":
        roots = _SQL["named"].format(**{part: sql.Literal(of) for part, of in named(names).items()})
        trees = _SQL["with_parts"].format(tables=roots)
        version = cur.connection.info.server_version
        knows_types = ddl.knows_types(version)
        rows, described, keys, foreign, triggers, *more = cur.all_of(
            [
                (_SQL["relation"], named(names)),
                *((_SQL[asked].format(tables=roots), None) for asked in ("columns", "key")),
                *((_SQL[asked].format(tables=trees), None) for asked in ("foreign_parts", "delete_triggers")),
                *([] if knows_types else [(ddl.types_query(_SQL["types_of"].format(tables=roots), version), None)]),
            ]
        )
        types = ddl.read_types(cur, {row[2] for row in described}) if knows_types else ddl.types_of(more[0], version)
        relations = {TableName(schema, name): (int(oid), str(kind), tree) for schema, name, oid, kind, tree in rows}
        columns: dict[int, list[tuple[Any, ...]]] = {}
        for *column, oid in described:
            columns.setdefault(oid, []).append(tuple(column))
        return cls(
            relations,
            columns,
            types,
            {oid: tuple(key) for oid, *key in keys},
            {oid: TableName(schema, name) for oid, schema, name in foreign},
            triggers,
        )


def _assembled(cur: Cursor, name: TableName, found: _Found) -> tuple[TableShape, tuple[SchemaObject, ...]]:
    """The shape of one of the tables. Raises UsageError where it cannot be moved."""
    oid, tree, is_partitioned = _table(cur, name, found)
    rows, types = found.columns.get(oid, []), found.types
    _refuse_values_that_cannot_be_read_back(name, rows, types)
    key, operators = _key(name, found.keys.get(oid))
    triggers = {str(trigger): None for of, trigger in found.triggers if of in tree}
    shape = TableShape(
        name=name,
        columns=tuple(_column(r, types) for r in rows),
        key=key,
        key_operators=operators,
        as_text=frozenset(r[0] for r in rows if _binary_is_local(r[2], types)),
        delete_triggers=tuple(triggers),
        oid=oid,
        is_tree=len(tree) > 1 or is_partitioned,
        intervals=frozenset(r[0] for r in rows if any(t.shown == "interval" for t in ddl.within(r[2], types))),
        server_version=cur.connection.info.server_version,
        is_partitioned=is_partitioned,
    )
    used = {r[0]: {r[5] or 0}.union(*(t.collations for t in ddl.within(r[2], types))) for r in rows}
    collations = ddl.read_collations(cur, set[int]().union(*used.values()))
    made = [c.made for c in collations.values() if c.made is not None]
    objects = ddl.assemble(shape, types, made, columns={r[0]: r[2] for r in rows})
    named = (
        UsedCollation(column, c.name, c.is_icu, c.made is not None)
        for column, oids in used.items() for oid, c in collations.items() if oid in oids
    )  # fmt: skip
    own = (UsedType(o.column or "", TableName(o.schema, o.name), o.meaning) for o in objects if o.kind == "type")
    return replace(shape, ddl=tuple(o.sql for o in objects), collations=tuple(named), types=tuple(own)), objects


def keys_asked(tables: Mapping[TableName, int]) -> "list[tuple[Query, Params | None]]":
    """What `with_keys` is made of, as two queries; `tables` are object ids by name."""
    asked = sql.Literal(list(tables.values()))
    return [(_SQL[query].format(tables=asked), None) for query in ("key", "columns")]


def with_keys(
    cur: Cursor, tables: Mapping[TableName, int], keys: Sequence[tuple[Any, ...]], columns: Sequence[tuple[Any, ...]]
) -> dict[TableName, TableShape]:
    """Shapes with columns and key alone, from what `keys_asked` gave: a reader needs no more, and asks often."""
    types = ddl.read_types(cur, {row[2] for row in columns})
    found = {oid: tuple(key) for oid, *key in keys}
    made = {}
    for name, oid in tables.items():
        key, operators = _key(name, found.get(oid))
        own = tuple(_column(tuple(row), types) for *row, of in columns if of == oid)
        made[name] = TableShape(name, own, key, key_operators=operators, oid=oid)
    return made


def exists(conn: Connection, name: TableName) -> bool:
    """Whether a relation of exactly that name is there, of whatever kind."""
    with catalog(conn) as cur:
        return cur.last(_SQL["relation"], named([name])).fetchone() is not None


def parts(cur: psycopg.Cursor[Any], name: TableName, apart: Collection[TableName] = ()) -> list[Part]:
    """The tables that hold rows of `name`, itself included, without those of `apart` and what is below them."""
    asked = {"schema": name.schema, "name": name.name}
    left_out = {"apart_schemas": [a.schema for a in apart], "apart_names": [a.name for a in apart]}
    rows = cur.execute(_SQL["parts"], {**asked, **left_out})
    return [Part(TableName(schema, table), tuple(more)) for schema, table, more in rows]


def partition_among(conn: Connection, name: TableName, tables: Sequence[TableName]) -> TableName | None:
    """That of `tables` which is a partition of `name`, on whatever level; None where there is none."""
    with catalog(conn) as cur:
        row = cur.last(_SQL["partition_among"], {"schema": name.schema, "name": name.name, **named(tables)}).fetchone()
    return TableName(*row) if row else None


@dataclass(frozen=True)
class Columns:
    """A table's columns: their names, and a text that differs once what a row's values are could have changed without a row."""

    names: frozenset[str]
    versions: str


def columns_now(cur: psycopg.Cursor[Any], name: TableName) -> Columns:
    """The table's columns as `cur`'s transaction sees them."""
    return columns_of(cur.execute(columns_query(name)))


def columns_query(name: TableName) -> sql.Composed:
    """What `columns_of` takes the columns from; nobody alters them while `cur`'s transaction holds a lock on the table."""
    return _SQL["columns_now"].format(regclass=sql.Literal(sql.Identifier(name.schema, name.name).as_string(None)))


def columns_of(cur: psycopg.Cursor[Any]) -> Columns:
    """The columns in the result that `cur` stands at."""
    return columns_in(cur.fetchone() or ((), ""))


def columns_in(row: Sequence[Any]) -> Columns:
    """The columns in the one row that `columns_query` gives."""
    names, versions = row
    return Columns(frozenset(names), str(versions))


def publications_and_slots(conn: Connection, name: TableName) -> tuple[str, ...]:
    """Who else would see deletes from `name`, as notes for a plan: publications, logical slots of this database."""
    notes = [f"publication {p} sends the deletes from {name} to its subscribers" for p in _publications(conn, name) or ()]
    notes += [
        f"logical replication slot {slot} of the database {conn.info.dbname} sees every delete"
        + ("" if active else ", and nobody reads it: it keeps their WAL on the disk")
        for slot, active in _slots(conn)
    ]
    return tuple(notes)


@of_each
def _publications(conn: Connection, names: Sequence[TableName]) -> dict[TableName, list[str]]:
    found: dict[TableName, list[str]] = {}
    with catalog(conn) as cur:
        for schema, table, publication in cur.last(_SQL["publications"], named(names)):
            found.setdefault(TableName(schema, table), []).append(publication)
    return found


@asked_once
def _slots(conn: Connection) -> list[tuple[str, bool]]:
    with catalog(conn) as cur:
        return [(str(slot), bool(active)) for slot, active in cur.last(_SQL["slots"])]


def check_age_column(shape: TableShape, age: str) -> None:
    """Raises UsageError, naming column and type, unless `age` is a column of type date, timestamp or timestamptz."""
    column = shape.column(age)
    if column is None:
        fitting = ", ".join(c.name for c in shape.columns if c.base in AGE_TYPES)
        raise UsageError(
            f"table {shape.name}",
            f"it has no column {age!r} that could say how old a row is",
            f"Set age to one of its columns of time ({fitting})"
            if fitting
            else "Only a table with a date or a timestamp can be moved by age",
        )
    if column.base not in AGE_TYPES:
        raise UsageError(
            f"table {shape.name}",
            f"the age column {age!r} is of type {column.type}, which does not say how old a row is",
            "Name a column of type date, timestamp or timestamptz",
        )


def _table(cur: Cursor, name: TableName, found: _Found) -> tuple[int, list[int], bool]:
    """The table's oid, the oids of all that holds rows of it, itself included, and whether it is partitioned.

    Raises UsageError unless it is a table of the user's.
    """
    place = f"table {name}"
    if name.schema in _OURS_OR_POSTGRES or name.schema.startswith("pg_"):
        raise UsageError(place, f"the schema {name.schema} is not yours to move", "Name a table of your own")
    if name not in found.relations:
        near = cur.execute(_SQL["similar"], {"name": name.name}).fetchone()
        raise UsageError(
            place,
            "it does not exist in this database",
            f"Did you mean {TableName(near[0], near[1])}?" if near else "Correct the name; write it with its schema, as SQL does",
        )
    oid, kind, tree = found.relations[name]
    if kind not in ("r", "p"):
        raise UsageError(
            place, f"it is {_KINDS.get(kind, 'no table')}, not an ordinary table", "Name the table that holds the rows"
        )
    foreign = [part for of, part in found.foreign.items() if of in tree]
    if foreign:
        raise UsageError(
            place,
            f"the foreign table {min(foreign)} holds rows of it, which lie on another server",
            "Detach it, or leave the table out",
        )
    return oid, tree, kind == "p"


def _refuse_values_that_cannot_be_read_back(
    name: TableName, rows: Sequence[tuple[Any, ...]], types: Mapping[int, PgType]
) -> None:
    for column, shown, oid, *_ in rows:
        if any(t.schema == "pg_catalog" and t.name in _NEVER_READ for t in ddl.within(oid, types)):
            raise UsageError(
                f"table {name}, column {column!r}",
                f"the type {shown} is Postgres's own for inner use, and no server reads its values back",
                "Drop the column, or leave the table out",
            )
        boxed = next((t for t in ddl.within(oid, types) if t.kind == "c" and _has_xml(t, types)), None)
        if boxed is not None:
            raise UsageError(
                f"table {name}, column {column!r}",
                f"there is xml inside of its type {boxed.shown}, and no server gives it out of there with its declaration",
                "Give the xml a column of its own, or leave the table out",
            )


def _has_xml(composite: PgType, types: Mapping[int, PgType]) -> bool:
    return any(t.shown == "xml" for t in ddl.within(composite.oid, types))


def _binary_is_local(oid: int, types: Mapping[int, PgType]) -> bool:
    """Whether the binary form of a value means something else on another server: an array names its elements' type by its oid,
    which only Postgres's own types have everywhere.
    """
    inside = list(ddl.within(oid, types))
    made = any(t.category == "A" and t.kind == "b" and any(types[p].schema != "pg_catalog" for p in t.parts) for t in inside)
    return made or any(t.binary_is_local or t.shown == "xml" for t in inside)  # xml's leaves out a declaration


def _key(name: TableName, row: tuple[Any, ...] | None) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    if row is None or not row[0]:
        raise UsageError(
            f"table {name}",
            "it has neither a primary key nor a unique index over NOT NULL columns that would tell its rows apart",
            f"Give it one: ALTER TABLE {name} ADD PRIMARY KEY (…)",
        )
    return tuple(row[0]), tuple((equal, greater) for equal, greater in row[1] or ())


def _column(row: tuple[Any, ...], types: Mapping[int, PgType]) -> Column:
    name, type_, type_oid, not_null, collation, _, generated, number = row
    base = _base(type_oid, types)
    is_array = base.kind == "b" and base.category == "A"
    return Column(
        name=name,
        type=type_,
        base=base.shown,
        kind=types[type_oid].kind,
        category=types[type_oid].category,
        element=_base(base.parts[0], types).shown if is_array else None,
        element_kind=types[base.parts[0]].kind if is_array else None,
        not_null=not_null,
        collation=collation,
        generated=generated,
        number=number,
    )


def _base(oid: int, types: Mapping[int, PgType]) -> PgType:
    """The type under all domains."""
    while types[oid].kind == "d":
        oid = types[oid].parts[0]
    return types[oid]
