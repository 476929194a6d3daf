"""Values of an answer keep every digit, and never steer a terminal."""

import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from tierkeeper.cli import values
from tierkeeper.kernel.errors import UsageError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("12345678901234567890123456789012345678.10"), "12345678901234567890123456789012345678.10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("NaN"), '"NaN"'),
        (math.inf, '"Infinity"'),
        (-math.inf, '"-Infinity"'),
        (math.nan, '"NaN"'),
        (0.1, "0.1"),
        (2**63 - 1, "9223372036854775807"),
        (True, "true"),
        (None, "null"),
        (b"\x00\xff", '"\\\\x00ff"'),
        (datetime(2013, 1, 1, tzinfo=UTC), '"2013-01-01T00:00:00+00:00"'),
        (timedelta(days=1, seconds=3), '"P1DT3S"'),
        (timedelta(), '"PT0S"'),
        ([1, None, "é"], '[1, null, "é"]'),
        ({"a": Decimal("1.0")}, '{"a": 1.0}'),
    ],
)
def test_a_value_as_json(value: object, expected: str) -> None:
    assert values.as_json(value) == expected
    json.loads(values.as_json(value))


def test_an_answer_is_a_list_of_objects() -> None:
    answer = pa.table({"n": pa.array([1, None]), "d": pa.array([Decimal("1.50"), None], pa.decimal128(5, 2))})
    assert "".join(values.records(answer)) == '[{"n": 1, "d": 1.50},\n {"n": null, "d": null}]'
    assert "".join(values.records(answer.slice(0, 0))) == "[]"


def test_two_columns_of_one_name_are_no_object() -> None:
    answer = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(UsageError, match="'a'"):
        list(values.records(answer))


def test_control_characters_are_spelled_out() -> None:
    assert values.visible("a\x1b[2Jb\x9bc\nd\te") == "a\\x1b[2Jb\\x9bc\nd\te"


def test_a_real_is_printed_with_the_digits_that_it_has() -> None:
    answer = pa.table(
        {"r": pa.array([0.1, None, float("nan"), 3.4028235e38, -0.0], pa.float32()), "d": [0.1, 0.2, 0.3, 0.4, 0.5]}
    )
    assert "".join(values.records(answer)) == (
        '[{"r": 0.1, "d": 0.1},\n {"r": null, "d": 0.2},\n {"r": "NaN", "d": 0.3},\n {"r": 3.4028235e+38, "d": 0.4},'
        '\n {"r": -0.0, "d": 0.5}]'
    )
