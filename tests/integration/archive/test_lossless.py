"""Every type of Postgres through the archive and back, bit for bit."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from archive_bench import Bench
from support import sampled
from tierkeeper.archive import restore as restoring
from tierkeeper.archive import sending
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import binary, rows

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


IN_BINARY = (
    '"a ""b", i4, i8, f4, f8, b, t, v, n, n2, n3, n4, c, one, code, nm, d, ts, tz, tm, j, jb, by, ip, ci, mac, mac8, o, e, small,'
    """ ct, ia, ta, ca, na, f8a, f4a, tza, bpa, feeling, 'a'::"order"."group" AS grouped"""
)


def test_types_that_go_in_binary_come_back_bit_for_bit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.main.execute(TYPES.encode())
    bench.main.execute(f"""CREATE DOMAIN feeling AS "odd ""schema"."Mood"; ALTER TABLE {TABLE} ADD feeling feeling""".encode())
    bench.main.execute(f"UPDATE {TABLE} SET feeling = e".encode())
    bench.main.execute("""CREATE SCHEMA "order"; CREATE TYPE "order"."group" AS ENUM ('a')""")
    ages = "public.moment '2013-01-01 00:00:00.000001+00'"
    bench.main.execute(
        f"CREATE TABLE plain AS SELECT row_number() OVER ()::int4 AS id, {ages} AS at, {IN_BINARY} FROM {TABLE}".encode()
    )
    bench.main.execute("ALTER TABLE plain ADD PRIMARY KEY (id)")
    bench.move("plain", "at")
    monkeypatch.delattr(rows, "to_copy")
    assert bench.archive.restore(bench.archive.segments()[0].table, to="back", target=bench.tiers.main).rows == 4
    assert bits(bench, "plain") == bits(bench, "back")


RANDOM = {
    "numeric": """CASE g % 11 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN '-Infinity' WHEN 3 THEN round(r * 1000, 2)
        WHEN 4 THEN r * r * 1e-10 WHEN 5 THEN 10::numeric ^ (g % 900) * r WHEN 7 THEN 0.000 WHEN 8 THEN g WHEN 9 THEN g * -10000
        WHEN 10 THEN round(r * 1000, g % 700) END""",
    "numeric(10, 2)": "r * 1000",
    "bytea": "CASE WHEN g % 5 > 0 THEN decode(left(md5(g::text), 2 * (g % 16)), 'hex') END",
    "inet": """CASE g % 5 WHEN 0 THEN '::1' WHEN 1 THEN '::ffff:1.2.3.4/96' WHEN 3 THEN NULL
        ELSE (g % 256) || '.' || (g * 7 % 256) || '.0.' || (g * 3 % 256) || CASE g % 2 WHEN 0 THEN '/' || g % 33 ELSE '' END
        END::inet""",
    "cidr": "CASE g % 2 WHEN 0 THEN '::/0' ELSE '1.2.' || g % 256 || '.0/24' END::cidr",
    "macaddr": "CASE WHEN g % 9 > 0 THEN left(md5(g::text), 12)::macaddr END",
    "oid": "(g::bigint * 429000 % 4294967296)::oid",
    "time": "CASE WHEN g % 5 = 0 THEN '24:00' ELSE time '00:00' + g * '77.123456 seconds'::interval END",
    "int4[]": """CASE g % 5 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY[g, -g, NULL] WHEN 3 THEN ARRAY[[1, g], [NULL, 2]]
        WHEN 4 THEN '[0:1]={5,6}' END""",
    "text[]": r"""CASE g % 8 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY['a,b', 'x"y', E'\\' || g, E'\\\\"', NULL, 'NULL', '', ' x ']
        WHEN 2 THEN ARRAY['NULL', NULL, '{', '}', ',' || g] WHEN 3 THEN ARRAY['big', 'small', md5(g::text)]
        WHEN 4 THEN ARRAY['é ' || g, E'\n'] WHEN 6 THEN ARRAY['', ''] WHEN 7 THEN ARRAY[['a', E'\\'], ['c}', NULL]] END""",
    "float8[]": "ARRAY[r, '-0', 'NaN', 'Infinity', NULL, '-Infinity', 5e-324]",
    "numeric[]": "ARRAY[round(r, g % 30), NULL, 'NaN', 1.10]",
    "bool[]": "ARRAY[g % 2 = 0, NULL]",
    "uuid[]": "ARRAY[md5(g::text)::uuid, NULL]",
    "timestamptz[]": "ARRAY[timestamptz '2013-01-01' + g * '1 day 0.123 seconds'::interval, '-infinity']",
}


@pytest.mark.parametrize("many", sampled([3_000, 100_000], 3_000))
def test_random_values_come_back_in_binary_as_they_do_as_text(bench: Bench, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    """The same segment restored both ways: all bits of all values are equal, and each way is the one that it says."""
    columns = ", ".join(f'({made})::{kind} AS "{kind}"' for kind, made in RANDOM.items())
    bench.main.execute("SELECT setseed(0.42)")
    bench.main.execute(
        f"CREATE TABLE random AS SELECT timestamptz '2013-01-01' + g * interval '1 second' AS at, g AS id, {columns}"
        f" FROM (SELECT g, random()::numeric * (1 - g % 2 * 2) AS r FROM generate_series(1, {many}) g) drawn".encode()
    )
    bench.main.execute("ALTER TABLE random ADD PRIMARY KEY (id), ALTER at SET NOT NULL")
    bench.move("random", "at")
    made = bits(bench, "random")
    for goes_in_binary, unused in ((True, (rows, "to_copy")), (False, (binary, "to_binary"))):
        with monkeypatch.context() as patched:
            patched.delattr(*unused)
            if not goes_in_binary:
                patched.setattr(restoring, "own_types", lambda *_: None)
            bench.archive.restore(TableName("public", "random"), to="back", target=bench.tiers.main)
        assert bits(bench, "back") == made
        bench.main.execute("DROP TABLE back")


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


@pytest.mark.parametrize("why", ["too large", "unknown"])
def test_a_value_that_is_not_turned_sends_the_table_as_text(bench: Bench, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """In the midst of it: what was sent until then is gone, and every row comes once."""
    bench.main.execute("CREATE TABLE t (at date NOT NULL, id int4 PRIMARY KEY, n numeric, a int4[])")
    bench.main.execute("INSERT INTO t SELECT '2013-01-01', g, g * 0.10, CASE g WHEN 4900 THEN array_fill(7, '{9000}') END"
                       " FROM generate_series(1, 5000) g")  # fmt: skip
    bench.move("t", "at")
    to_binary, turned, asked = binary.to_binary, list[int](), list[str]()

    def one(batch: pa.RecordBatch, types: Sequence[str]) -> memoryview:
        if why == "unknown" and sum(turned) > 4_000:
            raise ValueError
        turned.append(batch.num_rows)
        return to_binary(batch, types)

    monkeypatch.setattr(binary, "to_binary", one)
    monkeypatch.setattr(sending, "_BINARY_BYTES", 4_000)
    monkeypatch.setattr(sending, "ARRAY_BYTES_MAX", 15_000)
    to_copy = rows.to_copy
    monkeypatch.setattr(rows, "to_copy", lambda batch: asked.append(why) or to_copy(batch))
    assert bench.archive.restore(bench.archive.segments()[0].table, to="back", target=bench.tiers.main).rows == 5000
    assert (4_000 < sum(turned) < 5_000, bool(asked)) == (True, True)
    assert bits(bench, "t") == bits(bench, "back")
    assert bench.rows("SELECT min(ctid) FROM back") == [("(0,1)",)]
