"""Backends from their addresses."""

import pytest

from tierkeeper.balance.pools import node


def test_a_backend_has_the_port_that_is_written_or_the_usual_one() -> None:
    assert [node(a, 1, 0).name for a in ("http://a:9", "https://a", "http://a", "http://[::1]:9/x")] == [
        "a:9",
        "a:443",
        "a:80",
        "[::1]:9",
    ]


@pytest.mark.parametrize("address", ["http://a:0", "a:0", "http://:80", "http://a:99999", "http://a,b:80"])
def test_what_names_no_one_place_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        node(address, 1, 0)
