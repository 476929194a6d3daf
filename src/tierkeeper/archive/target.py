"""Whether a table that is there can take restored rows, by the key, and which of its columns take what.

Looking reads the catalog; judging is pure. Whatever would hide rows, divert them, change them or change others is refused by
name before a segment is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tierkeeper.archive.model import Contents
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import OnConflict
from tierkeeper.kernel.tables import Column, TableName
from tierkeeper.kernel.widening import widening
from tierkeeper.postgres import shapes
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL: Final = load("tierkeeper.archive", "merging.sql")
_ELSEWHERE: Final = "Restore into a table that does not exist"
_EXACT: Final = frozenset(
    {"int2", "int4", "int8", "bool", "uuid", "oid", "text", "varchar", "name", "bytea", "date", "timestamp", "timestamptz"}
)
"""Types of which equal values are the same values, under a collation that takes no two texts for one."""


@dataclass(frozen=True)
class Place:
    """A column of the table. `identity`: 'a' where it takes no value but by force; `sequence`: what fills it; `exact`: values
    of it that are equal are the same.
    """

    column: Column
    has_default: bool
    identity: str
    exact: bool
    sequence: str | None

    @property
    def may_stay_out(self) -> bool:
        """Whether a row may come without a value for it."""
        return not self.column.not_null or self.has_default or self.column.generated or self.identity != ""


@dataclass(frozen=True)
class Target:
    """A table as rows come to it. `equal`: per column of the key the operator of the unique index over it; empty where none is.

    `relatives`: the table, those that it is a part of, and its own parts. `effects`: foreign keys of other tables that change
    rows there when these columns change. `may`: what the role may do.
    """

    name: TableName
    places: Mapping[str, Place]
    equal: Mapping[str, str]
    relatives: frozenset[TableName]
    effects: Sequence[tuple[str, Sequence[str]]]
    may: frozenset[str]
    hides_rows: bool
    has_heirs: bool
    rules: Sequence[str]


def look(cur: Cursor, name: TableName, key: Sequence[str]) -> Target:
    """The table as it is now. Raises UsageError where it is none that holds rows, or has no key at all."""
    asked = {"schema": name.schema, "name": name.name, "key": list(key)}
    shape = shapes.read(cur.connection, name)
    ((hides, selects, inserts, updates, has_heirs, rules, relatives),) = cur.execute(_SQL["facts"], asked).fetchall()
    facts = {column: more for column, *more in cur.execute(_SQL["columns"], asked).fetchall()}
    places = {}
    for column in shape.columns:
        has_default, identity, deterministic, sequence = facts[column.name]
        exact = deterministic and (column.base in _EXACT or column.kind == "e")
        places[column.name] = Place(column, has_default, identity, exact, sequence)
    may = {"SELECT": selects, "INSERT": inserts, "UPDATE": updates}
    return Target(
        name=name,
        places=places,
        equal=dict(cur.execute(_SQL["operators"], asked).fetchall()),
        relatives=frozenset(TableName(*one) for one in relatives),
        effects=[(effect, of) for effect, of in cur.execute(_SQL["effects"], asked).fetchall()],
        may=frozenset(right for right, has in may.items() if has),
        hides_rows=hides,
        has_heirs=has_heirs,
        rules=rules,
    )


@dataclass(frozen=True)
class Fit:
    """How rows go in. `staged`: their columns as they lie beside the table. What the table computes is compared, not written."""

    key: Sequence[str]
    staged: Sequence[Column]
    inserted: Sequence[str]
    overwritten: Sequence[str]


def fit(target: Target, contents: Contents, on_conflict: OnConflict, place: str) -> Fit:
    """How `contents`' rows go into the table. Raises UsageError at `place` for the first thing that keeps them out. Pure."""
    _refuse_surroundings(target, on_conflict, place)
    columns, key = contents.shape.columns, contents.shape.key
    staged = [_staged(column, target, place) for column in columns]
    if missing := next((n for n, p in target.places.items() if not p.may_stay_out and contents.shape.column(n) is None), None):
        cause = f"its column {missing!r} takes no NULL, has no default, and the archived rows do not have it"
        raise UsageError(place, cause, f"There: ALTER TABLE {target.name} ALTER COLUMN … SET DEFAULT …, or DROP NOT NULL")
    if not target.equal:
        cause = f"it has no unique index over exactly the key of the archived rows ({', '.join(key)})"
        raise UsageError(place, cause, f"There: ALTER TABLE {target.name} ADD UNIQUE ({', '.join(key)})")
    inserted = [c.name for c in columns if not target.places[c.name].column.generated]
    overwritten = [n for n in inserted if n not in key or not (target.places[n].exact or target.places[n].identity == "a")]
    if on_conflict == "replace":
        _refuse_overwriting(target, overwritten, place)
    return Fit(key, staged, inserted, overwritten)


def _refuse_surroundings(target: Target, on_conflict: OnConflict, place: str) -> None:
    if target.hides_rows:
        remedy = "Connect as a role with BYPASSRLS, or as its owner where it is not FORCE ROW LEVEL SECURITY"
        raise UsageError(place, "row level security hides rows of it from this role", remedy)
    needed = {"SELECT", "INSERT", *(["UPDATE"] if on_conflict == "replace" else [])}
    if lacking := sorted(needed - target.may):
        cause = f"the role lacks {' and '.join(lacking)} on it"
        raise UsageError(place, cause, f"There: GRANT {', '.join(lacking)} ON {target.name}, or connect as its owner")
    if target.rules:
        cause = f"the rule {target.rules[0]} stands between what is written and its rows"
        raise UsageError(place, cause, f"There: DROP RULE {target.rules[0]} ON {target.name}; a trigger can do the same work")
    if target.has_heirs:
        raise UsageError(place, "other tables inherit from it, and no key spans them", _ELSEWHERE)


def _refuse_overwriting(target: Target, overwritten: Sequence[str], place: str) -> None:
    fixed = next((n for n in overwritten if target.places[n].identity == "a"), None)
    if fixed is not None:
        cause = f"its column {fixed!r} is GENERATED ALWAYS AS IDENTITY, which takes no other value in a row that is there"
        raise UsageError(place, cause, f"There: ALTER TABLE {target.name} ALTER COLUMN … SET GENERATED BY DEFAULT")
    for effect, of in target.effects:
        if changed := next((n for n in overwritten if n in of), None):
            cause = f"the foreign key {effect} changes rows there when its column {changed!r} is overwritten"
            raise UsageError(place, cause, "Make it one with ON UPDATE NO ACTION, or restore into a table that does not exist")


def _staged(column: Column, target: Target, place: str) -> Column:
    """The archived column under the target's collation, by which its key is compared."""
    there = target.places.get(column.name)
    if there is None:
        raise UsageError(place, f"it has no column {column.name!r}, which the archived rows have", f"Add it, or: {_ELSEWHERE}")
    if widening(column, there.column) is None:
        cause = f"its column {column.name!r} is of type {there.column.type}, and the archived one is of type {column.type}"
        raise UsageError(place, cause, f"Change its type to {column.type}, or: {_ELSEWHERE}")
    return replace(column, collation=there.column.collation)
