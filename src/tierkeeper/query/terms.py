"""Terms: one expression in DuckDB's words and in Postgres's, with its type; and how one type becomes another.

Pure. Every conversion here gives in DuckDB what Postgres gives, or an error; one that would not is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from tierkeeper.kernel.errors import UsageError
from tierkeeper.query.model import MAX_DIGITS, Instant, PgType, refuse

INT_DIGITS: Final = {"int2": 5, "int4": 10, "int8": 19}
_INT_BITS: Final = {"int2": 16, "int4": 32, "int8": 64}
_LADDER: Final = ("int2", "int4", "int8", "numeric", "float4", "float8")
_DOUBLE_DIGITS: Final = 15  # a decimal of so many digits divides exactly into the nearest double
BOOL: Final = PgType("bool")
INT4: Final = PgType("int4")
INT8: Final = PgType("int8")
FLOAT8: Final = PgType("float8")
UNKNOWN: Final = PgType("unknown")


@dataclass(frozen=True)
class Use:
    """A column of one reference to a table: scan `relation`'s column `name`."""

    relation: str
    name: str


@dataclass(frozen=True)
class Term:
    """An expression: `duck` to run, `postgres` to confirm.

    `column` is set for a bare column; `constant` is a constant's SQL in Postgres, type written out; `text` an untyped
    literal's text (None: NULL) and `instant` a temporal constant's value.
    """

    duck: str
    postgres: str
    type: PgType
    column: Use | None = None
    constant: str | None = None
    text: str | None = None
    instant: Instant | None = None
    name: str | None = None  # what Postgres calls it as an output column


def quote(text: str) -> str:
    """`text` as a literal that DuckDB and Postgres read alike."""
    if "\x00" in text:
        raise refuse("a literal", "it holds a NUL, which Postgres cannot", "Take it out")
    return "'" + text.replace("'", "''") + "'"


def ident(name: str) -> str:
    """`name` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def typed(term: Term) -> Term:
    """`term` with its type written out for Postgres, where a cast to the type that it has changes nothing."""
    return replace(term, postgres=f"({term.postgres})::{term.type.postgres}")


def numeric(digits: int, scale: int, *, exact: bool = True) -> PgType:
    """A numeric; more digits than DuckDB's widest are left to its overflow check."""
    if scale > MAX_DIGITS:
        raise refuse(
            "arithmetic", f"the result has {scale} decimals, the fast door holds {MAX_DIGITS}", "Round or cast the operands first"
        )
    return PgType("numeric", min(max(digits, scale, 1), MAX_DIGITS), scale, exact)


def as_numeric(kind: PgType) -> PgType:
    """The numeric that holds every value of an integer type; a numeric stays as it is."""
    return numeric(INT_DIGITS[kind.kind], 0) if kind.is_int else kind


def merged(left: PgType, right: PgType) -> PgType:
    """The numeric that holds the values of both."""
    a, b = as_numeric(left), as_numeric(right)
    scale = max(a.scale, b.scale)
    return numeric(max(a.digits - a.scale, b.digits - b.scale) + scale, scale, exact=a.exact and b.exact and a.scale == b.scale)


def text_order(terms: Sequence[PgType]) -> PgType:
    """The text type of several together: COLLATE "C" wins, then any collation that is not by bytes."""
    orders = [t.order for t in terms if t.kind == "text"]
    order = next((o for o in ("explicit", "other") if o in orders), "bytes" if orders else "other")
    return PgType("text", order=order)  # type: ignore[arg-type]


def common(types: Sequence[PgType], what: str) -> PgType:
    """The type that CASE, COALESCE, UNION and comparisons bring their operands to. Raises UsageError where there is none."""
    known = [t for t in types if t.kind != "unknown"]
    if any(t.kind == "opaque" for t in known):
        raise mismatch(what, known)
    kinds = {t.kind for t in known}
    if not known or kinds == {"text"}:
        return text_order(known)
    if len(kinds) == 1 and kinds != {"numeric"}:
        return known[0]
    if all(t.is_number for t in known):
        if "float8" in kinds and "float4" not in kinds:
            return FLOAT8
        if not kinds & {"float4", "float8"}:
            if "numeric" not in kinds:
                return PgType(max(kinds, key=_LADDER.index))
            result = known[0]
            for kind in known[1:]:
                result = merged(result, kind)
            return as_numeric(result)
    if all(t.is_temporal for t in known):
        return PgType("timestamptz" if "timestamptz" in kinds else "timestamp")
    raise refuse(what, f"it brings together {' and '.join(sorted(kinds))}", "Cast one of them to the other's type")


def ladder(left: PgType, right: PgType) -> PgType:
    """The type in which Postgres compares or combines two different kinds of number."""
    if left.is_int and right.is_int:
        return PgType(max(left.kind, right.kind, key=_LADDER.index))
    if "float8" in (left.kind, right.kind) or "float4" in (left.kind, right.kind):
        return left if left.kind == right.kind else FLOAT8
    return merged(left, right)


def coerce(term: Term, to: PgType) -> Term:
    """`term` as a `to`, as Postgres converts implicitly. Its text for Postgres stays: there it happens by itself.

    Raises UsageError for an opaque value and for what is no text: Postgres may know another function of that name for it.
    """
    if term.type.kind == "unknown":
        return _literal(term, to)
    if term.type.kind != to.kind and ("opaque" in (term.type.kind, to.kind) or to.kind == "text"):
        raise mismatch(term.name or term.postgres, [term.type])
    if term.type == to or {term.type.kind, to.kind} == {"timestamp", "timestamptz"} or term.type.kind == to.kind == "text":
        return replace(term, type=to)
    return replace(term, duck=convert(term, to), type=to)


def as_text(term: Term, what: str) -> Term:
    """An operand of what DuckDB knows of text. Raises UsageError for any other: the length of a bytea is its bytes, of a tsvector
    its words, and character(n) has blanks that count for nothing.
    """
    if term.type.kind not in ("text", "unknown"):
        raise mismatch(what, [term.type])
    return coerce(term, PgType("text")) if term.type.kind == "unknown" else term


def convert(term: Term, to: PgType) -> str:
    """DuckDB's expression for a conversion that both do alike."""
    if (
        to.kind in ("float8", "float4")
        and term.type.kind == "numeric"
        and (term.type.digits > _DOUBLE_DIGITS or to.kind == "float4")
    ):
        return f"CAST(CAST({term.duck} AS VARCHAR) AS {to.duck})"
    return f"CAST({term.duck} AS {to.duck})"


def _literal(term: Term, to: PgType) -> Term:
    """An untyped literal as a `to`, read as Postgres reads it; forms that only Postgres knows are refused."""
    if to.kind == "unknown":
        return term
    if to.kind in ("opaque", "interval"):
        raise mismatch(term.postgres, [to])
    if term.text is None:
        sql = f"NULL::{to.postgres}"
        return replace(term, duck=f"CAST(NULL AS {to.duck})", postgres=sql, constant=sql, type=to)
    try:
        value, instant = _read(term.text, to)
    except (ValueError, KeyError):
        raise refuse(
            quote(term.text[:60]),
            f"the fast door does not read this as {to.kind}",
            _REMEDIES.get(to.kind, "Write it in plain digits"),
        ) from None
    if to.kind == "numeric":
        digits = Decimal(value)
        scale = max(-int(digits.as_tuple().exponent), 0)
        to = numeric(max(len(digits.as_tuple().digits), scale), scale)
    sql = f"{quote(term.text)}::{to.postgres}"
    return replace(term, duck=f"CAST({quote(value)} AS {to.duck})", postgres=sql, constant=sql, type=to, instant=instant)


_REMEDIES: Final = {
    "date": "Write it as '2013-10-01'",
    "timestamp": "Write it as '2013-10-01 12:00:00'",
    "timestamptz": "Write it as '2013-10-01 12:00:00+00'",
    "bool": "Write true or false",
    "uuid": "Write its 36 characters",
}
_BOOLEANS: Final = {"t": "true", "true": "true", "f": "false", "false": "false"}
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(Z|[+-]\d\d(?::?\d\d)?)?)?")


def _read(text: str, to: PgType) -> tuple[str, Instant | None]:
    """Text as DuckDB reads it, and the instant it names. Raises ValueError for a form that is not plain."""
    plain = text.strip(" ")
    if to.is_int:
        if not re.fullmatch(r"[+-]?[0-9]+", plain) or not -(2 ** (_INT_BITS[to.kind] - 1)) <= int(plain) < 2 ** (
            _INT_BITS[to.kind] - 1
        ):
            raise ValueError
        return plain, None
    if to.kind in ("float4", "float8"):
        if not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?|infinity|inf)|nan", plain, re.IGNORECASE):
            raise ValueError
        return plain, None
    if to.kind == "numeric":
        if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", plain):
            raise ValueError
        return plain, None
    if to.kind == "bool":
        return _BOOLEANS[plain.lower()], None
    if to.kind == "uuid" and not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", plain):
        raise ValueError
    return instant_text(plain, to) if to.is_temporal else (text, None)


def instant_text(text: str, to: PgType) -> tuple[str, Instant]:
    """An ISO date or time as a `to`: its text in UTC, and the value. Raises ValueError for any other form."""
    match = _INSTANT.fullmatch(text)
    if match is None or (to.kind != "timestamptz" and match[1]):
        raise ValueError
    value = datetime.fromisoformat(text)
    if to.kind == "date":
        return value.date().isoformat(), value.date()
    value = (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    return value.replace(tzinfo=None).isoformat(" "), value


def as_utc(value: Instant) -> datetime:
    """A date or time as the UTC instant that it starts at."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime(value.year, value.month, value.day, tzinfo=UTC)


def needs_byte_order(kind: PgType, what: str) -> None:
    """Refuses to order text by a collation that DuckDB does not have."""
    if kind.kind == "text" and kind.order == "other":
        raise refuse(
            what, "it orders text by the database's collation, which differs in DuckDB", 'Write COLLATE "C" behind the text'
        )


def mismatch(what: str, types: Sequence[PgType]) -> UsageError:
    """Operands that Postgres may take and the fast door does not."""
    kinds = ", ".join(str(t) for t in types)
    return refuse(what, f"the fast door does not know it for {kinds}", "Cast the operands, or ask each tier by itself")
