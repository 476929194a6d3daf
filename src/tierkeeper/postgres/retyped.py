"""Archived values as they would be in a column whose type was widened since: what Postgres's own cast gives.

Pure. Values that travel as text keep Postgres's text form.
"""

import pyarrow as pa
import pyarrow.compute as pc

from tierkeeper.kernel.widening import Widening


def retyped(array: pa.Array, how: Widening) -> pa.Array:
    """`array` in the text form of its new type. A wider number is for its reader to cast, which loses nothing."""
    if how.conversion == "pad":
        return pc.utf8_rpad(array, width=how.length)
    if how.conversion == "strip":
        return pc.utf8_rtrim(array, characters=" ")
    if how.conversion == "digits":
        return pa.array([None if v is None else _with_decimals(v, how.length) for v in array.to_pylist()], pa.string())
    return array


def _with_decimals(number: str, decimals: int) -> str:
    """'1.5' with 4 decimals is '1.5000'; NaN and the infinities have none."""
    if not number[-1].isdigit():
        return number
    whole, _, fraction = number.partition(".")
    return f"{whole}.{fraction.ljust(decimals, '0')}" if decimals else whole
