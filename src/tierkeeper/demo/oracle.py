"""Says what was lost and what was doubled, from the package's own files and the rows that are found in the tiers.

It is a second opinion: it uses no part of the mover, the archive or the query, and never reads the `tierkeeper` schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, LiteralString

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from pyarrow import csv, parquet

from tierkeeper.demo import flights
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.interrupts import interruptible
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, transaction, translated

SCHEMA: Final = pa.schema(list(flights.COLUMNS["flights"].items()))
"""The canonical form in which rows are compared: the table's columns in order, instants in UTC microseconds."""

_LAST_MONTH: Final = 12
# EXCEPT ALL takes each found row away from one original alone, and holds NULL for equal to NULL.
_LOST: Final = "SELECT count(*) FROM (SELECT * FROM original EXCEPT ALL SELECT * FROM found)"
_DOUBLED: Final = """
    SELECT coalesce(sum(greatest(found_rows - coalesce(original_rows, 0), 0)), 0)::bigint
    FROM (SELECT time_hour, carrier, flight, count(*) AS found_rows FROM found GROUP BY ALL)
    LEFT JOIN (SELECT time_hour, carrier, flight, count(*) AS original_rows FROM original GROUP BY ALL)
        USING (time_hour, carrier, flight)
"""
_ISO: Final[LiteralString] = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""


@dataclass(frozen=True)
class Original:
    """The flights as the package has them. Rows are compared by their whole content, as a multiset, in any order."""

    table: pa.Table

    @classmethod
    def load(cls, *, days: int = 0) -> Original:
        """Reads the package's file, all dates `days` later. Raises UsageError where the package is not installed."""
        return cls(flights.read("flights", days=days))

    def lost_and_doubled(self, parts: Iterable[pa.Table]) -> tuple[int, int]:
        """Rows of the original that are in no part with all their content, and rows that are there once too often.

        A row that was altered is lost; a row whose key (time_hour, carrier, flight) the original does not have is one too many.
        """
        found = pa.concat_tables([canonical(part) for part in parts] or [SCHEMA.empty_table()])
        with interruptible(), duckdb.connect() as db:
            db.register("original", self.table)
            db.register("found", found)
            return _number(db, _LOST), _number(db, _DOUBLED)

    def counts_per_month(self) -> list[tuple[str, int]]:
        """Rows per UTC month of `time_hour`, as ("2013-01", n), in order."""
        months = pc.strftime(self.table["time_hour"], "%Y-%m")
        return sorted((item["values"], item["counts"]) for item in pc.value_counts(months).to_pylist())

    def month(self, year: int, month: int) -> pa.Table:
        """The original's rows of one UTC month."""
        first = datetime(year, month, 1, tzinfo=UTC)
        following = datetime(year + month // _LAST_MONTH, month % _LAST_MONTH + 1, 1, tzinfo=UTC)
        age = self.table["time_hour"]
        return self.table.filter(pc.and_(pc.greater_equal(age, _instant(first)), pc.less(age, _instant(following))))

    def month_matches(self, table: pa.Table, year: int, month: int) -> bool:
        """Whether `table` is exactly the original's rows of that month."""
        return Original(self.month(year, month)).lost_and_doubled([table]) == (0, 0)


def canonical(table: pa.Table) -> pa.Table:
    """`table` with the canonical columns and types; times without a zone are UTC. Raises Failed where it has others."""
    try:
        columns = [_cast(table[column.name], column.type) for column in SCHEMA]
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Failed(
            "oracle", f"these are not rows of flights: {error}", "Give it a table with all columns of flights"
        ) from error
    return pa.table(columns, schema=SCHEMA)


def read_rows(conn: Connection, table: str = "public.flights") -> pa.Table:
    """All rows of `table` that `conn` can see, in canonical form. Raises TierkeeperError where it cannot be read."""
    name = TableName.parse(table, "oracle")
    shown = [
        sql.SQL("to_char({} AT TIME ZONE 'UTC', " + _ISO + ")").format(sql.Identifier(column.name))
        if pa.types.is_timestamp(column.type)
        else sql.Identifier(column.name)
        for column in SCHEMA
    ]
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv)").format(
        sql.SQL(", ").join(shown), sql.Identifier(name.schema, name.name)
    )
    text = pa.BufferOutputStream()
    with translated(f"oracle ({name})"), transaction(conn, read_only=True) as cur, cur.copy(query) as copy:
        for block in copy:
            text.write(block)
    return _parse_csv(text.getvalue(), header=False)


def read_file(path: Path) -> pa.Table:
    """The rows of a CSV file with a header (NULL: empty and not quoted) or of a Parquet file, in canonical form."""
    if path.suffix == ".parquet":
        return canonical(parquet.read_table(path))
    return _parse_csv(pa.py_buffer(path.read_bytes()), header=True)


def _parse_csv(text: pa.Buffer, *, header: bool) -> pa.Table:
    if text.size == 0:
        return SCHEMA.empty_table()
    read = csv.ReadOptions() if header else csv.ReadOptions(column_names=SCHEMA.names)
    convert = csv.ConvertOptions(
        column_types=SCHEMA,
        include_columns=SCHEMA.names,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    try:
        return canonical(csv.read_csv(text, read_options=read, convert_options=convert))
    except (KeyError, pa.ArrowInvalid) as error:
        raise Failed("oracle", f"these are not rows of flights: {error}", "Give it a file with all columns of flights") from error


def _cast(column: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_timestamp(target) and pa.types.is_timestamp(column.type) and column.type.tz is None:
        column = pc.assume_timezone(column, "UTC")
    return column.cast(target)


def _instant(value: datetime) -> pa.Scalar:
    return pa.scalar(value, SCHEMA.field("time_hour").type)


def _number(db: duckdb.DuckDBPyConnection, query: str) -> int:
    row: tuple[Any, ...] | None = db.execute(query).fetchone()
    return int(row[0]) if row else 0
