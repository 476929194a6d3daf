"""What setup looks at and what it makes of it, as values. Pure: no driver, no clock, no environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.results import SetupStep
from tierkeeper.kernel.tables import Followed, TableName, TableShape
from tierkeeper.postgres.ddl import SchemaObject


@dataclass(frozen=True)
class OwnSchema:
    """What a tier has of the schema `tierkeeper`; `functions` maps a name to its source.

    `refuses_in` is the database, quoted, in which this role may not make the schema; None where it may.
    `refuses_temp_in` is likewise the one in which it may not make temporary tables. `queue` is the version of the queue of jobs,
    where `has_queue`, None if it does not say.
    """

    there: bool
    relations: frozenset[str]
    functions: Mapping[str, str]
    roles: frozenset[str]
    refuses_in: str | None = None
    refuses_temp_in: str | None = None
    has_queue: bool = False
    queue: str | None = None


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key as it stands on the referencing table; `full` is MATCH FULL."""

    name: str
    parent: TableName
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    full: bool


@dataclass(frozen=True)
class SourceTable:
    """A table where its rows come from, with what it needs elsewhere; the last of `objects` is the table.

    `present_values` are the values, as text, that rows older than a column have in it since it was added.
    """

    shape: TableShape
    objects: tuple[SchemaObject, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()
    present_values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DestinationTable:
    """What a destination has already of one table; `present` holds (kind, schema, name) of what the table needs.

    `index_leads` are the columns that a whole B-tree index begins with. `meanings` says what its types are that bear the names of
    needed ones; `available` are the extensions that can be made there, `collations` Postgres's own there (None: nobody asked).
    `parts` are the tables that hold its rows. `room_bytes` is what its tier's quota leaves (None: nobody asked). `checks` are a
    domain's constraints by name, `in_flight` the table's batches that a reader or undo may still look for there, `followed` is
    what Core's table was like last, `owner` another role's name where this one may not alter the table.
    """

    shape: TableShape | None
    present: frozenset[tuple[str, str, str]] = frozenset()
    labels: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    index_leads: frozenset[str] = frozenset()
    guards: frozenset[tuple[TableName, str]] = frozenset()
    parts: tuple[TableName, ...] = ()
    foreign_keys: frozenset[str] = frozenset()
    meanings: Mapping[TableName, str] = field(default_factory=dict)
    available: frozenset[str] | None = None
    collations: frozenset[str] | None = None
    checks: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    size_bytes: int = 0
    room_bytes: int | None = None
    in_flight: int = 0
    followed: Followed | None = None
    owner: str | None = None


@dataclass(frozen=True)
class SetupPlan:
    """Everything that is missing, in the order of its making. An empty plan means that nothing is.

    `waiting` are the tables for which nothing is done, each with its reason; they do not keep the others.
    """

    steps: tuple[SetupStep, ...]
    notes: tuple[str, ...] = ()
    waiting: Mapping[TableName, TierkeeperError] = field(default_factory=dict)
