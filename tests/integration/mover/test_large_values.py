"""Values of many megabytes: the mover's memory is bounded by the largest row, as the system counts it."""

import pytest

from hop import Hop
from peaks import peak_bytes
from support import sampled
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import ROW_BYTES_MAX
from tierkeeper.mover import width

MB = 10**6


def moved_peak_bytes(hop: Hop) -> int:
    """Moves `t` as a process of its own; returns its peak of memory."""
    return peak_bytes(hop.tiers, "move", "t", "--from", "core", "--to", "main", "--before", "2024-06-01")


@pytest.mark.parametrize("size_mb", [60, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
@pytest.mark.parametrize("more", sampled(["", ", r regclass"], ", r regclass"))
def test_the_movers_memory_is_bounded_by_the_largest_row(hop: Hop, size_mb: int, more: str) -> None:
    """`more` makes the table travel as text, where a bytea counts twice."""
    value_mb = size_mb // 2 if more else size_mb
    hop.core.execute(f"CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL, x bytea{more})".encode())
    hop.core.execute("INSERT INTO t SELECT 1, '2024-01-01', decode(repeat('0123456789abcdef', %s), 'hex')", [value_mb * MB // 8])
    before = hop.core.execute("SELECT sha256(x) FROM t").fetchone()
    peak_bytes = moved_peak_bytes(hop)
    assert hop.counts() == (0, 1)
    assert hop.main.execute("SELECT sha256(x) FROM t").fetchone() == before
    assert size_mb * MB < peak_bytes < 200 * MB + 3 * size_mb * MB


@pytest.mark.long
def test_several_large_rows_cost_no_more_than_the_largest(hop: Hop) -> None:
    """Rows that lie far apart make batches of their own, which several workers would hold at once."""
    filler = ", ".join(f"c{i} char(1000) NOT NULL DEFAULT 'x'" for i in range(7))
    hop.core.execute(f"CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL, x bytea, {filler})".encode())
    hop.core.execute("".join(f"ALTER TABLE t ALTER c{i} SET STORAGE PLAIN;" for i in range(7)).encode())
    hop.core.execute("INSERT INTO t SELECT i, '2024-01-01', '' FROM generate_series(1, 128) i")
    hop.core.execute("ALTER TABLE t ALTER x SET STORAGE EXTERNAL")
    large = "UPDATE t SET x = decode(repeat('0123456789abcdef', %s), 'hex') WHERE id %% 16 = 1"
    hop.core.execute(large, [33 * MB // 8])
    peak_bytes = moved_peak_bytes(hop)
    assert hop.counts() == (0, 128)
    assert 33 * MB < peak_bytes < 200 * MB + 3 * 33 * MB


@pytest.mark.parametrize(
    ("column", "value", "limit"),
    [
        ("text", "repeat('x', {})", ROW_BYTES_MAX),  # 3 MB as it is stored
        ("bytea", "decode(repeat('00', {}), 'hex')", 5 * MB),
        ("jsonb", "to_jsonb(repeat('x', {}))", 5 * MB),
        ("int[]", "array_fill(0, ARRAY[{} / 8])", 5 * MB),  # each element travels with its length
    ],
)
def test_a_row_that_no_copy_can_carry_is_refused_by_its_key(
    hop: Hop, monkeypatch: pytest.MonkeyPatch, column: str, value: str, limit: int
) -> None:
    """Also where it is compressed so well that it takes little room; one just below goes."""
    monkeypatch.setattr(width, "ROW_BYTES_MAX", limit)
    hop.core.execute(f"CREATE TABLE t (id text PRIMARY KEY, at date NOT NULL, x {column}, y text)".encode())
    size = value.format(limit - 100)
    hop.core.execute(f"INSERT INTO t SELECT 'the large one', '2024-01-01', {size}, repeat('y', 200)".encode())
    if limit < ROW_BYTES_MAX:
        hop.core.execute(f"INSERT INTO t SELECT 'another', '2024-01-01', {size}, 'y'".encode())
    hop.core.execute("INSERT INTO t SELECT i::text, '2024-01-01', NULL, 'y' FROM generate_series(1, 10) i")
    before = hop.counts()
    for ask in (hop.plan, hop.move):
        with pytest.raises(UsageError, match=rf"public.t \(core\): the row with the key the large one has {limit // MB} MB"):
            ask()
    assert hop.counts() == before
    hop.core.execute("UPDATE t SET x = NULL WHERE id = 'the large one'")
    assert hop.move().rows == before[0]
