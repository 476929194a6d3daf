"""A result's forms on the way out: CSV, JSON, Parquet. Values are those of the Arrow table; nothing is rounded on the way."""

import csv
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from tierkeeper.kernel.errors import Failed

if TYPE_CHECKING:
    import pyarrow as pa

_SAFE_INTEGER: Final = 2**53  # beyond it a JSON reader that knows only doubles would read another number


def render(table: "pa.Table", form: Literal["csv", "json"], out: TextIO) -> None:
    """Writes `table` to `out`: CSV with a header line (NULL is an empty field, empty text is ""), or one JSON list of objects."""
    if form == "csv":
        _csv(table, out)
    else:
        _json(table, out)


def write_parquet(table: "pa.Table", path: Path) -> None:
    """Writes `table` as a zstd Parquet file. Raises Failed where the disk does not take it."""
    import pyarrow.parquet as pq

    try:
        pq.write_table(table, path, compression="zstd")
    except OSError as error:
        raise Failed(
            str(path), f"it cannot be written ({error.strerror or error})", "Choose another path or make room"
        ) from error


def _csv(table: "pa.Table", out: TextIO) -> None:
    csv.writer(out, lineterminator="\n").writerow(table.column_names)
    for row in _rows(table):
        out.write(",".join(_field(v) for v in row) + "\n")


def _field(value: Any) -> str:
    if value is None:
        return ""
    text = _text(value)
    return '"' + text.replace('"', '""') + '"' if text == "" or any(c in text for c in ',"\r\n') else text


def _json(table: "pa.Table", out: TextIO) -> None:
    names = [json.dumps(n, ensure_ascii=False) for n in table.column_names]
    before = "["
    for row in _rows(table):
        pairs = ", ".join(f"{n}: {_json_value(v)}" for n, v in zip(names, row, strict=True))
        out.write(f"{before}\n  {{{pairs}}}")
        before = ","
    out.write("[]\n" if before == "[" else "\n]\n")


def _json_value(value: Any) -> str:
    """A number where every JSON reader reads that number, else text."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) <= _SAFE_INTEGER else f'"{value}"'
    if isinstance(value, float):
        return repr(value) if value - value == 0 else json.dumps(str(value))
    if isinstance(value, Decimal):
        text = _text(value)
        return text if len(value.as_tuple().digits) <= 15 and abs(value) <= _SAFE_INTEGER else f'"{text}"'  # noqa: PLR2004 - a double's
    return json.dumps(_text(value), ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat() if value.tzinfo else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta | float | int):
        return str(value)
    return str(value)


def _rows(table: "pa.Table") -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches():
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
