"""Which sockets are in each other's way."""

import socket
from ipaddress import ip_address

import pytest

from tierkeeper.balance.envoy import checks

ALL = "0.0.0.0"  # noqa: S104 - nothing is bound


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", ALL, True),
        (ALL, "127.0.0.1", True),
        ("127.0.0.1", "::", True),
        ("::", "127.0.0.1", True),
        ("::1", ALL, False),
        ("::1", "127.0.0.1", False),
        ("::1", "::", True),
    ],
)
def test_addresses_meet_where_one_takes_what_the_other_does(one: str, other: str, both: bool) -> None:
    assert checks.meet(ip_address(one), ip_address(other)) is both


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1"])
def test_a_listening_socket_is_found_by_its_address_alone(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert len(checks._listening(address, port)) == 1
        assert checks._listening("127.0.0.3", port) == set()
