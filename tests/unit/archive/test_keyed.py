"""Keys as a person writes them, and as a segment carries them."""

from uuid import UUID

import pyarrow as pa
import pytest

from tierkeeper.archive.keyed import Keys
from tierkeeper.archive.lossless import arrow_schema
from tierkeeper.archive.model import Contents
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import Column, TableName, TableShape


def found(base: str, written: str, held: list[object]) -> list[object]:
    shape = TableShape(TableName("public", "t"), (Column("k", base, base),), ("k",), ddl=("…",))
    contents = Contents(UUID(int=0), shape, "", False, {})
    schema = arrow_schema(contents.carried)
    rows = pa.RecordBatch.from_arrays([pa.array(held, schema.types[0])], schema=schema)
    return Keys.parse([written]).within(contents).among(rows).column(0).to_pylist()


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("1", ["1", "1.0", "1.00"]),
        ("1.50", ["1.5", "1.500"]),
        ("[1.5]", ["1.5", "1.500"]),
        ("15e-1", ["1.5", "1.500"]),
        ("1e2", ["100", "100.0"]),
        ("-0.0", ["0", "0.00"]),
        (".5", ["0.50"]),
        ("NaN", ["NaN"]),
        ("-inf", ["-Infinity"]),
        ("-1.5", ["-1.50"]),
        ("10", []),
    ],
)
def test_a_number_is_found_whatever_its_scale(written: str, there: list[object]) -> None:
    held: list[object] = ["1", "1.0", "1.00", "1.5", "1.500", "100", "100.0", "0", "0.00", "0.50", "NaN", "-Infinity", "-1.50"]
    assert found("numeric", written, held) == there


@pytest.mark.parametrize(
    ("base", "written"), [("numeric", "one"), ("numeric", "1e999999999"), ("numeric", ""), ("int4", "1.5"), ("uuid", "x")]
)
def test_what_is_no_value_of_the_type_is_refused(base: str, written: str) -> None:
    with pytest.raises(UsageError, match="is no value of its column 'k'"):
        found(base, written, [])
