"""A home server that is known to be away is not tried."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends import hanging
from tierkeeper.kernel.errors import NotNow
from tierkeeper.objectstore.home import HomeStore


def test_a_request_asks_the_gate_before_it_is_made() -> None:
    asked = []

    @contextmanager
    def gate(place: str) -> Iterator[None]:
        asked.append(place)
        raise NotNow(place, "it is out", "Run again")
        yield

    with hanging() as port:
        store = HomeStore(f"http://127.0.0.1:{port}", "a-token", insecure=True, gate=gate)
        began = time.monotonic()
        with pytest.raises(NotNow, match="it is out"):
            store.head(f"segment/{'0' * 64}")
        assert time.monotonic() - began < 1.0, "neither waited for nor tried again"
    assert asked == [store.name]
