"""Which servers may be used, by what they say of themselves."""

import pytest

import tierkeeper
from tierkeeper.balance.databases import Databases, fitting
from tierkeeper.balance.primary import Claim
from tierkeeper.kernel.errors import UsageError

MB = 1_000_000


def primary(position: int = 100 * MB, timeline: int | None = 1, system: str | None = "7") -> Claim:
    return Claim(True, position, timeline, system)


def replica(position: int = 100 * MB, timeline: int | None = 1, system: str | None = "7") -> Claim:
    return Claim(False, position, timeline, system)


@pytest.mark.parametrize(
    ("claims", "writes", "seen", "fit"),
    [
        ([primary(), replica()], True, 0, [0]),
        ([primary(), replica()], False, 0, [1]),
        ([primary(), None], False, 0, [0]),
        ([None, replica()], True, 0, []),
        ([None, replica()], False, 0, [1]),
        ([None, None], False, 0, []),
        ([primary(), replica(90 * MB), replica(70 * MB)], False, 0, [1]),
        ([None, replica(90 * MB), replica(70 * MB)], False, 0, [1]),
        ([primary(), replica(70 * MB)], False, 0, [0]),
        # The demoted one came back, and has written more than the new one.
        ([primary(300 * MB, 1), primary(100 * MB, 2)], True, 0, [1]),
        ([primary(300 * MB, 1), primary(100 * MB, 2), replica()], False, 0, [2]),
        # It came back, and the new one is away: better no write than a lost one.
        ([primary(300 * MB, 1), None], True, 2, []),
        ([primary(300 * MB, 1), None, replica()], False, 2, [2]),
        ([primary(300 * MB, 1), None], False, 2, []),
        # A replica alone tells of the new one.
        ([primary(300 * MB, 1), replica(100 * MB, 2)], True, 0, []),
        # Two say so on one timeline: which of them is right nobody knows.
        ([primary(300 * MB, 1), primary(100 * MB, 1)], True, 0, []),
        # Another database altogether.
        ([primary(300 * MB, 9, "8"), primary(100 * MB, 2)], True, 2, [1]),
        ([replica(100 * MB, 2, "8"), primary(100 * MB, 2)], False, 2, [1]),
        # A role that may not read the control file.
        ([primary(system=None), replica(timeline=None, system=None)], True, 0, [0]),
    ],
)
def test_who_may_be_written_and_read(claims: list[Claim | None], writes: bool, seen: int, fit: list[int]) -> None:
    servers = Databases([f"postgresql://u@127.0.0.1:{n}/d" for n in range(1, len(claims) + 1)])
    if seen:
        servers._ruled({"urls[1]": primary(timeline=seen)})
    ruling = servers._ruled({f"urls[{n}]": c for n, c in enumerate(claims) if c is not None})
    assert fitting(ruling, writes=writes) == [f"urls[{n}]" for n in fit]


@pytest.mark.parametrize("urls", [[], ["http://a"], ["postgresql://a:x@10.0.0.1/b?sslmode=disable"]])
def test_a_wrong_url_is_one_clear_error(urls: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        tierkeeper.databases(urls)
    assert caught.value.place.startswith("urls")
