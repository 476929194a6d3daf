"""What the fast door decides on and decides: types, facts about tables, scans, the plan. Pure values.

Nothing here may know a driver, a clock or an environment.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final, Literal

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName

PLACE: Final = "query"
MAX_DIGITS: Final = 38  # what a 128-bit decimal holds
QUOTIENT_SCALE: Final = 24  # Postgres gives a quotient 16 significant digits or a few more; the rest is left for the integer part

Kind = Literal[
    "int2",
    "int4",
    "int8",
    "numeric",
    "float4",
    "float8",
    "bool",
    "text",
    "date",
    "timestamp",
    "timestamptz",
    "uuid",
    "interval",
    "unknown",
    "opaque",
]
Order = Literal["bytes", "other", "explicit"]
Instant = date | datetime


@dataclass(frozen=True)
class PgType:
    """A type of Postgres that DuckDB can stand in for.

    `digits` and `scale` are numeric's; `exact` is whether every value shows just `scale` decimals, which decides a
    quotient's. `order` is text's: by "bytes" in Postgres as in DuckDB (after COLLATE "C": "explicit"), or by an "other"
    collation. An "opaque" value, of the type `declared`, can be shown as Postgres's text and nothing else.
    """

    kind: Kind
    digits: int = 0
    scale: int = 0
    exact: bool = True
    order: Order = "other"
    declared: str = ""

    @property
    def is_int(self) -> bool:
        return self.kind in ("int2", "int4", "int8")

    @property
    def is_number(self) -> bool:
        return self.is_int or self.kind in ("numeric", "float4", "float8")

    @property
    def is_temporal(self) -> bool:
        return self.kind in ("date", "timestamp", "timestamptz")

    def __str__(self) -> str:
        return self.declared or self.kind

    @property
    def duck(self) -> str:
        """DuckDB's name. A timestamptz is the UTC timestamp there: the session's zone is UTC at every tier."""
        return f"DECIMAL({self.digits},{self.scale})" if self.kind == "numeric" else _DUCK[self.kind]

    @property
    def postgres(self) -> str:
        """Postgres's name, without a modifier."""
        return f"pg_catalog.{self.kind}"


_DUCK: Final[Mapping[str, str]] = {
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float4": "FLOAT",
    "float8": "DOUBLE",
    "bool": "BOOLEAN",
    "text": "VARCHAR",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP",
    "uuid": "UUID",
    "interval": "INTERVAL",
    "opaque": "VARCHAR",
    "unknown": "VARCHAR",
}


@dataclass(frozen=True)
class ColumnFacts:
    """A column as Core's snapshot has it: `declared` is its type as Postgres writes it, with its modifier."""

    name: str
    declared: str
    type: PgType
    number: int = 0  # which a rename keeps


@dataclass(frozen=True)
class TableFacts:
    """A relation as Core's snapshot has it. `over` names managed tables that it is a view of; `oid` is its object id."""

    name: TableName
    columns: tuple[ColumnFacts, ...]
    over: tuple[TableName, ...] = ()
    oid: int = 0

    def column(self, name: str) -> ColumnFacts | None:
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True)
class Constant:
    """A constant expression's type and text form, worked out by Core in its snapshot; `text` None is NULL."""

    kind: str
    text: str | None


@dataclass(frozen=True)
class Facts:
    """What Core's snapshot says about a statement. `bytewise` is whether the database's default collation orders by bytes."""

    tables: Mapping[TableName, TableFacts]
    constants: Mapping[str, Constant]
    bytewise: bool
    utf8: bool


@dataclass(frozen=True)
class Output:
    """A column of the result."""

    name: str
    type: PgType


@dataclass(frozen=True)
class AgeRange:
    """Ages that can match, both ends included; None is open."""

    low: datetime | None = None
    high: datetime | None = None

    def meets(self, low: datetime | None, high: datetime | None) -> bool:
        """Whether anything in [low, high] can be in the range. An unknown end meets everything."""
        return not (
            (self.low is not None and high is not None and high < self.low)
            or (self.high is not None and low is not None and low > self.high)
        )

    def within(self, other: "AgeRange") -> "AgeRange":
        """Both at once."""
        lows = [x for x in (self.low, other.low) if x is not None]
        highs = [x for x in (self.high, other.high) if x is not None]
        return AgeRange(max(lows, default=None), min(highs, default=None))


@dataclass(frozen=True)
class Scan:
    """One reference to a table in the statement, to be read at each tier that may hold its rows.

    `relation` is its name in DuckDB; `columns` pairs a column's name there with the column. `predicate` is SQL on the bare
    table, of columns and literals only, which every row that can matter satisfies; it may let others through. Each of its
    conditions is on one column, which `conditions` names beside it. `age` is the policy's column, None where it names none.
    Rows of a table that is not `spread` are all in Core.
    """

    relation: str
    table: TableName
    columns: tuple[tuple[str, ColumnFacts], ...]
    conditions: tuple[tuple[str, str], ...]
    age: str | None
    ages: AgeRange
    oid: int = 0  # of the table in Core
    spread: bool = True

    @property
    def predicate(self) -> tuple[str, ...]:
        return tuple(condition for _, condition in self.conditions)

    def of_columns(self, names: Collection[str]) -> tuple[str, ...]:
        """The conditions on columns of `names` alone."""
        return tuple(condition for column, condition in self.conditions if column in names)


@dataclass(frozen=True)
class Plan:
    """How a statement over several tiers is answered.

    `confirmation` is the statement as it was understood, every bracket and every type written out: Core's planner must find
    it to be the user's statement. `streams` is whether DuckDB reads each scan at most once. `divisions` are the (dividend's
    scale, divisor's scale) that need Postgres's own division.
    """

    duck: str
    confirmation: str
    outputs: tuple[Output, ...]
    scans: tuple[Scan, ...]
    streams: bool
    divisions: frozenset[tuple[int, int]] = field(default=frozenset())


def refuse(what: str, why: str, remedy: str) -> UsageError:
    """The error for what the fast door would answer differently from Postgres."""
    return UsageError(f"{PLACE}: {what}", why, remedy)
