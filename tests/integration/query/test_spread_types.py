"""Types that DuckDB has no equal of, in rows that really moved: a reader gets the same text from every tier, Postgres's own."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest

from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import TableName

ODD = TableName("public", "odd")
DDL = """
CREATE DOMAIN flag AS bool; CREATE DOMAIN ratio AS float8; CREATE DOMAIN money_like AS numeric(10,2);
CREATE DOMAIN moment AS timestamptz;
CREATE TYPE pair AS (a int, b text);
CREATE TABLE odd (
    id int PRIMARY KEY, at moment NOT NULL, c char(5), ip inet, f flag, r ratio, m money_like, p pair, tags text[],
    wide numeric, e date
);
INSERT INTO odd SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 day', (array['ab', '', NULL])[1 + i % 3],
    (array['10.0.0.1', '10.0.0.0/8', NULL])[1 + i % 3]::inet, i % 2 = 0, i / 3.0, i / 7.0,
    (array[(i, NULL)::pair, (NULL, NULL)::pair])[1 + i % 2],
    array['a b', NULL, '"'], 10 ^ i, CASE WHEN i = 2 THEN date '-infinity' ELSE date '2024-01-01' END
FROM generate_series(0, 29) i
"""
SHOWN = ["c", "ip", "p", "tags", "wide"]
QUESTIONS = (
    "select count(*) as n from odd where f",
    "select f as n, count(*) as m from odd group by f order by f",
    "select sum(m) as n, max(r) as m from odd",
    "select count(*) as n from odd where r > 2.5 and m < 3",
    "select count(*) as n, min(at) as m from odd where at >= '2024-01-05' and at < '2024-01-25'",
    "select id as n from odd where at = '2024-01-11' order by id",
)


@pytest.fixture
def spread(make_tiers: TiersFactory) -> Iterator[tuple[Tiers, Keeper]]:
    """Ten rows in each tier; `odd_before` in Core has all of them."""
    tiers = make_tiers()
    with closing(tiers.core.connect("test")) as core:
        core.execute(DDL)
        core.execute("CREATE TABLE odd_before AS TABLE odd")
    config = tierkeeper_toml(tiers, [{"name": "public.odd", "age": "at", "core": "30 days"}], query_timeout="1 second")
    keeper = open_keeper(load(config, {}, tiers.home), environment=tiers.environment)
    keeper.setup(apply=True)
    assert keeper.move(ODD, "core", "main", before=datetime(2024, 1, 21, tzinfo=UTC)).rows == 20
    time.sleep(1.2)  # the rows' rest at Main
    assert keeper.move(ODD, "main", "archive", before=datetime(2024, 1, 11, tzinfo=UTC)).rows == 10
    yield tiers, keeper


def test_every_tier_shows_a_value_as_postgres_does(spread: tuple[Tiers, Keeper]) -> None:
    tiers, keeper = spread
    with closing(tiers.core.connect("test")) as core:
        wanted = core.execute(
            f"SELECT id, {', '.join(f'CASE num_nulls({c}) WHEN 0 THEN concat({c}) END' for c in SHOWN)} FROM odd_before".encode()
        ).fetchall()
        assert {r[1] for r in wanted} == {"ab   ", "     ", None}, "the blanks of character(5) count"
        got = [tuple(r.values()) for r in keeper.query(f"select id, {', '.join(SHOWN)} from odd").to_pylist()]
        assert sorted(got) == sorted(wanted)
        core.execute("SET TimeZone = 'UTC'")
        for question in QUESTIONS:
            want = core.execute(question.replace("odd", "odd_before").encode()).fetchall()
            assert [tuple(r.values()) for r in keeper.query(question).to_pylist()] == want, question
    assert keeper.query("select 1 as n where exists (select 1 from odd where at < '2024-01-02')").to_pylist() == [{"n": 1}]


def test_an_archived_value_that_no_result_can_hold_is_named(spread: tuple[Tiers, Keeper]) -> None:
    _, keeper = spread
    with pytest.raises(Failed, match=r"9999") as raised:
        keeper.query("select e from odd where id > 5")
    assert raised.value.place == "public.odd.e"
    assert len(keeper.query("select e from odd where at >= '2024-01-11'")) == 20
