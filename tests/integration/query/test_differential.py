"""The same statement over three tiers and over one Postgres that has all the rows: the answers are the same, or none is given."""

import math
import random
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.query.world import World, build
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.query.values import divider

STATEMENTS = r"""
select count(*) from readings
select * from readings where id < 20
select id, extra, extra is null as nothing from readings where id > 290 or id < 3
select site, count(*), sum(n) from readings group by site order by site
select date_trunc('month', at) as month, count(*) from readings group by 1 order by 1
select date_trunc('week', day), count(*) from readings group by date_trunc('week', day)
select avg(n), avg(price), avg(small), avg(big), sum(big), sum(price), sum(small), min(at), max(at) from readings
select min(n), max(price), min(day), max(ts), min(f4), max(rate) from readings
select max(f), min(f) from readings where f = f
select id, at, site, word, small, n, big, price, rate, f, f4, ok, day, ts, u from readings order by id desc limit 7
select n/7, n%7, -n, abs(n), n*2+1, 7/3, -7/2, -7%3 from readings
select price/rate, price*rate, price-rate, round(price,1), round(price/rate,3) from readings
select 1.0/3, 2/3.0, price/7, rate/30000, 100.0*n/3 from readings where n is not null
select sum(n) / count(*), sum(n)::float8 / count(*), 100.0 * sum(n) / count(*) from readings
select price * 1.5, price + 1, n * 0.1, -price, round(rate), round(price, 4), ceil(price), floor(f4::float8) from readings
select count(*) from readings where at >= '2013-06-01' and at < now() - interval '30 days'
select count(*) from readings where at < current_date and day > date '2013-02-01' + 5 and ts < timestamp '2013-12-01 10:00'
select extract(year from at), extract(month from day), extract(epoch from ts), extract(epoch from day) from readings
select extract(second from at), extract(dow from at), extract(isodow from day), extract(week from day) from readings
select extract(doy from ts), extract(quarter from ts), extract(isoyear from ts) from readings
select extract(hour from ts), extract(minute from at) from readings
select r.site, s.name, count(*) from readings r left join sites s using (site) group by 1,2 order by 1 nulls first
select s.site, count(r.id) from readings r right join sites s on s.site = r.site and r.n > 0 group by s.site
select r.id, s.name from sites s full join readings r on s.site = r.site where r.id < 9 or r.id is null
select r.id from readings r left join sites s on s.site = r.site where s.name is null and r.site is not null
with m as (select site s, max(price) p from readings group by 1) select id, p from readings join m on s = site and p = price
with a as (select * from readings where ok), b as materialized (select id from a) select count(*) from a, b where a.id = b.id
with readings as (select * from readings where n > 0) select count(*) from readings
select id from readings where word like 'b\_c' or word like '%pf_l' or word not like 'a%'
select word from readings order by word collate "C", id limit 50
select count(distinct site), count(distinct word) filter (where ok), count(ok), count(*) filter (where n > 0) from readings
select bool_and(ok), bool_or(n > 990), sum(distinct small), avg(distinct small), avg(n) filter (where n > 2000) from readings
select case when n > 0 then 'pos' when n < 0 then 'neg' else 'zero' end as sign, count(*) from readings group by 1
select case when ok then n else price end, case when n = 3 then small end from readings
select id::text || site, ts::text, day::text, price::text, ok::text, u::text, word || '!' from readings
select day + 7, day - date '2013-01-01', at + interval '1 month' from readings
select ts - interval '1 day 2 hours', day + interval '1 day' from readings
select at - interval '1 year 2 mons -3 days 04:05:06.789' as x, day - day, day - 3 from readings
select n::numeric(10,2), price::int, (f4::int), n::float8, small::bigint, at::date, day::timestamptz, price::float8 from readings
select coalesce(n, small, 0), nullif(n, 5), greatest(n, small), least(price, 0), coalesce(word, 'none') from readings
select site, avg(price) as p from readings group by site having avg(price) > -100000 order by p desc nulls last
select a.id from readings a join readings b on b.id = a.id + 1 where a.n < b.n
select id from readings where site in (select site from sites) and n in (1,2,3,-5) or word = 'apple' or small in (1, 2.5)
select id from readings where n not in (1, 2) and site not in ('EWR') and not (ok and n > 0)
select site from readings union select site from sites order by site
select n from readings except all select small from readings
select small from readings intersect select n from readings order by 1
select n as x from readings union all select price from readings order by x nulls first
select (select count(*) from sites), count(*) from readings
select s.site, (select max(r.n) from readings r where r.site = s.site) from sites s
select count(*) from readings r where exists (select 1 from sites s where s.site = r.site)
select id from readings where n between -100 and 100 and at between '2013-03-01' and '2013-08-01 12:00+02'
select id, price from readings order by price desc, id limit 5 offset 3
select id, n from readings order by n, id limit 40
select x from (select id as x, n as y from readings) q where y > 0 order by 1 limit 3
select q.b, sum(q.a) from (select n, site from readings) as q(a, b) group by q.b
select distinct ok, small > 0 as pos from readings
select length(word), count(*) from readings group by length(word)
select id, fixed, code, said, raw, lex from readings where length(said) > 3 and said like '%p%' order by id
select id from readings where u is not null order by u limit 30
select count(*) from readings, sites cross join sites s2
select a + b % c, a - b - c, a * b / c, -a + b from (select n as a, small as b, 3 as c from readings) q
select a = b is null, not a > b and b is not null, a is distinct from b from (select n as a, small as b from readings) q
select id from readings where ok is true and (n > 0) is not true and n is not distinct from small or small is null
select id from readings where f = 'nan' or f > '1e5'::float8 or f4 = 0.5 or f4 < 1 or f < 'infinity'
select sum(n + small), count(*) * 2, max(id) - min(id) from readings where site = 'EWR' group by ok
select site, ok, count(*) from readings group by site, ok order by count(*) desc, site, ok
select extract(year from at) as y, site s, sum(price) from readings group by y, s having count(*) > 1 order by y, s
select 'x' as a, null as b, true as c, 1.50 as d, 5000000000 as e from readings limit 1
select at from readings where at = (select max(at) from readings)
select count(*) from readings where day in (date '2013-01-01', '2013-01-02') or n not between 0 and 900
select "id" as "Id", id as id from readings where id = 5
select t.* from readings r join sites t on t.site = r.site where r.id < 30
"""

REFUSED = {
    "select upper(word) from readings": "upper",
    "select row_number() over (order by id) from readings": "window",
    "select random(), id from readings": "",
    "select max(date_part('year', at)) from readings": "date_part",
    "select sum(f4) from readings": "float4",
    "select extra from readings group by extra": "jsonb",
    "select count(distinct extra) from readings": "jsonb",
    "select id from readings where extra = '{}'": "jsonb",
    "select distinct extra from readings": "jsonb",
    "select at - ts from readings": "interval",
    "select length(fixed) from readings": "character(5)",
    "select id from readings where length(code) = 2": "code",
    "select length(raw) from readings": "bytea",
    "select max(length(lex)) from readings": "tsvector",
    "select fixed || 'x' from readings": "character(5)",
    "select id from readings where fixed like 'ap%'": "character(5)",
    "select f::text from readings": "cast",
    "select word::int from readings": "cast",
    "select f::int::text, round(f) from readings": "rounds",
    "select id from readings where at > 'yesterday'": "2013-10-01",
    "select distinct on (site) site from readings": "",
    "select site, count(*) from readings group by rollup (site)": "",
    "select string_agg(word, ',') from readings": "",
    "with recursive a as (select 1 as x union select x + 1 from a where x < 3) select count(*) from a, readings": "recursive",
    "select id from readings natural join sites": "",
    "select readings from readings": "",
    "select xmin from readings": "",
    "select id from readings tablesample system (50)": "",
    "select id from only readings": "",
    "select id from readings limit all": "",
    "select id from readings where word ilike 'a%'": "ilike",
    "select to_char(at, 'YYYY') from readings": "",
    "select id from readings, lateral (select 1) l": "",
    "select at at time zone 'America/New_York' from readings": "",
    "select (1, 2) = (n, small) from readings": "",
    "select array[n] from readings": "",
}

FAIL = (
    "select n / 0 from readings",
    "select n % 0 from readings",
    "select f / 0 from readings",
    "select price / 0 from readings",
    "select big * big from readings",
    "select small + 32767::smallint from readings",
    "select (big * 1000)::int from readings",
    "select f * '1e300'::float8 from readings where f = '1e10'::float8",
)


@pytest.fixture(scope="module")
def world(cluster: EmbeddedPostgres) -> Iterator[World]:
    made = build(cluster, "differential")
    yield made
    for tier in ("core", "main", "catalog", "oracle"):
        cluster.drop_database(f"differential_{tier}")


def in_postgres(world: World, statement: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    with closing(world.oracle.connect("test")) as conn, conn.transaction():
        conn.execute("SET LOCAL TimeZone = 'UTC'")
        cur = conn.execute(statement.encode())
        return [d.name for d in cur.description or ()], cur.fetchall()


def plain(value: Any) -> Any:
    """What two drivers give for one value, made comparable."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return str(value) if isinstance(value, UUID) else '{"a": 1}' if isinstance(value, dict) else value


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(plain(v) for v in row) for row in zip(*(c.to_pylist() for c in table.columns), strict=True)]


def assert_same(world: World, statement: str) -> None:
    names, wanted = in_postgres(world, statement)
    table = world.door().query(statement)
    got, want = rows_of(table), [tuple(plain(v) for v in row) for row in wanted]
    assert table.column_names == names
    if " order by " not in statement:
        got, want = sorted(got, key=repr_key), sorted(want, key=repr_key)
    assert got == want
    assert [[type(v) for v in row] for row in got] == [[type(v) for v in row] for row in want]


def repr_key(row: tuple[Any, ...]) -> str:
    return repr([v.normalize() if isinstance(v, Decimal) else v for v in row])


@pytest.mark.parametrize("statement", STATEMENTS.strip().splitlines())
def test_the_answer_is_postgres_s(world: World, statement: str) -> None:
    assert_same(world, statement)


@pytest.mark.parametrize(("statement", "named"), REFUSED.items())
def test_what_would_differ_is_refused_by_name(world: World, statement: str, named: str) -> None:
    with pytest.raises(UsageError) as raised:
        world.door().query(statement)
    assert named in str(raised.value)
    assert raised.value.remedy


@pytest.mark.parametrize("statement", FAIL)
def test_an_error_in_postgres_is_an_error_here(world: World, statement: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 - whichever error it is in Postgres
        in_postgres(world, statement)
    with pytest.raises(Failed):
        world.door().query(statement)


def test_quotients_have_postgres_s_digits(world: World) -> None:
    chance = random.Random(3)  # noqa: S311 - the same pairs every time
    pairs = [
        (chance.randrange(-(10 ** chance.randrange(1, 14)), 10**6), chance.randrange(1, 10 ** chance.randrange(1, 9)))
        for _ in range(300)
    ]
    tops, bottoms = [Decimal(a).scaleb(-2) for a, _ in pairs], [Decimal(b).scaleb(-3) for _, b in pairs]
    with closing(world.oracle.connect("test")) as conn:
        wanted = conn.execute("SELECT a / b FROM unnest(%s::numeric[], %s::numeric[]) AS t (a, b)", [tops, bottoms]).fetchall()
    for top, bottom, (want,) in zip(tops, bottoms, wanted, strict=True):
        assert divider(2, 3)(top, bottom) == want, (top, bottom)


NUMBERS = st.sampled_from(["n", "small", "price", "rate", "id", "3", "-7", "2.50", "n::bigint", "coalesce(n, 1)"])
TESTS = st.sampled_from([
    "n > 10", "small is null", "site = 'JFK'", "ok", "not ok", "price between -100 and 500.5", "word like '%p%'",
    "day >= '2013-04-01'",
    "at < '2013-09-09 10:00'", "n in (1, 5, small)", "rate < 0.5", "f > 0", "word <> 'apple'", "ts is not null", "n % 2 = 0",
])  # fmt: skip


@st.composite
def statements(draw: st.DrawFn) -> str:
    """A family of statements: arithmetic, conditions, grouping, joins."""
    number = f"{draw(NUMBERS)} {draw(st.sampled_from('+-*'))} {draw(NUMBERS)} {draw(st.sampled_from('+-'))} {draw(NUMBERS)}"
    number = draw(
        st.sampled_from(
            [number, f"({number}) * 2", f"-({number})", f"abs({number})", f"case when {draw(TESTS)} then {number} end"]
        )
    )
    where = f" {draw(st.sampled_from(['and', 'or']))} ".join(
        f"{draw(st.sampled_from(['', 'not ']))}({draw(TESTS)})" for _ in range(draw(st.integers(1, 3)))
    )
    source = draw(st.sampled_from(["readings", "readings left join (select site as s, name from sites) x on s = site"]))
    if draw(st.booleans()):
        key = draw(st.sampled_from(["site", "ok", "date_trunc('month', at)", "extract(dow from day)", "small / 2"]))
        aggregate = draw(st.sampled_from(["sum({})", "count({})", "min({})", "max({})", "avg({})", "count(distinct {})"])).format(
            number
        )
        return f"select {key} as k, {aggregate} as v, count(*) from {source} where {where} group by 1"
    return f"select id, {number} as v from {source} where {where}"


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(statement=statements())
def test_generated_statements_agree(world: World, statement: str) -> None:
    try:
        in_postgres(world, statement)
    except psycopg.DataError:
        with pytest.raises(Failed):
            world.door().query(statement)
        return
    try:
        assert_same(world, statement)
    except UsageError as error:
        assert "average" in str(error) or "type" in str(error), (statement, str(error))


TEXTUAL = ("word", "site", "said", "fixed", "code", "raw", "lex", "extra", "u")
OF_TEXT = (
    "length({0})", "char_length({0})", "octet_length({0})", "bit_length({0})", "upper({0})", "lower({0})", "reverse({0})",
    "substring({0} from 1 for 2)", "left({0}, 2)", "position('a' in {0})", "strpos({0}, 'p')", "trim({0})", "md5({0})",
    "{0} || 'x'", "word || {0}", "{0} || {0}", "{0} like 'ap%'", "{0} not like '%p'", "{0} = 'ap'", "{0} = {0}", "{0} < 'b'",
    "word = {0}", "{0} in ('ap', 'it''s')", "coalesce({0}, 'x')", "nullif({0}, 'ap')", "case when ok then {0} end", "{0}::text",
    "{0} collate \"C\"", "max({0})", "count({0})", "count(distinct {0})", "length(max({0}))", "{0} is null", "greatest({0}, 'b')",
)  # fmt: skip
ANSWERED = {"length(word)", "length(said)", "word || said", "said like 'ap%'", "count(fixed)", "raw is null", "said::text"}


@pytest.mark.long
def test_what_may_be_taken_for_text_is_answered_right_or_refused(world: World) -> None:
    """A function of text may be another one of that name for another type, in Postgres."""
    answered = set()
    for what in (form.format(column) for column in TEXTUAL for form in OF_TEXT):
        try:
            world.door().query(f"select {what} as x from readings")
        except UsageError:
            continue
        assert_same(world, f"select {what} as x from readings")
        answered.add(what)
    assert answered >= ANSWERED
