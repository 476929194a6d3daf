"""What a batch is, as values and SQL text. Pure: no connection, no clock."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg import sql
from xxhash import xxh3_64_hexdigest

from tierkeeper.kernel.ports import Extent, Held, Read
from tierkeeper.kernel.tables import Column, TableName, TableShape

Bound = tuple[str, ...]
"""The text forms of (age, key…), under the pinned settings."""


def qualified(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def rows_of(shape: TableShape) -> sql.Composed:
    """The table in FROM, with the tables below it where it has some."""
    return sql.SQL("{}" if shape.is_tree else "ONLY {}").format(qualified(shape.name))


def regclass(name: TableName) -> sql.Composed:
    """The table's name as a text that the server reads back as a name."""
    return sql.SQL("{}").format(sql.Literal(f"{_quoted(name.schema)}.{_quoted(name.name)}"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


@dataclass(frozen=True)
class Piece:
    """Pages `first` to before `upto` of a heap, with how many rows of a selection lie there and how large they are.

    `bytes` counts them as they are stored; `widest` is what one of them may have unpacked, at most.
    """

    first: int
    upto: int
    rows: int
    bytes: int
    part: TableName | None = None
    widest: int = 0


@dataclass(frozen=True)
class Between:
    """The rows behind `after` up to and with `upto`, in the order of (age, key…)."""

    after: Bound | None
    upto: Bound
    part: TableName | None = None


Range = Piece | Between
"""Where a batch's rows are, of those that a selection holds: by place in the heap or by age; `part` as a batch has it."""


@dataclass(frozen=True)
class Selection:
    """The rows of one table that a run may move: older than `cutoff`, with a finite age, and the user's own condition.

    `upto` is the last (age, key…) that a limited run may take, so that it takes the oldest rows. `apart` are partitions and
    inheriting tables that move by themselves. An empty `age` is a table's whose rows follow others: each may leave with them. So
    may with `any_age` each of a table that has one. What is `held` stays.
    """

    shape: TableShape
    age: str
    cutoff: datetime
    where: str | None = None
    upto: Bound | None = None
    apart: frozenset[TableName] = frozenset()
    any_age: bool = False
    held: tuple[Held, ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        """(age, key…): the order in which batches are cut."""
        return tuple(dict.fromkeys(c for c in (self.age, *self.shape.key) if c))

    @property
    def old(self) -> sql.Composed:
        """SQL that holds for rows older than the cutoff, infinitely old ones too; for all where none has an age."""
        if not self.age or self.any_age:
            return sql.SQL("{}").format(sql.SQL("true"))
        return sql.SQL("{} < {}").format(sql.Identifier(self.age), self._instant(self.cutoff))

    @property
    def stays(self) -> sql.Composed:
        """SQL that holds for rows that are held, whatever their age."""
        age, held = sql.Identifier(self.age), list[sql.Composable]()
        for one in self.held:
            if one.min_age is None or one.max_age is None:
                return sql.SQL("{}").format(sql.SQL("true"))
            held.append(sql.SQL("{} BETWEEN {} AND {}").format(age, self._instant(one.min_age), self._instant(one.max_age)))
        return sql.SQL("({})").format(sql.SQL(" OR ").join(held or [sql.SQL("false")]))

    @property
    def condition(self) -> sql.Composed:
        """The user's condition, which plan.check_condition has looked at; true if there is none."""
        return sql.SQL("{}\n").format(sql.SQL("true" if self.where is None else self.where))

    def eligible(self, after: Bound | None, conflicts: Sequence[Bound] = ()) -> sql.Composed:
        """SQL that holds for the selected rows behind `after`; `conflicts` are keys (in key order) to leave where they are."""
        parts: list[sql.Composable] = [self.old]
        if self.age and not self.any_age:
            parts.insert(0, sql.SQL("isfinite({})").format(sql.Identifier(self.age)))
        if self.where is not None:
            parts.append(sql.SQL("({})").format(self.condition))
        if self.held:
            parts.append(sql.SQL("NOT {}").format(self.stays))
        if after is not None:
            parts.append(self._compare(">", after))
        if self.upto is not None:
            parts.append(self._compare("<=", self.upto))
        if conflicts:
            parts.append(self.none_of(conflicts))
        return sql.SQL(" AND ").join(parts)

    def within(self, found: Range, conflicts: Sequence[Bound] = ()) -> sql.Composed:
        """SQL that selects exactly one batch."""
        if isinstance(found, Between):
            return sql.SQL("{} AND {}").format(self.eligible(found.after, conflicts), self._compare("<=", found.upto))
        first, upto = sql.Literal(f"({found.first},0)"), sql.Literal(f"({found.upto},0)")
        return sql.SQL("ctid >= {}::tid AND ctid < {}::tid AND {}").format(first, upto, self.eligible(None, conflicts))

    def none_of(self, keys: Sequence[Bound]) -> sql.Composed:
        """SQL that holds for rows with none of `keys`."""
        if self.shape.key_operators:
            columns = [(sql.Identifier(name), equal) for name, equal, _ in _operators(self.shape)]
            found = (zip(columns, self._literals(self.shape.key, k), strict=True) for k in keys)
            each = (sql.SQL(" AND ").join(sql.SQL("{} {} {}").format(c, e, v) for (c, e), v in pairs) for pairs in found)
            return sql.SQL(" AND ").join(sql.SQL("NOT ({})").format(one) for one in each)
        lists = (sql.SQL("({})").format(sql.SQL(", ").join(self._literals(self.shape.key, k))) for k in keys)
        return sql.SQL("({}) NOT IN ({})").format(names(self.shape.key), sql.SQL(", ").join(lists))

    def _compare(self, operator: str, bound: Bound) -> sql.Composed:
        """(age, key…) beside `bound`.

        A row comparison takes its operators from Postgres's own, so a key of an extension's type is compared column by column,
        with the operators of its index; the age alone is what an index can be asked for.
        """
        values = self._literals(self.order, bound)
        if not self.shape.key_operators:
            op = sql.SQL(" > ") if operator == ">" else sql.SQL(" <= ")
            return sql.SQL("({}){}({})").format(names(self.order), op, sql.SQL(", ").join(values))
        behind: sql.Composable = sql.SQL("false")
        operators = {name: (equal, greater) for name, equal, greater in _operators(self.shape)}
        for name, value in zip(reversed(self.order), reversed(values), strict=True):
            equal, greater = operators.get(name, (sql.SQL("="), sql.SQL(">")))
            behind = sql.SQL("({0} {2} {1} OR {0} {3} {1} AND {4})").format(sql.Identifier(name), value, greater, equal, behind)
        age, sign = sql.Identifier(self.age), sql.SQL(">=" if operator == ">" else "<=")
        return sql.SQL("{} {} {} AND {}{}").format(age, sign, values[0], sql.SQL("" if operator == ">" else "NOT "), behind)

    def _literals(self, columns: Sequence[str], values: Bound) -> list[sql.Composed]:
        found = [self.shape.column(c) for c in columns]
        return [typed(v, c) for v, c in zip(values, found, strict=True) if c is not None]

    def _instant(self, instant: datetime) -> sql.Composable:
        column = self.shape.column(self.age)
        if column is not None and column.base == "timestamptz":
            return sql.SQL("{}::timestamptz").format(sql.Literal(instant.isoformat()))
        return sql.SQL("{}::timestamp").format(sql.Literal(instant.astimezone(UTC).replace(tzinfo=None).isoformat()))


def is_ours(predicate: str) -> bool:
    """Whether a batch's condition is made of comparisons of ours alone. A user's, which `condition` has, ends with a line."""
    return "\n" not in predicate


def among_pinned(predicate: str) -> sql.Composable:
    """The condition of rows whose values come out as text that does not depend on the session's path.

    The names in a user's condition are looked up when the statement is read, under the path that holds then; the first thing
    that it does is to pin the path.
    """
    if is_ours(predicate):
        return sql.SQL(predicate)
    return sql.SQL("(SELECT set_config('search_path', 'pg_catalog', true)) IS NOT NULL AND ({})").format(sql.SQL(predicate))


def stored_bytes(columns: Sequence[str]) -> sql.Composed:
    """SQL for the bytes that `columns` take as they are stored, large values compressed and out of line included."""
    return sql.SQL(" + ").join(sql.SQL("coalesce(pg_column_size({}), 0)").format(sql.Identifier(c)) for c in columns)


def typed(value: str, column: Column) -> sql.Composed:
    """A text form back in its column's type, so that it compares as the column does."""
    return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(column.type))  # format_type's own text


def stored_bytes_of(column: str) -> sql.Composed:
    """SQL for what all values of `column` take together, as `stored_bytes`."""
    return sql.SQL("coalesce(sum(pg_column_size({})), 0)::bigint").format(sql.Identifier(column))


FINGERPRINT = sql.SQL("coalesce(sum(hashtidextended(ctid, xmin::text::bigint)), 0)")
"""A sum over the rows' versions, each known by its place and its writer: it differs once a row was touched, added or gone."""


def fingerprint(heaps: Sequence[tuple[str, int]], columns: Sequence[str]) -> str:
    """Of each heap its rows' versions, the file that their places are in, and the versions of its columns and their types.

    A rewrite of a table gives its rows new places, which may have been others' before. A column that is added with a
    default gives every row a value and touches none; so does an enum's value that is renamed.
    """
    (versions, filenode), *more = heaps
    whole = columns[0] if not more else json.dumps([heaps, columns])
    return f"{versions}/{filenode}/{xxh3_64_hexdigest(whole.encode())}"


def same_key(shape: TableShape, noted: str) -> sql.Composed:
    """SQL that holds where the row `t` has the key that `noted.key` lists, a JSON array of its text forms."""
    pairs = [
        sql.SQL("t.{} {} ({}.key ->> {})::{}").format(
            sql.Identifier(name), equal, sql.Identifier(noted), sql.Literal(place), sql.SQL(column.type)
        )
        for place, (name, equal, _) in enumerate(_operators(shape))
        if (column := shape.column(name)) is not None
    ]
    return sql.SQL(" AND ").join(pairs)


def same_rows(shape: TableShape) -> sql.Composed:
    """SQL that holds where the rows `s` and `t` have the same key."""
    return sql.SQL(" AND ").join(sql.SQL("s.{0} {1} t.{0}").format(sql.Identifier(n), equal) for n, equal, _ in _operators(shape))


def text_of(column: str, row: str) -> sql.Composed:
    """The text form of `column` in `row` as its type writes it: a cast to text may be somebody's own function."""
    return sql.SQL("concat({}.{})").format(sql.Identifier(row), sql.Identifier(column))


def _operators(shape: TableShape) -> list[tuple[str, sql.SQL, sql.SQL]]:
    """The key's columns, each with what says equal and greater of it."""
    made = shape.key_operators or (("=", ">"),) * len(shape.key)
    return [(name, sql.SQL(equal), sql.SQL(greater)) for name, (equal, greater) in zip(shape.key, made, strict=True)]


_ENDLESS_INTERVALS_SINCE = 170_000


def travels_as_binary(source: TableShape, destination: TableShape) -> bool:
    """Whether binary COPY says the same on both servers: it needs the very same types on both sides, and none that is local.

    What is an infinite interval since Postgres 17 was one of many years before, with the same bits; in text it is refused.
    """
    same = {(c.name, c.type) for c in destination.columns}
    alike = (source.server_version >= _ENDLESS_INTERVALS_SINCE) == (destination.server_version >= _ENDLESS_INTERVALS_SINCE)
    return not source.as_text and (alike or not source.intervals) and all((c.name, c.type) in same for c in source.columns)


def generated(shape: TableShape) -> set[str]:
    """The columns that the table makes itself, of others."""
    return {c.name for c in shape.columns if c.generated}


def read(shape: TableShape, destination: TableShape) -> Read:
    """What is copied of a batch: not what the destination's table generates."""
    made = generated(destination)
    return [c.name for c in shape.columns if c.name not in made], travels_as_binary(shape, destination)


def sent(shape: TableShape, columns: Sequence[str]) -> sql.Composed:
    """`columns` as COPY gives them out."""
    found = [(name, shape.column(name)) for name in columns]
    return sql.SQL(", ").join(
        sql.SQL("{}{}").format(sql.Identifier(n), sql.SQL(f"::{c.written_as}" if c and c.written_as else "")) for n, c in found
    )


def copy_options(binary: bool) -> sql.SQL:
    """COPY's options."""
    return sql.SQL("(FORMAT binary)") if binary else sql.SQL("")


def near(age: str, extent: Extent) -> sql.Composable:
    """A condition that finds the batch's own rows faster, and excludes none of them."""
    if extent.min_age is None or extent.max_age is None:
        return sql.SQL("true")
    return sql.SQL("{} BETWEEN {} AND {}").format(sql.Identifier(age), sql.Literal(extent.min_age), sql.Literal(extent.max_age))
