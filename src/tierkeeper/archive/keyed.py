"""Which archived rows are wanted by their keys: values as a person writes them, compared with those that a segment carries.

It reads no segment and knows no server; a value that its column's type does not have is refused before one is read.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from tierkeeper.archive.lossless import Carried
from tierkeeper.archive.model import Contents
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.units import parse_instant

PLACE: Final = "--key"
_AS_JSON: Final = "Write the value, or for a key of several columns a JSON array in their order, such as '[\"LHR\", 7]'"
_NUMERIC_DIGITS: Final = 131_072  # before the point; Postgres's numeric has no more
_INTEGERS: Final = ("int2", "int4", "int8")


@dataclass(frozen=True)
class Keys:
    """The keys of the wanted rows, each as the texts of its columns in their order."""

    wanted: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Keys":
        """Of a value each, or of a JSON array of values. Raises UsageError."""
        return cls(tuple(_values(text) for text in texts))

    def within(self, contents: Contents) -> "Wanted":
        """They as rows of `contents` have them. Raises UsageError where these have no such key."""
        names = contents.shape.key
        carried = {c.column.name: c for c in contents.carried}
        if not names:
            raise UsageError(PLACE, f"rows of {contents.shape.name} have no key", "Name a range of ages instead")
        for values in self.wanted:
            if len(values) != len(names):
                cause = f"{len(values)} values are given, and the key of {contents.shape.name} is ({', '.join(names)})"
                raise UsageError(PLACE, cause, _AS_JSON)
        keys = [tuple(_scalar(carried[n], v) for n, v in zip(names, values, strict=True)) for values in self.wanted]
        return Wanted(tuple(carried[n] for n in names), tuple(keys))


@dataclass(frozen=True)
class Wanted:
    """Keys as the columns carry them."""

    columns: tuple[Carried, ...]
    keys: tuple[tuple[pa.Scalar, ...], ...]

    def among(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of `batch` that have one of them."""
        found = None
        for key in self.keys:
            same = None
            for carried, value in zip(self.columns, key, strict=True):
                equal = pc.equal(_plain(batch.column(carried.column.name), carried.column.base), value)
                same = equal if same is None else pc.and_(same, equal)
            found = same if found is None else pc.or_(found, same)
        return batch.filter(found) if found is not None else batch.slice(0, 0)

    def may_lie_between(self, bounds: tuple[str, str] | None) -> bool:
        """Whether one can be in a segment whose first key column has these least and greatest values."""
        base = self.columns[0].column.base
        if bounds is None or base not in (*_INTEGERS, "uuid"):
            return True
        value: Callable[[Any], Any] = int if base in _INTEGERS else str
        return any(value(bounds[0]) <= value(key[0].as_py()) <= value(bounds[1]) for key in self.keys)


def _plain(column: pa.Array, base: str) -> pa.Array:
    """Without what a value of the type may have more of, and be equal still."""
    if base == "numeric":
        return pc.utf8_rtrim(pc.replace_substring_regex(column, r"(\.\d*?)0+$", r"\1"), ".")
    return pc.utf8_rtrim(column, " ") if base == "bpchar" else column


def _values(text: str) -> tuple[str, ...]:
    if not text.startswith("["):
        return (text,)
    try:
        values = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except ValueError:
        raise UsageError(PLACE, f"{text[:80]!r} is no JSON array", _AS_JSON) from None
    if any(value is None or isinstance(value, list | dict) for value in values):
        raise UsageError(PLACE, f"{text[:80]!r} has something in it that is no value of a key", _AS_JSON)
    return tuple(str(value).lower() if isinstance(value, bool) else value for value in values)


def _scalar(carried: Carried, text: str) -> pa.Scalar:
    """The value as the column carries it. Raises UsageError for one that its type does not have."""
    column = carried.column
    try:
        if column.base == "date":
            day = date.fromisoformat(text)
            return pa.scalar(day, carried.type) if carried.native else pa.scalar(day.isoformat())
        if column.base in _TIMES:
            return _TIMES[column.base](text, carried)
        if column.base == "uuid":
            return pa.scalar(str(UUID(text)), carried.type)
        if column.base == "numeric":
            return _number(text)
        if column.base == "bpchar":
            return pa.scalar(text.rstrip(" "))
        return pa.scalar(text).cast(carried.type)
    except (ValueError, ArithmeticError, pa.ArrowException):
        cause = f"{text[:80]!r} is no value of its column {column.name!r}, which is of type {column.type}"
        raise UsageError(PLACE, cause, _AS_JSON) from None


def _number(text: str) -> pa.Scalar:
    """As Postgres writes it, without zeros at its end: 1.50 and 15e-1 are 1.5."""
    number = Decimal(text)
    if number.is_finite() and abs(number.adjusted()) > _NUMERIC_DIGITS:
        raise ValueError(text)
    if not number:
        return pa.scalar("0")
    written = f"{number:f}" if number.is_finite() else str(number)
    return pa.scalar(written.rstrip("0").rstrip(".") if "." in written else written)


def _instant(text: str, carried: Carried) -> pa.Scalar:
    """Without a zone it is UTC; as text it is what Postgres writes under the settings that the archive pins."""
    instant = parse_instant(text, PLACE)
    if carried.native:
        return pa.scalar(
            instant if pa.types.is_timestamp(carried.type) and carried.type.tz else instant.replace(tzinfo=None), carried.type
        )
    written = instant.replace(tzinfo=None).isoformat(" ")
    shown = written.rstrip("0") if "." in written else written
    return pa.scalar(shown + ("+00" if carried.column.base == "timestamptz" else ""))


_TIMES: Final[Mapping[str, Callable[[str, Carried], pa.Scalar]]] = {"timestamp": _instant, "timestamptz": _instant}
