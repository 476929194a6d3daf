"""What the archive knows of a segment, as pure values: the catalog's row, the signed manifest, the file's own description."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import rfc8785
from pydantic import BaseModel, ConfigDict, ValidationError

from tierkeeper.archive.lossless import Carried, carry
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import Column, TableName, TableShape, UsedType

SegmentState = Literal["copied", "sealed", "undone", "unsure", "removed"]

_FILE_FORMAT: Final = "tierkeeper segment"
TEXTS_VERSION: Final = 1
BYTES_VERSION: Final = 2  # of a file that has uuids as their bytes


@dataclass(frozen=True)
class Segment:
    """A row of `tierkeeper.segment`. `manifest`, `previous`: SHA-256s of manifest objects; `bytes`: of the ciphertext."""

    id: UUID
    batch: UUID
    source: str
    table: TableName
    age: str
    state: SegmentState
    position: int
    previous: str | None
    manifest: str
    key_object: str
    sha256: str
    bytes: int
    rows: int
    min_age: datetime | None
    max_age: datetime | None
    key_id: str
    schema_hash: str
    created_at: datetime
    commit_object: str | None
    removal_object: str | None
    verified_at: datetime | None

    @property
    def object_key(self) -> str:
        return f"segment/{self.sha256}"

    @property
    def manifest_key(self) -> str:
        return f"manifest/{self.manifest}"


class Document(BaseModel):
    """Base of what the store holds sealed: frozen, closed, with a format and a version of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def body(self) -> dict[str, Any]:
        """As JSON values."""
        return self.model_dump(mode="json")


class ColumnSummary(Document):
    """One column of a segment; what says values lies in the manifest's sealed `summary`."""

    name: str
    type: str
    native: bool
    nulls: int


class Manifest(Document):
    """Everything that must hold of a segment, signed. `previous` chains it to the manifest before it: none can be taken out."""

    format: Literal["tierkeeper manifest"] = "tierkeeper manifest"
    version: Literal[1] = 1
    segment: UUID
    position: int
    previous: str | None
    batch: UUID
    source: str
    schema_name: str
    table_name: str
    age: str
    cutoff: datetime
    min_age: datetime | None
    max_age: datetime | None
    rows: int
    columns: list[ColumnSummary]
    summary: str
    schema_hash: str
    digest: str
    sha256: str
    bytes: int
    key_id: str
    created_at: datetime


class WrappedKey(Document):
    """A segment's data key. It lies apart from the manifest: see docs/adr/0003-wrapped-keys-are-objects.md."""

    format: Literal["tierkeeper wrapped key"] = "tierkeeper wrapped key"
    version: Literal[1] = 1
    segment: UUID
    data_key: str
    recipient: str  # id of the operational key that it is wrapped to
    number: int = 1  # how often it was wrapped: of two, the later one counts


@dataclass(frozen=True)
class Wrapping:
    """A key object, and the operational key that it is wrapped to."""

    object: str
    recipient: str


class Removal(Document):
    """Says that the segment was removed on purpose: it counts no more, and its objects are not missed."""

    format: Literal["tierkeeper removal"] = "tierkeeper removal"
    version: Literal[1] = 1
    segment: UUID
    manifest: str
    reason: str
    removed_at: datetime


class Replacement(Document):
    """Says that a segment counts in the place of another, whose rows it has but for `erased` of them."""

    format: Literal["tierkeeper replacement"] = "tierkeeper replacement"
    version: Literal[1] = 1
    segment: UUID
    manifest: str
    replaces: str
    erased: int
    replaced_at: datetime


class Thawing(Document):
    """Says that the segment's rows went back to the tier above, as `batch`: from there on they count there, and not here."""

    format: Literal["tierkeeper thaw"] = "tierkeeper thaw"
    version: Literal[1] = 1
    segment: UUID
    manifest: str
    batch: UUID
    held_until: datetime


class Commit(Document):
    """Says that the segment's rows have left the tier above: from here on they count in the archive."""

    format: Literal["tierkeeper commit"] = "tierkeeper commit"
    version: Literal[1, 2] = 1
    segment: UUID
    batch: UUID
    manifest: str
    bundle: UUID | None = None  # of the segments that foreign keys tie together: they go back together; version 2 has it

    def body(self) -> dict[str, Any]:
        return {name: value for name, value in super().body().items() if name != "bundle" or value is not None}


@dataclass(frozen=True)
class Contents:
    """What a segment's file says of itself, inside its encryption: enough to restore it with nothing else at hand."""

    segment: UUID
    shape: TableShape
    age: str
    age_is_native: bool
    settings: dict[str, str]

    @cached_property
    def carried(self) -> tuple[Carried, ...]:
        return carry(self.shape, self.age, age_is_native=self.age_is_native)

    @property
    def schema_hash(self) -> str:
        """The same for two segments whose rows fit into one table.

        Manifests keep it: what came into it later stays out of it where a file does not say it.
        """
        columns = [[c.column.name, c.column.type, c.column.collation, c.native] for c in self.carried]
        types = [[t.name.schema, t.name.name, t.meaning] for t in self.shape.types]
        return hashlib.sha256(rfc8785.dumps([columns, list(self.shape.key), *([types] if types else [])])).hexdigest()

    def to_json(self, version: int = TEXTS_VERSION) -> bytes:
        """`version`: of how the file has its columns. Whoever does not know it would take them for damaged."""
        shape: dict[str, str | int | list[str]] = {
            "schema": self.shape.name.schema,
            "table": self.shape.name.name,
            "key": list(self.shape.key),
            "oid": self.shape.oid,
        }
        return rfc8785.dumps(
            {
                "format": _FILE_FORMAT,
                "version": version,
                "segment": str(self.segment),
                "age": self.age,
                "age_is_native": self.age_is_native,
                "settings": self.settings,
                **shape,
                "ddl": list(self.shape.ddl),
                "types": [asdict(t) for t in self.shape.types],
                "columns": [asdict(c) for c in self.shape.columns],
            }
        )

    @classmethod
    def from_json(cls, data: bytes, place: str) -> "Contents":
        """Raises Failed naming `place` if `data` is no description that this version reads."""
        try:
            d = json.loads(data)
            if d["format"] != _FILE_FORMAT or d["version"] not in (TEXTS_VERSION, BYTES_VERSION):
                raise Failed(
                    place, f"it has format {d['format']!r}, version {d['version']!r}", "Use a tierkeeper that reads this version"
                )
            columns = tuple(Column(**c) for c in d["columns"])
            shape = TableShape(
                TableName(d["schema"], d["table"]),
                columns,
                tuple(d["key"]),
                ddl=tuple(d["ddl"]),
                oid=d.get("oid", 0),
                types=tuple(UsedType(t["column"], TableName(**t["name"]), t["meaning"]) for t in d.get("types", ())),
            )
            return cls(UUID(d["segment"]), shape, d["age"], d["age_is_native"], d["settings"])
        except (KeyError, TypeError, ValueError) as error:
            raise Failed(place, "its description cannot be read", "Run `tierkeeper archive verify`") from error


D = TypeVar("D", bound=Document)


def parse_document(kind: type[D], body: dict[str, Any], place: str) -> D:
    """`body` as a document. Raises Failed naming `place` for another kind or version."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise Failed(
            place, f"it is no {kind.__name__.lower()} of a version that this tierkeeper reads", "Use a newer tierkeeper"
        ) from error
