"""Values of a query's answer as text and as JSON, without losing a digit. Pure."""

import json
import math
import re
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tierkeeper.kernel.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """`text` with control characters spelled out: data must not steer the terminal that shows it."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def as_json(value: Any) -> str:  # noqa: PLR0911 - a table of types
    """One value as JSON. Numbers keep every digit; NaN and infinities are strings, as Postgres's to_json writes them."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() else json.dumps(_special(float(value)))
    if isinstance(value, float):
        return json.dumps(value if math.isfinite(value) else _special(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k), ensure_ascii=False)}: {as_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_json(v) for v in value) + "]"
    return json.dumps(as_text(value), ensure_ascii=False)


def as_text(value: Any) -> str:  # noqa: PLR0911 - a table of types
    """One value as text: instants in ISO 8601, bytes in Postgres's hex form, lists and structures as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _interval(0, value.days, value.seconds + value.microseconds / 1e6)
    if hasattr(value, "months") and hasattr(value, "nanoseconds"):
        return _interval(value.months, value.days, value.nanoseconds / 1e9)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else _special(value)
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() else _special(float(value))
    if isinstance(value, list | dict):
        return as_json(value)
    return str(value)


def plain(column: "pa.Array | pa.ChunkedArray") -> list[Any]:
    """Its values for Python; a `real` is the number with the fewest digits that means it (0.1), as Postgres prints it."""
    import pyarrow as pa

    if not pa.types.is_float32(column.type):
        return list(column.to_pylist())
    return [None if text is None else float(text) for text in column.cast(pa.string()).to_pylist()]


def records(answer: "pa.Table") -> Iterator[str]:
    """A JSON document in pieces: a list of objects, one for each row. Raises UsageError where two columns have one name."""
    names = answer.column_names
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UsageError(
            "SQL", f"two columns are named {twice!r}, and an object can hold only one of them", "Name them apart with AS"
        )
    before = "["
    for batch in answer.to_batches():
        for row in zip(*map(plain, batch.columns), strict=True):
            yield before + as_json(dict(zip(names, row, strict=True)))
            before = ",\n "
    yield "[]" if before == "[" else "]"


def _special(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _interval(months: int, days: int, seconds: float) -> str:
    """ISO 8601, as Postgres writes it under IntervalStyle iso_8601."""
    date_part = (f"{months}M" if months else "") + (f"{days}D" if days else "")
    time_part = f"T{seconds:f}".rstrip("0").rstrip(".") + "S" if seconds or not date_part else ""
    return f"P{date_part}{time_part}"
