"""An object that is read in ranges: who reads on gets blocks that grow, who reads here and there just what he asks for."""

import io
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.objectstore.ranges import in_ranges

BODY = os.urandom(10_000)


class Asked:
    """The ranges that were asked for, by their lengths."""

    def __init__(self, body: bytes = BODY) -> None:
        self.body, self.lengths = body, list[int]()

    def __call__(self, start: int, end: int) -> bytes:
        assert 0 <= start < end <= len(self.body)
        self.lengths.append(end - start)
        return self.body[start:end]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 10_050), st.integers(-1, 4_000)), max_size=30), st.integers(1, 3_000))
def test_it_reads_as_a_file_does(steps: list[tuple[int, int]], block_bytes: int) -> None:
    """A negative place goes on where the last read ended."""
    asked, plain = Asked(), io.BytesIO(BODY)
    file = in_ranges(asked, len(BODY), block_bytes)
    for at, size in steps:
        if at >= 0:
            assert file.seek(at) == plain.seek(at)
        assert file.read(size) == plain.read(size)
        assert file.tell() == plain.tell()


def test_reading_on_takes_blocks_that_double_up_to_the_largest() -> None:
    asked = Asked()
    file = in_ranges(asked, len(BODY), 1_600)
    assert b"".join(iter(lambda: file.read(100), b"")) == BODY
    assert asked.lengths[:6] == [100, 200, 400, 800, 1_600, 1_600]
    assert sum(asked.lengths) == len(BODY), "no byte twice"


def test_reading_here_and_there_takes_no_more_than_is_asked_for() -> None:
    asked = Asked()
    file = in_ranges(asked, len(BODY), 8_000)
    for at, size in [(9_000, 1_000), (3_000, 70), (5_000, 500), (5_100, 100), (0, 4)]:
        file.seek(at)
        assert file.read(size) == BODY[at : at + size]
    assert asked.lengths == [1_000, 70, 500, 4], "what was fetched a moment ago is not fetched again"


def test_an_empty_object_is_never_asked_for() -> None:
    asked = Asked(b"")
    file = in_ranges(asked, 0, 100)
    assert (file.read(), file.read(5), file.seek(0, io.SEEK_END), asked.lengths) == (b"", b"", 0, [])
