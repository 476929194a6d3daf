"""Names and shapes of tables, as pure values."""

import re
from dataclasses import dataclass, field

from tierkeeper.kernel.errors import UsageError

_NAME_BYTES = 63  # Postgres cuts longer names silently, so that two of them may be the same
_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|((?:[A-Za-z_]|[^\x00-\x7f])(?:[\w$]|[^\x00-\x7f])*))\s*')


@dataclass(frozen=True, order=True)
class TableName:
    """A table as SQL names it: unquoted parts fold to lower case, the schema is `public` if left out."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str, place: str) -> "TableName":
        """Reads `flights`, `public.flights`, `"odd schema"."my table"`. Raises UsageError naming `place`."""
        parts, at = list[str](), 0
        while (match := _PART.match(text, at)) is not None:
            parts.append(match[1].replace('""', '"') if match[1] is not None else match[2].lower())
            at = match.end()
            if not text.startswith(".", at) or at + 1 == len(text):
                break
            at += 1
        bad = next((p for p in parts if "\x00" in p or len(p.encode()) > _NAME_BYTES), None)
        if bad is not None:
            raise UsageError(place, f"the name {bad[:20]!r}… is longer than {_NAME_BYTES} bytes or holds a NUL", "Correct it")
        if at != len(text) or len(parts) not in (1, 2):
            raise UsageError(
                place,
                f"{text!r} is not a table's name",
                'Write it as SQL does: schema.table, or "Odd Schema"."My Table"',
            )
        return cls(*parts) if len(parts) == 2 else cls("public", parts[0])  # noqa: PLR2004

    def __str__(self) -> str:
        return ".".join(
            p if re.fullmatch(r"[a-z_][a-z0-9_$]*", p) else '"' + p.replace('"', '""') + '"' for p in (self.schema, self.name)
        )


@dataclass(frozen=True)
class Column:
    """One column as the catalog describes it.

    `type` is `format_type` with its modifier ("numeric(10,2)"). `base` is the type under all domains as `pg_type` names it,
    qualified where it lies outside of pg_catalog; `kind` its `typtype` before domains are followed (b base, d domain, e enum,
    c composite, r range, m multirange); `category` its `typcategory`; `element` the base type of an array's elements, else None.
    """

    name: str
    type: str
    base: str
    kind: str = "b"
    category: str = ""
    element: str | None = None
    element_kind: str | None = None
    not_null: bool = False
    collation: str | None = None  # as `pg_collation` names it, quoted and qualified; None for the type's default
    generated: bool = False
    number: int = field(
        default=0, compare=False
    )  # its `attnum`, which a rename keeps and no other column ever gets; 0: not known

    @property
    def written_as(self) -> str:
        """The type whose text form its values keep; empty: their own. xml's output leaves out a declaration (`<?xml …?>`)."""
        return "pg_catalog.text" if self.base == "xml" else "pg_catalog.text[]" if self.element == "xml" else ""


@dataclass(frozen=True)
class UsedCollation:
    """A collation that the values of `column` have, also inside a type; `is_icu` says who sorts, `is_own` that a user made it."""

    column: str
    name: TableName
    is_icu: bool
    is_own: bool


@dataclass(frozen=True)
class UsedType:
    """A type that a user made and values of `column` are of, however deep; `meaning` says what its values are."""

    column: str
    name: TableName
    meaning: str


@dataclass(frozen=True)
class Part:
    """A table that holds rows of another: a partition, one that inherits from it (with `more` columns), or the table itself."""

    name: TableName
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableShape:
    """What the mover must know of a table: its columns in order and its key.

    `ddl` recreates it elsewhere (types first). `as_text` are the columns whose binary form means something else on another
    server, or that have none. `key_operators` are the key's (equal, greater), one pair a column, where an extension made some of
    them; empty where Postgres's own serve. `is_tree`: rows of it lie in other tables, partitions or what inherits from it.
    """

    name: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    delete_triggers: tuple[str, ...] = ()
    ddl: tuple[str, ...] = field(default=(), compare=False)
    as_text: frozenset[str] = field(default=frozenset(), compare=False)
    key_operators: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    oid: int = field(default=0, compare=False)  # tells this table from a later one of the same name; 0: not known
    is_tree: bool = field(default=False, compare=False)
    intervals: frozenset[str] = field(default=frozenset(), compare=False)  # columns with an interval in them, however deep
    collations: tuple[UsedCollation, ...] = field(default=(), compare=False)  # those that not every server has
    types: tuple[UsedType, ...] = field(default=(), compare=False)
    server_version: int = field(default=0, compare=False)  # as libpq has it, of the server that it was read from
    is_partitioned: bool = field(default=False, compare=False)

    @property
    def has_heirs(self) -> bool:
        """Whether tables inherit from it, whose rows its keys and foreign keys do not bind."""
        return self.is_tree and not self.is_partitioned

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True)
class FollowedColumn:
    """A column of Core's table as Main followed it last; `former` are names that it had before, there and in older segments."""

    number: int
    name: str
    type: str
    former: tuple[str, ...] = ()


@dataclass(frozen=True)
class Followed:
    """What Core's table looked like when Main was last brought in step with it: `relation` is its object id there."""

    relation: int
    columns: tuple[FollowedColumn, ...]

    def column(self, name: str) -> FollowedColumn | None:
        return next((c for c in self.columns if c.name == name), None)
