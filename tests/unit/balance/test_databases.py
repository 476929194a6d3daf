"""Which servers may be used, by what they say of themselves."""

import pytest

import tierkeeper
from tierkeeper.balance.databases import Standing, fitting
from tierkeeper.kernel.errors import UsageError

MB = 1_000_000


def primary(position: int = 100 * MB, timeline: int = 1) -> Standing:
    return Standing(False, position, timeline)


def replica(position: int = 100 * MB) -> Standing:
    return Standing(True, position, 0)


@pytest.mark.parametrize(
    ("answers", "writes", "seen", "fit"),
    [
        ({0: primary(), 1: replica()}, True, 0, [0]),
        ({0: primary(), 1: replica()}, False, 0, [1, 0]),
        ({0: primary()}, False, 0, [0]),
        ({1: replica()}, True, 0, []),
        ({1: replica()}, False, 0, [1]),
        ({}, False, 0, []),
        ({0: primary(), 1: replica(90 * MB), 2: replica(70 * MB)}, False, 0, [1, 0]),
        ({1: replica(90 * MB), 2: replica(70 * MB)}, False, 0, [1]),
        # The demoted one came back, and has written more than the new one.
        ({0: primary(300 * MB, 1), 1: primary(100 * MB, 2)}, True, 0, [1]),
        ({0: primary(300 * MB, 1), 1: primary(100 * MB, 2), 2: replica()}, False, 0, [2, 1]),
        # It came back, and the new one is away: better no write than a lost one.
        ({0: primary(300 * MB, 1)}, True, 2, []),
        ({0: primary(300 * MB, 1), 2: replica()}, False, 2, [2]),
        ({0: primary(300 * MB, 1)}, False, 2, []),
    ],
)
def test_who_may_be_written_and_read(answers: dict[int, Standing], writes: bool, seen: int, fit: list[int]) -> None:
    assert fitting(answers, writes, 16 * MB, seen) == fit


@pytest.mark.parametrize("urls", [[], ["http://a"], ["postgresql://a:x@10.0.0.1/b?sslmode=disable"]])
def test_a_wrong_url_is_one_clear_error(urls: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        tierkeeper.databases(urls)
    assert caught.value.place.startswith("urls")
