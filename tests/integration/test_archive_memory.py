"""Rows of many megabytes on their way into the archive and back: the largest row bounds the memory, as the system counts it."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from peaks import peak_bytes
from support import Tiers, tierkeeper_toml
from tierkeeper import config
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import width
from tierkeeper.postgres.link import Connection

MB = 10**6
T = TableName("public", "t")
DIGITS = """CREATE FUNCTION pg_temp.digits(size_mb int) RETURNS text LANGUAGE sql AS $$
    SELECT repeat(string_agg(md5(i::text), ''), size_mb * 10) FROM generate_series(1, 3125) AS i
$$"""
"""Text of so many megabytes."""


@pytest.fixture
def keeper(tiers: Tiers) -> Keeper:
    path = tierkeeper_toml(tiers, [{"name": "public.t", "age": "at", "core": "30 days", "main": "60 days"}])
    return open_keeper(config.load(path, tiers.environment, tiers.home), environment=tiers.environment)


@pytest.fixture
def main(tiers: Tiers, keeper: Keeper) -> Iterator[Connection]:
    """Main with the empty table `t`."""
    with closing(tiers.core.connect("test")) as core:
        core.execute("CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL, x text, y bytea)")
    keeper.setup(apply=True)
    with closing(tiers.main.connect("test")) as conn:
        conn.execute(DIGITS)
        yield conn


def contents(conn: Connection, table: str) -> list[tuple[object, ...]]:
    return conn.execute(f"SELECT id, md5(x), sha256(y) FROM {table} ORDER BY id".encode()).fetchall()


def one_that_travels_as_60_mb(main: Connection) -> int:
    main.execute("INSERT INTO t SELECT 1, '2024-01-01', NULL, decode(pg_temp.digits(60), 'hex')")
    return 60


def many_of_10_mb(main: Connection) -> int:
    main.execute("INSERT INTO t SELECT i, '2024-01-01', pg_temp.digits(10) FROM generate_series(1, 12) AS i")
    return 10


@pytest.mark.long
@pytest.mark.parametrize(("fill", "beside_mb"), [(one_that_travels_as_60_mb, 170), (many_of_10_mb, 300)])
def test_memory_is_bounded_by_the_largest_row(
    tiers: Tiers, main: Connection, fill: Callable[[Connection], int], beside_mb: int
) -> None:
    """A bytea counts as its text: so it travels. `beside_mb`: what is there beside the row, or beside those that gather."""
    widest_mb = fill(main)
    before = contents(main, "t")
    peaks = {
        name: peak_bytes(tiers, *arguments.split()) // MB
        for name, arguments in {
            "archive": "move t --from main --to archive --before 2024-06-01",
            "a table": "archive restore t --to back",
            "a .csv": "archive restore t --to ./back.csv",
            "a .parquet": "archive restore t --to ./back.parquet",
        }.items()
    }
    assert contents(main, "t") == []
    assert contents(main, "back") == before
    assert all(widest_mb < peak < beside_mb + 4 * widest_mb for peak in peaks.values()), peaks


def test_a_row_that_the_archive_cannot_carry_is_refused_by_its_key(
    main: Connection, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bytea of more than half the limit, since it goes as text; one just below goes."""
    monkeypatch.setattr(width, "ROW_BYTES_MAX", 4 * MB)
    main.execute("INSERT INTO t SELECT i, '2024-01-01', NULL, decode(pg_temp.digits(4), 'hex') FROM generate_series(1, 2) AS i")
    main.execute("INSERT INTO t SELECT 3, '2024-01-01', NULL, decode(pg_temp.digits(4) || '00', 'hex')")
    before = contents(main, "t")
    for ask in (keeper.plan_move, keeper.move):
        with pytest.raises(
            UsageError, match=r"public.t \(main\): the row with the key 3 has 4 MB on its way, and no row above 4"
        ):
            ask(T, "main", "archive")
    assert contents(main, "t") == before
    main.execute("UPDATE t SET y = NULL WHERE id = 3")
    assert keeper.move(T, "main", "archive").rows == 3
