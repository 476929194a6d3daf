"""What becomes of Ctrl-C while DuckDB works: sooner or later it makes a RuntimeError of these words of the KeyboardInterrupt."""

import pytest

from tierkeeper.kernel.interrupts import interruptible


def test_a_signal_amid_duckdb_is_an_interrupt_and_no_fault() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise RuntimeError("Query interrupted")


def test_any_other_error_stays() -> None:
    with pytest.raises(RuntimeError, match="other"), interruptible():
        raise RuntimeError("other")
