"""Every type of Postgres through the archive and back, bit for bit."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from archive_bench import Bench
from tierkeeper.postgres import rows

TYPES = Path(__file__).parents[1].joinpath("every_type.sql").read_text(encoding="utf-8")
TABLE = '"odd ""schema"."All, types"'


def bits(bench: Bench, table: str) -> list[bytes]:
    """Every row as the binary protocol sends it: what a value is, not how it prints. NaNs are one, as in Postgres."""
    query = f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT (FORMAT binary)"
    with bench.main.cursor() as cur, cur.copy(query.encode()) as stream:
        return [bytes(block) for block in stream]


def test_every_type_comes_back_bit_for_bit(bench: Bench) -> None:
    bench.main.execute(TYPES.encode())
    bench.move(TABLE, "at")
    result = bench.archive.restore(
        next(iter(bench.archive.segments())).table, to='"odd ""schema"."Back again"', target=bench.tiers.main
    )
    assert result.rows == 4
    assert bits(bench, TABLE) == bits(bench, '"odd ""schema"."Back again"')
    # A difference in what the driver hides must show: the same comparison fails after the smallest change.
    bench.main.execute("""UPDATE "odd ""schema"."Back again" SET f8 = 0 WHERE f8 = '-0'""")
    assert bits(bench, TABLE) != bits(bench, '"odd ""schema"."Back again"')


def test_types_that_go_in_binary_come_back_bit_for_bit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.main.execute(TYPES.encode())
    kept = '"a ""b", i4, i8, f4, f8, b, t, v, c, one, code, nm, j, e, small'
    ages = "public.moment '2013-01-01 00:00:00.000001+00'"
    bench.main.execute(
        f"CREATE TABLE plain AS SELECT row_number() OVER ()::int4 AS id, {ages} AS at, {kept} FROM {TABLE}".encode()
    )
    bench.main.execute("ALTER TABLE plain ADD PRIMARY KEY (id)")
    bench.move("plain", "at")
    monkeypatch.delattr(rows, "to_copy")
    assert bench.archive.restore(bench.archive.segments()[0].table, to="back", target=bench.tiers.main).rows == 4
    assert bits(bench, "plain") == bits(bench, "back")


def test_types_are_made_on_a_server_that_lacks_them(bench: Bench) -> None:
    bench.main.execute(TYPES.encode())
    bench.move(TABLE, "at")
    table = bench.archive.segments()[0].table
    assert bench.archive.restore(table, to="elsewhere.back", target=bench.tiers.catalog).rows == 4
    with closing(bench.tiers.catalog.connect("test")) as conn:
        assert conn.execute("SELECT count(*) FROM elsewhere.back WHERE e IS NOT NULL").fetchone() == (2,)


@pytest.mark.parametrize("age_type", ["date", "timestamp", "timestamptz"])
def test_every_age_type_bounds_a_restore(bench: Bench, age_type: str) -> None:
    bench.main.execute(f"CREATE TABLE t (at {age_type} NOT NULL, id int8 PRIMARY KEY)".encode())
    bench.main.execute("INSERT INTO t SELECT '2013-01-01'::date + g, g FROM generate_series(0, 99) g")
    bench.move("t", "at")
    table = bench.archive.segments()[0].table
    since, until = datetime(2013, 1, 11, tzinfo=UTC), datetime(2013, 1, 21, tzinfo=UTC)
    result = bench.archive.restore(table, to="part", target=bench.tiers.main, since=since, until=until)
    assert result.rows == 10
    assert bench.rows("SELECT min(id), max(id), count(*) FROM part") == [(10, 19, 10)]


def test_ages_before_christ_travel_as_text_and_keep_their_order_in_time(bench: Bench) -> None:
    bench.main.execute("CREATE TABLE t (at date NOT NULL, id int8 PRIMARY KEY)")
    bench.main.execute("INSERT INTO t VALUES ('0044-03-15 BC', 1), ('2013-01-01', 2), ('2014-01-01', 3)")
    bench.move("t", "at")
    table = bench.archive.segments()[0].table
    until = datetime(2013, 6, 1, tzinfo=UTC)
    assert bench.archive.restore(table, to="old", target=bench.tiers.main, until=until).rows == 2
    assert bench.rows("SELECT id, at::text FROM old ORDER BY id") == [(1, "0044-03-15 BC"), (2, "2013-01-01")]
    assert bench.archive.restore(table, to="new", target=bench.tiers.main, since=until).rows == 1


def test_text_is_the_output_functions_and_nobodys_cast(bench: Bench) -> None:
    """A cast to text drops the blanks of a `bpchar` and may be a function that cannot be undone."""
    bench.main.execute("CREATE TYPE public.mood AS ENUM ('sad', 'happy')")
    bench.main.execute("CREATE FUNCTION public.shout(mood) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'LOUD' $$")
    bench.main.execute("CREATE CAST (public.mood AS text) WITH FUNCTION public.shout(mood)")
    bench.main.execute("CREATE TABLE t (at date NOT NULL, id int4 PRIMARY KEY, c bpchar, m public.mood)")
    bench.main.execute(
        "INSERT INTO t VALUES ('2013-01-01', 1, 'ab   ', 'sad'), ('2013-01-02', 2, '  ', 'happy'), ('2013-01-03', 3, '', NULL)"
    )
    bench.move("t", "at")
    assert bench.archive.restore(bench.archive.segments()[0].table, to="back", target=bench.tiers.main).rows == 3
    assert bits(bench, "t") == bits(bench, "back")
