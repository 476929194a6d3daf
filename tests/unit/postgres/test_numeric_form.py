"""numeric in Postgres's own form: read digit by digit, each value is the text that it came from, with its scale."""

import struct
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tierkeeper.postgres.numeric_form import numerics

SPECIAL = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}


def read(sent: bytes) -> str:
    """As `numeric_recv` takes it and `numeric_out` writes it."""
    count, weight, sign, scale = struct.unpack(">HhHH", sent[:8])
    digits = struct.unpack(f">{count}H", sent[8:])
    if sign in SPECIAL:
        return SPECIAL[sign]
    assert all(digit < 10_000 for digit in digits)
    value = Decimal((0, tuple(map(int, "".join(f"{digit:04}" for digit in digits) or "0")), 4 * (weight + 1 - count)))
    assert -value.normalize().as_tuple().exponent <= scale or not value
    whole, _, fraction = f"{value:f}".partition(".")
    shown = (whole.lstrip("0") or "0") + (f".{fraction.ljust(scale, '0')[:scale]}" if scale else "")
    return "-" * (sign == 0x4000) + shown


def written(number: int, scale: int) -> str:
    digits = f"{abs(number):0{scale + 1}}"
    return "-" * (number < 0) + (f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits)


FEW = st.builds(written, st.integers(-(10**12), 10**12), st.integers(0, 6))
MANY = st.builds(written, st.integers(-(10**1000), 10**1000), st.integers(0, 700))
VALUES = st.lists(st.one_of(FEW, FEW, MANY, st.sampled_from([*SPECIAL.values()]), st.none()), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(FEW, min_size=1) | st.lists(FEW | st.none(), min_size=1) | VALUES, st.integers(0, 2))
@example(["1.10", "1.1", "0.0", "0", "0.00001"], 0)
@example(["9223372036854775807", "-9223372036854775808", "9223372036854775808"], 0)
@example(["9223372036854775807.0000", "-9223372036854775808.0000", "0.0000"], 0)
@example(["-9223372036854775808"], 0)
@example(["922337203685477.5807", "999999999999999999", "0.1"], 0)
@example(["-0.001", "-1000000000000", "10000"], 0)
def test_each_value_is_its_text(texts: list[str | None], start: int) -> None:
    column = pa.array(texts, pa.string()).slice(min(start, len(texts) - 1))
    sent = numerics(column).to_pylist() if column.null_count < len(column) else [None] * len(column)
    assert [None if one is None else read(one) for one in sent] == column.to_pylist()


@pytest.mark.parametrize("text", ["", "-", "1.", ".5", "1.2.3", "1-2", "--1", "1e5", "nan", "Infinity ", "+1", "0x1F", "1 "])
def test_a_text_that_is_no_numeric_is_refused(text: str) -> None:
    for texts in ([text], ["1.50", text, "2"], [text, "9" * 40]):
        with pytest.raises(ValueError, match="no numeric"):
            numerics(pa.array(texts))
