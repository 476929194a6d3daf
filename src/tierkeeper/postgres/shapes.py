"""Reads what the mover must know of a table from Postgres's catalog, by exact name; it refuses what cannot be moved.

It decides nothing about tiers. Types come out qualified, because it reads under the search path of `link.transaction`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg
from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import Column, Part, TableName, TableShape
from tierkeeper.postgres import ddl
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.ddl import PgType
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

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
        return _read(conn, name)
    except UsageError as error:
        place = error.place if tier is None else f"tiers.{tier}, {error.place}"
        raise UsageError(place, error.cause, error.remedy) from None


def _read(conn: Connection, name: TableName) -> TableShape:
    with catalog(conn) as cur:
        oid, tree, is_partitioned = _table(cur, name)
        rows = cur.execute(_SQL["columns"], {"table": oid}).fetchall()
        types = ddl.read_types(cur, [r[2] for r in rows])
        _refuse_values_that_cannot_be_read_back(name, rows, types)
        key, operators = _key(cur, name, oid)
        shape = TableShape(
            name=name,
            columns=tuple(_column(r, types) for r in rows),
            key=key,
            key_operators=operators,
            as_text=frozenset(r[0] for r in rows if _binary_is_local(r[2], types)),
            referenced_by=tuple(
                f"{conname} of {TableName(schema, table)} (ON DELETE {ACTIONS[action]})"
                for schema, table, conname, action in cur.execute(_SQL["referenced_by"], {"tables": tree})
            ),
            delete_triggers=tuple(str(r[0]) for r in cur.execute(_SQL["delete_triggers"], {"tables": tree})),
            oid=oid,
            is_tree=len(tree) > 1 or is_partitioned,
        )
        used = {r[5] for r in rows if r[5] is not None}.union(*(t.collations for t in types.values()))
        made = ddl.read_collations(cur, used)
    return replace(shape, ddl=tuple(o.sql for o in ddl.assemble(shape, types, made, columns={r[0]: r[2] for r in rows})))


def exists(conn: Connection, name: TableName) -> bool:
    """Whether a relation of exactly that name is there, of whatever kind."""
    with catalog(conn) as cur:
        return cur.execute(_SQL["relation"], {"schema": name.schema, "name": name.name}).fetchone() is not None


def parts(cur: psycopg.Cursor[Any], name: TableName, apart: Collection[TableName] = ()) -> list[Part]:
    """The tables that hold rows of `name`, itself included, without those of `apart` and what is below them."""
    asked = {"schema": name.schema, "name": name.name}
    left_out = {"apart_schemas": [a.schema for a in apart], "apart_names": [a.name for a in apart]}
    rows = cur.execute(_SQL["parts"], {**asked, **left_out})
    return [Part(TableName(schema, table), tuple(more)) for schema, table, more in rows]


def columns_now(cur: psycopg.Cursor[Any], name: TableName) -> list[tuple[str, int]]:
    """The table's columns and their types' object ids, as they are now that `cur`'s transaction holds a lock on it."""
    return columns_of(cur.execute(columns_query(name)))


def columns_query(name: TableName) -> sql.Composed:
    """What `columns_of` takes the columns from.

    A look into the catalog would show them as of the transaction's snapshot, and the rows are read as they are now.
    """
    return sql.SQL("SELECT * FROM ONLY {} LIMIT 0").format(sql.Identifier(name.schema, name.name))


def columns_of(cur: psycopg.Cursor[Any]) -> list[tuple[str, int]]:
    """The columns of the result that `cur` stands at, with their types' object ids."""
    return [(column.name, column.type_code) for column in cur.description or ()]


def publications_and_slots(conn: Connection, name: TableName) -> tuple[str, ...]:
    """Who else would see deletes from `name`, as notes for a plan: publications, logical slots of this database."""
    with catalog(conn) as cur:
        published = [r[0] for r in cur.execute(_SQL["publications"], {"schema": name.schema, "name": name.name})]
        slots = cur.execute(_SQL["slots"]).fetchall()
    notes = [f"publication {p} sends the deletes from {name} to its subscribers" for p in published]
    notes += [
        f"logical replication slot {slot} reads this database"
        + ("" if active else " and nobody reads the slot: it keeps the WAL of every delete on the disk")
        for slot, active in slots
    ]
    return tuple(notes)


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


def _table(cur: psycopg.Cursor[Any], name: TableName) -> tuple[int, list[int], bool]:
    """The table's oid, the oids of all that holds rows of it, itself included, and whether it is partitioned.

    Raises UsageError unless it is a table of the user's.
    """
    place = f"table {name}"
    if name.schema in _OURS_OR_POSTGRES or name.schema.startswith("pg_"):
        raise UsageError(place, f"the schema {name.schema} is not yours to move", "Name a table of your own")
    row = cur.execute(_SQL["relation"], {"schema": name.schema, "name": name.name}).fetchone()
    if row is None:
        near = cur.execute(_SQL["similar"], {"name": name.name}).fetchone()
        raise UsageError(
            place,
            "it does not exist in this database",
            f"Did you mean {TableName(near[0], near[1])}?" if near else "Correct the name; write it with its schema, as SQL does",
        )
    oid, kind, tree = row
    if kind not in ("r", "p"):
        raise UsageError(
            place, f"it is {_KINDS.get(kind, 'no table')}, not an ordinary table", "Name the table that holds the rows"
        )
    foreign = cur.execute(_SQL["foreign_parts"], {"tables": tree}).fetchone()
    if foreign is not None:
        raise UsageError(
            place,
            f"the foreign table {TableName(*foreign)} holds rows of it, which lie on another server",
            "Detach it, or leave the table out",
        )
    return int(oid), tree, kind == "p"


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


def _binary_is_local(oid: int, types: Mapping[int, PgType]) -> bool:
    """Whether the binary form of a value means something else on another server: an array names its elements' type by its oid,
    which only Postgres's own types have everywhere.
    """
    inside = list(ddl.within(oid, types))
    made = any(t.category == "A" and t.kind == "b" and any(types[p].schema != "pg_catalog" for p in t.parts) for t in inside)
    return made or any(t.binary_is_local for t in inside)


def _key(cur: psycopg.Cursor[Any], name: TableName, oid: int) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    row = cur.execute(_SQL["key"], {"table": oid}).fetchone()
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
