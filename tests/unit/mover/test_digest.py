from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.mover.digest import RowDigest

ROWS = st.lists(st.binary(min_size=3, max_size=20), max_size=20)
HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)


def digest(rows: list[bytes], *, binary: bool = False, block: int = 7) -> RowDigest:
    found = RowDigest(binary)
    blocks = [rows[i : i + block] for i in range(0, len(rows), block)]
    assert list(found.through(blocks)) == blocks
    return found


@given(ROWS, st.randoms())
def test_order_does_not_count(rows: list[bytes], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert digest(rows).same_as(digest(shuffled))


@given(ROWS.filter(bool), st.data())
def test_every_bit_counts(rows: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    bit = data.draw(st.integers(0, len(rows[at]) * 8 - 1))
    changed = bytearray(rows[at])
    changed[bit // 8] ^= 1 << bit % 8
    assert not digest(rows).same_as(digest([*rows[:at], bytes(changed), *rows[at + 1 :]]))


@given(ROWS.filter(bool))
def test_a_row_twice_or_missing_shows(rows: list[bytes]) -> None:
    assert not digest(rows).same_as(digest([*rows, rows[0]]))
    assert not digest(rows).same_as(digest(rows[1:]))


@given(ROWS.filter(bool), st.integers(1, 30))
def test_the_binary_frame_is_no_row(rows: list[bytes], block: int) -> None:
    framed = list(chain([HEADER + rows[0]], rows[1:], [b"\xff\xff"]))
    found = digest(framed, binary=True, block=block)
    assert found.same_as(digest(rows))
    assert found.size_bytes == sum(map(len, rows))


def test_an_empty_table_has_no_row() -> None:
    found = digest([HEADER, b"\xff\xff"], binary=True, block=2)
    assert (found.rows, found.size_bytes) == (0, 0)
