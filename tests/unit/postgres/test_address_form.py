"""inet and cidr in Postgres's own form: family, bits, kind, bytes."""

import ipaddress

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierkeeper.postgres.address_form import addresses

SHORT, LONG = st.ip_addresses(v=4), st.ip_addresses(v=6)


@st.composite
def written(draw: st.DrawFn) -> str:
    """As Postgres writes it: without the bits where all of them count."""
    address = draw(SHORT | LONG)
    bits = draw(st.integers(0, address.max_prefixlen))
    return str(address) if bits == address.max_prefixlen else f"{address}/{bits}"


def by_hand(text: str, type_: str) -> bytes:
    at = ipaddress.ip_interface(text)
    return bytes([2 if at.version == 4 else 3, at.network.prefixlen, type_ == "cidr", len(at.packed)]) + at.packed


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(written() | st.none(), min_size=1, max_size=9).filter(any), st.sampled_from(["inet", "cidr"]), st.booleans())
def test_addresses_are_what_they_are_by_hand(texts: list[str | None], type_: str, cut: bool) -> None:
    column = pa.array([*(["9.9.9.9"] if cut else []), *texts], pa.string()).slice(1 if cut else 0)
    assert addresses(column, type_).to_pylist() == [None if t is None else by_hand(t, type_) for t in texts]


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4.5.6", "1.2.3.256", "1.2.3.4/", "1..2.3", "a.b.c.d", "1.2.3.0004", ":::"])
def test_a_text_that_is_no_address_is_refused(text: str) -> None:
    for texts in ([text], ["10.0.0.1", text, "::1"]):
        with pytest.raises(ValueError, match="no address"):
            addresses(pa.array(texts), "inet")
