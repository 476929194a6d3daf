"""What a batch is, as values and SQL text. Pure: no connection, no clock."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg import sql
from xxhash import xxh3_64_hexdigest

from tierkeeper.kernel.tables import Column, TableName, TableShape

Bound = tuple[str, ...]
"""The text forms of (age, key…), under the pinned settings."""


def qualified(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


@dataclass(frozen=True)
class Selection:
    """The rows of one table that a run may move: older than `cutoff`, with a finite age, and the user's own condition."""

    shape: TableShape
    age: str
    cutoff: datetime
    where: str | None = None

    @property
    def order(self) -> tuple[str, ...]:
        """(age, key…): the order in which batches are cut."""
        return (self.age, *(k for k in self.shape.key if k != self.age))

    def eligible(self, after: Bound | None, conflicts: Sequence[Bound] = ()) -> sql.Composed:
        """SQL that holds for the selected rows behind `after`; `conflicts` are keys (in key order) to leave where they are."""
        age = sql.Identifier(self.age)
        parts: list[sql.Composable] = [
            sql.SQL("isfinite({})").format(age),
            sql.SQL("{} < {}").format(age, self._instant()),
        ]
        if self.where is not None:
            parts.append(sql.SQL("({}\n)").format(sql.SQL(self.where)))  # checked by plan.check_condition
        if after is not None:
            parts.append(self._compare(">", after))
        if conflicts:
            key = sql.SQL("({})").format(names(self.shape.key))
            taken = sql.SQL(", ").join(sql.SQL("({})").format(self._literals(self.shape.key, c)) for c in conflicts)
            parts.append(sql.SQL("{} NOT IN ({})").format(key, taken))
        return sql.SQL(" AND ").join(parts)

    def between(self, after: Bound | None, upto: Bound, conflicts: Sequence[Bound] = ()) -> sql.Composed:
        """SQL that selects exactly one batch: behind `after`, up to and with `upto`."""
        return sql.SQL("{} AND {}").format(self.eligible(after, conflicts), self._compare("<=", upto))

    def _compare(self, operator: str, bound: Bound) -> sql.Composed:
        op = sql.SQL(" > ") if operator == ">" else sql.SQL(" <= ")
        return sql.SQL("({}){}({})").format(names(self.order), op, self._literals(self.order, bound))

    def _literals(self, columns: Sequence[str], values: Bound) -> sql.Composed:
        found = [self.shape.column(c) for c in columns]
        return sql.SQL(", ").join(typed(v, c) for v, c in zip(values, found, strict=True) if c is not None)

    def _instant(self) -> sql.Composable:
        column = self.shape.column(self.age)
        if column is not None and column.base == "timestamptz":
            return sql.SQL("{}::timestamptz").format(sql.Literal(self.cutoff.isoformat()))
        return sql.SQL("{}::timestamp").format(sql.Literal(self.cutoff.astimezone(UTC).replace(tzinfo=None).isoformat()))


def typed(value: str, column: Column) -> sql.Composed:
    """A text form back in its column's type, so that it compares as the column does."""
    return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(column.type))  # format_type's own text


def fingerprint(key: Sequence[str]) -> sql.Composed:
    """A sum over the rows' versions: it differs as soon as a row was touched, added or taken away."""
    parts = sql.SQL(", ").join([sql.SQL("ctid"), sql.SQL("xmin"), *map(sql.Identifier, key)])
    return sql.SQL("coalesce(sum(hashtextextended(concat_ws('/', {}), 0)), 0)").format(parts)


def fingerprinted(key: Sequence[str]) -> sql.Composed:
    """The columns that `fingerprint` reads."""
    return sql.SQL(", ").join([sql.SQL("ctid"), sql.SQL("xmin"), *map(sql.Identifier, key)])


def with_columns(versions: str, columns: Sequence[tuple[str, int]]) -> str:
    """The whole fingerprint of a batch: its rows' versions and the table's columns, each a name and its type's object id.

    A column that is added with a default gives every row a value and touches none.
    """
    return f"{versions}/{xxh3_64_hexdigest(json.dumps(columns).encode())}"


def same_key(shape: TableShape, noted: str) -> sql.Composed:
    """SQL that holds where the row `t` has the key that `noted.key` lists, a JSON array of its text forms."""
    pairs = [
        sql.SQL("t.{} = ({}.key ->> {})::{}").format(
            sql.Identifier(name), sql.Identifier(noted), sql.Literal(place), sql.SQL(column.type)
        )
        for place, name in enumerate(shape.key)
        if (column := shape.column(name)) is not None
    ]
    return sql.SQL(" AND ").join(pairs)


def travels_as_binary(source: TableShape, destination: TableShape) -> bool:
    """Whether binary COPY says the same on both servers.

    Composites, arrays of types made by users and reg* values carry object ids that differ between servers, and binary needs
    the very same types on both sides.
    """

    def carries_ids(c: Column) -> bool:
        return c.category == "C" or c.base.startswith("reg") or (c.element is not None and ("." in c.type or c.kind == "d"))

    for column in source.columns:
        other = destination.column(column.name)
        if other is None or other.type != column.type or carries_ids(column):
            return False
    return True
