"""What counts as one statement that only reads."""

import pytest

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.query.statement import parse


@pytest.mark.parametrize(
    "sql",
    [
        "insert into t values (1)", "update t set a = 1", "delete from t", "drop table t", "create table t (a int)",
        "truncate t", "copy t to stdout", "set role x", "call f()", "with x as (delete from t returning *) select * from x",
        "with x as (insert into t values (1) returning a) select * from x", "select * into y from t",
        "select * from t for update", "select * from t for share", "create table y as select 1", "vacuum t", "begin",
        "explain analyze delete from t", "merge into t using s on t.a = s.a when matched then delete",
        "grant select on t to x", "do $$ begin end $$", "lock table t", "notify a",
    ],
)  # fmt: skip
def test_what_does_more_than_read_is_refused(sql: str) -> None:
    with pytest.raises(UsageError):
        parse(sql)


@pytest.mark.parametrize("sql", ["", "select 1; select 2", "select (", "select $1", "select 1; drop table t", "nonsense"])
def test_what_is_no_single_readable_statement_is_refused(sql: str) -> None:
    with pytest.raises(UsageError):
        parse(sql)


@pytest.mark.parametrize(
    "sql", ["select 1;", "values (1)", "table t", "(select 1) union select 2", "with a as (select 1) select * from a"]
)
def test_reading_is_fine(sql: str) -> None:
    assert parse(sql).sql == sql


def test_a_word_is_told_from_a_statement_that_writes() -> None:
    with pytest.raises(UsageError, match="no question in SQL"):
        parse("selec")
    with pytest.raises(UsageError, match="DELETE does more than read"):
        parse("delete from t")


def test_tables_are_named_as_postgres_folds_them() -> None:
    found = parse('select * from Flights f, "Odd"."My Table", other.x where exists (select 1 from y) union select 1 from z')
    public = {TableName("public", name) for name in ("flights", "y", "z")}
    assert set(found.tables) == {TableName("Odd", "My Table"), TableName("other", "x"), *public}


def test_a_table_that_a_with_shadows_is_still_a_table() -> None:
    assert parse("with flights as (select * from flights) select * from flights").tables == (TableName("public", "flights"),)


def test_constants_are_left_to_core() -> None:
    found = parse(
        "select x + 1, day + 7 from t where at > now() - interval '30 days' and day < date '2013-01-01' and n = '5'::int"
    )
    assert len(found.constants) == 3
    assert parse("select random(), clock_timestamp(), 1 + 1 from t").constants == ()
