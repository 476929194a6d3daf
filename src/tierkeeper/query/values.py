"""Values on their way: Postgres's text to Arrow, archive batches to what a scan of Postgres gives, Postgres's division.

Nothing here reads or writes anything; a value that its Arrow type cannot hold is an error or stays text, never another value.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.history import Chosen
from tierkeeper.postgres.retyped import retyped
from tierkeeper.query.model import MAX_DIGITS, QUOTIENT_SCALE, ColumnFacts, Output, Scan

_ARROW: Final = {
    "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(), "float4": pa.float32(), "float8": pa.float64(),
    "bool": pa.bool_(), "date": pa.date32(), "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us"),
}  # fmt: skip
_SIGNIFICANT_DIGITS: Final = 16  # Postgres's NUMERIC_MIN_SIG_DIGITS
_WIDE: Final = Context(prec=120)


def wire_type(column: ColumnFacts) -> pa.DataType:
    """The Arrow type in which a scan gives a column; numeric, uuid and text travel as text."""
    return _ARROW.get(column.type.kind, pa.string())


def wire_schema(scan: Scan) -> pa.Schema:
    """What every tier gives for `scan`; one constant column where the statement needs none."""
    return pa.schema([(name, wire_type(c)) for name, c in scan.columns] or [("none", pa.bool_())])


def from_archive(batches: Iterable[pa.RecordBatch], scan: Scan) -> Iterator[pa.RecordBatch]:
    """Archive batches in the wire schema. Raises Failed naming a column whose value its type does not hold."""
    schema = wire_schema(scan)
    for batch in batches:
        if not scan.columns:
            yield pa.record_batch([pa.nulls(batch.num_rows, pa.bool_())], schema=schema)
            continue
        arrays = [_wired(batch.column(column.name), column, scan) for _, column in scan.columns]
        yield pa.record_batch(arrays, schema=schema)


def converted(batch: pa.RecordBatch, wanted: Sequence[str], chosen: Sequence[Chosen]) -> pa.RecordBatch:
    """A segment's rows under today's names; NULL where the segment is older than the column."""
    arrays = [
        retyped(batch.column(c.column), c.how) if c.column is not None else pa.nulls(batch.num_rows, pa.string()) for c in chosen
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(wanted))


def _wired(array: pa.Array, column: ColumnFacts, scan: Scan) -> pa.Array:
    target = wire_type(column)
    try:
        if pa.types.is_timestamp(target) and pa.types.is_timestamp(array.type):
            return array.cast(pa.timestamp("us", array.type.tz)).cast(target)
        if pa.types.is_temporal(target) and not pa.types.is_temporal(array.type):
            array = pc.replace_substring_regex(array.cast(pa.string()), pattern=r"\+00$", replacement="")
        return array.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Failed(
            f"{scan.table}.{column.name}",
            f"the archive holds a value outside of the years 1 to 9999 or of its type ({error})",
            "Leave the column out, or narrow the ages to segments without such a value",
        ) from error


def finished(table: pa.Table, outputs: Sequence[Output]) -> pa.Table:
    """DuckDB's result with Postgres's names, and with the zone that timestamptz has."""
    columns = []
    for column, output in zip(table.columns, outputs, strict=True):
        made = column.cast(pa.timestamp("us", "UTC")) if output.type.kind == "timestamptz" else column
        columns.append(made.cast(pa.string()) if output.type.kind in ("text", "uuid", "opaque") else made)
    return pa.Table.from_arrays(columns, names=[o.name for o in outputs])


def column_from_text(values: Sequence[str | None], kind: str) -> pa.Array:
    """A column of Postgres's text as `kind`'s Arrow type; as text where a value (infinity, NaN, many digits) does not fit."""
    try:
        if kind == "numeric":
            return _numerics(values)
        if kind == "bool":
            return pa.array([None if v is None else v == "t" for v in values], pa.bool_())
        if kind in ("float4", "float8"):
            return pa.array([None if v is None else float(v) for v in values], _ARROW[kind])
        texts = pa.array(values, pa.string())
        if kind == "timestamptz":
            return (
                pc.replace_substring_regex(texts, pattern=r"\+00$", replacement="")
                .cast(pa.timestamp("us"))
                .cast(pa.timestamp("us", "UTC"))
            )
        return texts.cast(_ARROW.get(kind, pa.string()))
    except (pa.ArrowInvalid, ValueError, ArithmeticError):
        return pa.array(values, pa.string())


def _numerics(values: Sequence[str | None]) -> pa.Array:
    numbers = [None if v is None else Decimal(v) for v in values]
    parts = [n.as_tuple() for n in numbers if n is not None]
    scale = max((-int(p.exponent) for p in parts), default=0)
    whole = max((len(p.digits) + int(p.exponent) for p in parts), default=1)
    scale = max(scale, 0)
    if scale + max(whole, 1) > MAX_DIGITS:
        raise ValueError
    return pa.array(numbers, pa.decimal128(MAX_DIGITS, scale))


def divider(dividend_scale: int, divisor_scale: int) -> Callable[[Decimal, Decimal], Decimal]:
    """Postgres's division of numerics: at least 16 significant digits, at least the operands' decimals, halves away from zero."""

    def divide(dividend: Decimal, divisor: Decimal) -> Decimal:
        if divisor == 0:
            raise ZeroDivisionError("division by zero")
        with localcontext(_WIDE):
            places = max(_SIGNIFICANT_DIGITS - 4 * _quotient_weight(dividend, divisor), dividend_scale, divisor_scale, 0)
            quotient = (dividend / divisor).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
            held = quotient.quantize(Decimal(1).scaleb(-QUOTIENT_SCALE), ROUND_HALF_UP)
            if held != quotient:
                raise OverflowError(f"a quotient has more than {QUOTIENT_SCALE} decimals: cast to float8")
            return held

    return divide


def _quotient_weight(dividend: Decimal, divisor: Decimal) -> int:
    """The power of 10,000 that Postgres expects a quotient to begin with."""
    (weight, first), (other_weight, other_first) = _leading(dividend), _leading(divisor)
    return weight - other_weight - (1 if first <= other_first else 0)


def _leading(value: Decimal) -> tuple[int, int]:
    """A numeric's first digit in base 10,000 and its weight; (0, 0) for zero."""
    if value == 0:
        return 0, 0
    weight = value.adjusted() // 4
    return weight, int(abs(value).scaleb(-4 * weight))
