"""How a row travels through the archive without losing a bit: which columns stay native, which go as Postgres's own text.

Pure: it decides from a table's shape alone and touches no server and no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tierkeeper.kernel.tables import Column, TableShape

if TYPE_CHECKING:
    import pyarrow as pa


@cache
def _natives() -> "dict[str, pa.DataType]":
    """Of every column; Arrow is loaded by who needs a type, and not by who reads the catalog."""
    import pyarrow as pa

    return {
        "int2": pa.int16(),
        "int4": pa.int32(),
        "int8": pa.int64(),
        "float4": pa.float32(),
        "float8": pa.float64(),
        "bool": pa.bool_(),
        "text": pa.string(),
        "varchar": pa.string(),
    }


@cache
def _native_ages() -> "dict[str, pa.DataType]":
    """Of an age whose values are all within Arrow's years."""
    import pyarrow as pa

    return {"date": pa.date32(), "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC")}


@dataclass(frozen=True)
class Carried:
    """One column on its way. `expression` is SQL at the source; its value has Arrow type `type`; `native` is False for text."""

    column: Column
    type: "pa.DataType"
    native: bool
    expression: str

    @property
    def delta(self) -> bool:
        """Whether differences between neighbours are small numbers: sorted keys and times are stored as such."""
        import pyarrow as pa

        return bool(pa.types.is_integer(self.type) or pa.types.is_temporal(self.type))


def carry(shape: TableShape, age: str, *, age_is_native: bool) -> tuple[Carried, ...]:
    """Every column of `shape`, in order. Times other than the age may be infinite or beyond Arrow's years: they go as text."""
    import pyarrow as pa

    natives = [_native_type(c, age, age_is_native=age_is_native) for c in shape.columns]
    return tuple(
        Carried(c, native or pa.string(), native is not None, _expression(c, native=native is not None))
        for c, native in zip(shape.columns, natives, strict=True)
    )


def arrow_schema(carried: Sequence[Carried]) -> "pa.Schema":
    """The Arrow schema of a segment; no field metadata, so that sources and files compare equal."""
    import pyarrow as pa

    return pa.schema([pa.field(c.column.name, c.type) for c in carried])


def _native_type(column: Column, age: str, *, age_is_native: bool) -> "pa.DataType | None":
    if column.name == age and age_is_native:
        return _native_ages().get(column.base)
    return _natives().get(column.base)


def _expression(column: Column, *, native: bool) -> str:
    name = '"' + column.name.replace('"', '""') + '"'
    if native:
        return f"{name}::pg_catalog.{column.base}" if column.kind == "d" else name  # the driver knows no domains
    if column.base in _native_ages() or column.written_as:
        # concat() calls the type's output function, which COPY's input undoes; a cast to text may be somebody's own function, and
        # the one of character(n) drops blanks. It gives '' for NULL, and IS NULL is true for a row of NULLs: hence num_nulls().
        written = name + (f"::{column.written_as}" if column.written_as else "")
        return f"CASE pg_catalog.num_nulls({name}) WHEN 0 THEN pg_catalog.concat({written}) END"
    return name  # COPY calls its output function by itself
