"""The package's files arrive as they are: compared with the standard library's reading of them."""

import csv
import io

import pyarrow as pa
import pytest

from tierkeeper.demo import flights
from tierkeeper.kernel.errors import UsageError

ROWS = {"airlines": 16, "airports": 1_458, "planes": 3_322, "weather": 26_115, "flights": 336_776}


@pytest.fixture(scope="module")
def whole() -> pa.Table:
    return flights.read("flights")


def _told(value: object) -> str:
    """A value as the package's file writes it."""
    if value is None:
        return "NA"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if hasattr(value, "strftime") else str(value)


@pytest.mark.parametrize("name", ["airlines", "airports", "planes", "weather"])
def test_every_value_is_the_files(name: str) -> None:
    expected = list(csv.reader(io.StringIO(flights._contents(name).decode())))
    table = flights.read(name)
    assert table.column_names == expected[0]
    for index, column in enumerate(table.columns):
        given = [row[index] for row in expected[1:]]
        if pa.types.is_floating(column.type):
            assert column.to_pylist() == [None if text == "NA" else float(text) for text in given]
        else:
            assert [_told(value) for value in column.to_pylist()] == given


def test_the_flights_first_and_last_rows_are_the_files(whole: pa.Table) -> None:
    lines = flights._contents("flights").decode().splitlines()
    assert whole.num_rows == len(lines) - 1 == ROWS["flights"]
    for at in (0, 838, 336_771, 336_775):
        assert ",".join(_told(value) for value in whole.slice(at, 1).to_pylist()[0].values()) == lines[at + 1]


@pytest.mark.parametrize(("column", "nulls"), [("dep_time", 8_255), ("arr_delay", 9_430), ("tailnum", 2_512), ("time_hour", 0)])
def test_missing_values_are_null(whole: pa.Table, column: str, nulls: int) -> None:
    assert whole[column].null_count == nulls


def test_the_key_is_unique(whole: pa.Table) -> None:
    table = whole.select(["time_hour", "carrier", "flight"])
    assert table.group_by(table.column_names).aggregate([]).num_rows == ROWS["flights"]


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'tierkeeper\[demo\]'"):
        flights.read("flights")
