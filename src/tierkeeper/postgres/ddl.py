"""The statements that recreate a table elsewhere: what its columns need first, then the table itself.

Values are kept, not recomputed: no default, check, trigger, identity or generation expression comes along. Whether a
statement is needed at a destination is `setup`'s to decide; a statement that makes a type does nothing where it exists.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import psycopg
from psycopg import sql

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import Column, TableName, TableShape
from tierkeeper.postgres.catalog import catalog
from tierkeeper.postgres.keeping import asked_once, named
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.postgres", "shapes.sql")
_FIRST_UNPINNED_OID: Final = 10_000  # below it Postgres's sources assign the ids, by hand: they mean the same on every server
_FIRST_USERS_OID: Final = 16_384  # below it is what initdb made
_BUILT_IN: Final[dict[tuple[int, int], "PgType"]] = {}
"""Types that come with Postgres, by the server's version and their id: reading them costs more than all else about a table."""

_EVERYWHERE: Final = frozenset({0, 100, 950, 951})  # no collation, the database's own, C, POSIX
_PROVIDERS: Final[Mapping[str, str]] = {"c": "libc", "i": "icu", "b": "builtin"}


@dataclass(frozen=True)
class PgType:
    """One row of `pg_type` with what it takes to recreate it; `parts` are the oids of the types it is made of."""

    oid: int
    schema: str
    name: str
    kind: str
    category: str
    parts: list[int]
    extension: list[str] | None
    labels: list[str]
    domain_of: str | None
    not_null: bool
    collation: str | None
    checks: list[str]
    relation_kind: str | None
    attributes: list[str]
    range_of: str | None
    canonical: bool
    collations: list[int]
    binary: bool = True

    @property
    def shown(self) -> str:
        """Its bare name in `pg_catalog`, its qualified one elsewhere: `int4`, `public.mood`."""
        return self.name if self.schema == "pg_catalog" else str(TableName(self.schema, self.name))

    @property
    def meaning(self) -> str:
        """What its values are, for comparing it with its namesake on another server; an enum's labels count by themselves."""
        if self.kind == "d":
            return f"a domain over {self.domain_of}" + (f" COLLATE {self.collation}" if self.collation else "")
        return {"c": f"({', '.join(self.attributes)})", "r": f"a range ({self.range_of})", "e": "an enum"}.get(
            self.kind, "a type of C"
        )

    @property
    def binary_is_local(self) -> bool:
        """Whether its binary form carries ids that differ between servers, or there is none. Its parts ask for themselves."""
        ids = self.kind == "c" or (self.schema == "pg_catalog" and self.name.startswith("reg"))
        return ids or not self.binary


@dataclass(frozen=True)
class SchemaObject:
    """One thing that a table needs, or the table itself; `sql` makes it where it is missing.

    `column` is the first one that needs it; `meaning` says of a type what its values are.
    """

    kind: Literal["schema", "extension", "collation", "type", "table"]
    schema: str
    name: str
    sql: str
    labels: tuple[str, ...] = ()  # of an enum, in their order
    column: str | None = None
    meaning: str = ""
    checks: tuple[str, ...] | None = None  # of a domain: its constraints with their names; None for all else


@asked_once
def meanings(conn: Connection, types: frozenset[TableName]) -> dict[TableName, str]:
    """What the types there that bear these names are."""
    if not types:
        return {}
    with catalog(conn) as cur:
        return read_meanings(cur, types)


def read_meanings(cur: psycopg.Cursor[Any], types: Collection[TableName]) -> dict[TableName, str]:
    """As `meanings`, in the cursor's transaction, and each time anew."""
    found = read_types(cur, [r[0] for r in cur.execute(_SQL["types_named"], named(sorted(types)))])
    return {name: t.meaning for t in found.values() if (name := TableName(t.schema, t.name)) in types}


def assemble(
    shape: TableShape,
    types: Mapping[int, PgType],
    collations: Sequence[SchemaObject],
    *,
    columns: Mapping[str, int],
) -> tuple[SchemaObject, ...]:
    """What `shape` needs (schemas, extensions, collations, types, in the order of their making), then the table.

    `columns` maps to types' oids. Raises UsageError for a type that cannot be made elsewhere.
    """
    name = shape.name
    wanted: list[SchemaObject] = [*collations]
    done: set[int] = set()
    for column, oid in columns.items():
        wanted += (
            replace(o, column=column) for o in _with_parts(types[oid], types, done, f"table {shape.name}, column {column!r}")
        )
    wanted.append(SchemaObject("table", name.schema, name.name, table_statement(name, shape.columns, shape.key)))
    return tuple(_with_schemas(wanted))


def table_statement(name: TableName, columns: Sequence[Column], key: Sequence[str]) -> str:
    """CREATE TABLE for `columns` and the primary key alone."""
    lines = [
        _ident(c.name) + " " + c.type + (f" COLLATE {c.collation}" if c.collation else "") + (" NOT NULL" if c.not_null else "")
        for c in columns
    ]
    if key:
        lines.append("PRIMARY KEY (" + ", ".join(map(_ident, key)) + ")")
    return f"CREATE TABLE {_ident(name.schema, name.name)} (\n    " + ",\n    ".join(lines) + "\n)"


def read_types(cur: psycopg.Cursor[Any], oids: Collection[int]) -> dict[int, PgType]:
    """The types `oids` and all that they are made of, however deep, by oid."""
    version = cur.connection.info.server_version
    if all((version, oid) in _BUILT_IN for oid in oids):
        return _built_in(version)
    return types_of(cur.execute(types_query(sql.Literal(sorted(oids)), version)).fetchall(), version)


def knows_types(version: int) -> bool:
    """Whether most tables' types are known of a server of `version`, so that to ask for them is mostly in vain: no other question
    takes a server so long to plan.
    """
    return bool(_built_in(version))


def _built_in(version: int) -> dict[int, PgType]:
    return {oid: t for (of, oid), t in list(_BUILT_IN.items()) if of == version}


def types_query(oids: sql.Composable, version: int) -> sql.Composed:
    """What tells `types_of` of the types `oids`, an array of SQL's, on a server of `version`."""
    return _SQL["types"].format(types=oids, known=sql.Literal(list(_built_in(version))))


def types_of(rows: Iterable[Sequence[Any]], version: int) -> dict[int, PgType]:
    """The types that were asked for and all that they are made of, however deep, by oid; maybe others of Postgres's own too."""
    found = {t.oid: t for t in (PgType(*row) for row in rows)}
    _BUILT_IN.update({(version, oid): t for oid, t in found.items() if oid < _FIRST_UNPINNED_OID})  # and so are their parts
    return _built_in(version) | found


def within(oid: int, types: Mapping[int, PgType]) -> Iterator[PgType]:
    """The type `oid` and all that it is made of."""
    yield types[oid]
    for part in types[oid].parts:
        yield from within(part, types)


@dataclass(frozen=True)
class Collation:
    """One row of `pg_collation`; `made` recreates it where a user made it."""

    name: TableName
    is_icu: bool
    made: SchemaObject | None


def read_collations(cur: psycopg.Cursor[Any], oids: Collection[int]) -> dict[int, Collation]:
    """Those of `oids`, by their oid, that not every server has."""
    wanted = sorted(set(oids) - _EVERYWHERE)
    found = {}
    for oid, schema, name, entry in cur.execute(_SQL["collations"], {"collations": wanted}).fetchall() if wanted else []:
        text = _collation(schema, name, entry) if oid >= _FIRST_USERS_OID else None
        made = None if text is None else SchemaObject("collation", schema, name, text)
        found[oid] = Collation(TableName(schema, name), entry["collprovider"] == "i", made)
    return found


def _collation(schema: str, name: str, entry: Mapping[str, Any]) -> str:
    options = [f"PROVIDER = {_PROVIDERS[entry['collprovider']]}"]
    locale = entry.get("colllocale") or entry.get("colliculocale")  # the column's name before and since Postgres 17
    if locale is not None:
        options.append(f"LOCALE = {_literal(locale)}")
    elif entry.get("collcollate") is not None:
        options += [f"LC_COLLATE = {_literal(entry['collcollate'])}", f"LC_CTYPE = {_literal(entry['collctype'])}"]
    if entry.get("collicurules"):
        options.append(f"RULES = {_literal(entry['collicurules'])}")
    if not entry["collisdeterministic"]:
        options.append("DETERMINISTIC = false")
    return f"CREATE COLLATION IF NOT EXISTS {_ident(schema, name)} ({', '.join(options)})"


def _with_schemas(wanted: Sequence[SchemaObject]) -> Iterator[SchemaObject]:
    seen: set[tuple[str, str, str]] = set()
    for thing in wanted:
        if thing.schema != "pg_catalog" and ("schema", "", thing.schema) not in seen:
            seen.add(("schema", "", thing.schema))
            yield SchemaObject("schema", "", thing.schema, f"CREATE SCHEMA IF NOT EXISTS {_ident(thing.schema)}")
        if (thing.kind, thing.schema, thing.name) not in seen:
            seen.add((thing.kind, thing.schema, thing.name))
            yield thing


def _with_parts(t: PgType, types: Mapping[int, PgType], done: set[int], place: str) -> Iterator[SchemaObject]:
    """What makes `t`, after what makes its parts. A type cannot contain itself, so this ends."""
    if t.oid in done or t.schema == "pg_catalog":
        return
    done.add(t.oid)
    if t.extension is not None:
        schema, name = t.extension
        text = f"CREATE EXTENSION IF NOT EXISTS {_ident(name)} WITH SCHEMA {_ident(schema)}"
        yield SchemaObject("extension", schema, name, text)
        return
    for part in t.parts:
        yield from _with_parts(types[part], types, done, place)
    statement = _type_statement(t, place)
    if statement is not None:
        checks = (*t.checks, *(("NOT NULL",) if t.not_null else ())) if t.kind == "d" else None
        yield SchemaObject("type", t.schema, t.name, _unless_there(statement), tuple(t.labels), meaning=t.meaning, checks=checks)


def _type_statement(t: PgType, place: str) -> str | None:
    """CREATE TYPE or DOMAIN; None for what comes with another type (arrays, multiranges)."""
    name = _ident(t.schema, t.name)
    if t.kind == "e":
        return f"CREATE TYPE {name} AS ENUM ({', '.join(map(_literal, t.labels))})"
    if t.kind == "d":
        tail = [f"COLLATE {t.collation}"] if t.collation else []
        tail += ["NOT NULL"] if t.not_null else []
        return " ".join([f"CREATE DOMAIN {name} AS {t.domain_of}", *tail, *t.checks])
    if t.kind == "c" and t.relation_kind == "c":
        return f"CREATE TYPE {name} AS ({', '.join(t.attributes)})"
    if t.kind == "r" and not t.canonical:
        return f"CREATE TYPE {name} AS RANGE ({t.range_of})"
    if t.kind == "m" or (t.kind == "b" and t.category == "A"):
        return None
    why = {"c": "is the row type of another table", "r": "is a range with a function of its own"}.get(t.kind, "is written in C")
    raise UsageError(
        place,
        f"the type {t.shown} {why} and cannot be made on another server",
        "Change the column's type, or leave the table out",
    )


def _unless_there(statement: str) -> str:
    """CREATE TYPE knows no IF NOT EXISTS."""
    tag = "$make$"
    while tag in statement:
        tag = tag[:-1] + "_$"
    return f"DO {tag} BEGIN {statement}; EXCEPTION WHEN duplicate_object THEN NULL; END {tag}"


def _ident(*parts: str) -> str:
    return sql.Identifier(*parts).as_string(None)


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)
