"""Postgres's division, its text as Arrow, and the forms in which a result leaves."""

from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import TableName
from tierkeeper.query.model import AgeRange, ColumnFacts, PgType, Scan
from tierkeeper.query.values import column_from_text, divider, from_archive


@pytest.mark.parametrize(
    ("dividend", "divisor", "quotient"),
    [
        ("1", "3", "0.33333333333333333333"), ("2", "3", "0.66666666666666666667"), ("10000", "3", "3333.3333333333333333"),
        ("-7", "2", "-3.5"), ("0", "7", "0"), ("4256.5", "336.4", "12.6530915576694411"),
        ("1", "30000", "0.000033333333333333333333"),
    ],
)  # fmt: skip
def test_division_gives_postgres_s_digits(dividend: str, divisor: str, quotient: str) -> None:
    assert divider(2, 2)(Decimal(dividend), Decimal(divisor)) == Decimal(quotient)


def test_a_quotient_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OverflowError):
        divider(0, 0)(Decimal(1), Decimal(3 * 10**9))
    with pytest.raises(ZeroDivisionError):
        divider(0, 0)(Decimal(1), Decimal(0))


def test_text_becomes_its_type_or_stays_text() -> None:
    assert column_from_text(["1.50", None, "2"], "numeric").to_pylist() == [Decimal("1.50"), None, Decimal("2.00")]
    assert column_from_text(["NaN", "1"], "numeric").to_pylist() == ["NaN", "1"]
    assert column_from_text(["2013-01-01 05:00:00.5+00", None], "timestamptz").to_pylist() == [
        datetime(2013, 1, 1, 5, 0, 0, 500000, UTC),
        None,
    ]
    assert column_from_text(["infinity", "2013-01-01"], "date").to_pylist() == ["infinity", "2013-01-01"]
    assert column_from_text(["0044-03-15 BC"], "date").to_pylist() == ["0044-03-15 BC"]
    assert column_from_text(["t", "f", None], "bool").to_pylist() == [True, False, None]
    assert column_from_text(["Infinity", "1e+20"], "float8").to_pylist() == [float("inf"), 1e20]


def test_an_infinite_time_from_the_archive_is_an_error() -> None:
    scan = Scan(
        "t", TableName("public", "x"), (("c0", ColumnFacts("at", "timestamptz", PgType("timestamptz"))),), (), "at", AgeRange()
    )
    good = pa.record_batch({"at": ["2013-01-01 05:00:00+00", None]})
    assert next(from_archive([good], scan)).to_pylist() == [{"c0": datetime(2013, 1, 1, 5)}, {"c0": None}]
    with pytest.raises(Failed, match=r"x\.at"):
        list(from_archive([pa.record_batch({"at": ["infinity"]})], scan))
