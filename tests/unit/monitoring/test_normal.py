"""No value gets into what is shown of a statement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.monitoring.normal import normal

SECRET = "hunter2"
PLACES = (
    "SELECT * FROM users WHERE password = '{}'",
    "SELECT E'it\\'s {}' FROM t",
    "SELECT 'a''{}' FROM t",
    "SELECT $${}$$, $tag$ '{}' $tag$ FROM t",
    "SELECT $tag${}",
    "/* {} */ SELECT 1",
    "-- {}\nSELECT 1",
    "SELECT /* a /* {} */ {} */ 1",
    "SELECT U&'{}', B'{}', N'{}' FROM t",
    "SELECT 'a\\'{}' FROM t",  # a backslash escapes the quote, or the session says that it does not
    "SELECT 'cut in the middle {}",
    'SELECT "cut in the middle {}',
    "ALTER ROLE app PASSWORD '{}'",
    "CREATE USER MAPPING FOR app SERVER s OPTIONS (user 'u', password '{}')",
    "  /* x */ ALTER USER {} WITH PASSWORD '{}'",
    "SET app.token = '{}'",
    "COPY t TO PROGRAM 'curl {}'",
    "{} is no SQL",
    "WITH x AS (SELECT '{}') SELECT * FROM x",
    "INSERT INTO t VALUES ('{}')",
)


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_stays_out_wherever_it_stands(place: str) -> None:
    assert SECRET not in normal(place.replace("{}", SECRET), 1000)


@given(st.sampled_from(["'{}'", "$${}$$", "$q${}$q$", "/*{}*/", "--{}\n"]), st.text("ab'\\$\"/*-\n q", max_size=12))
def test_a_value_of_any_shape_stays_out(quoted: str, filling: str) -> None:
    if ("'" in quoted and filling.replace("''", "").count("'")) or ("--" in quoted and "\n" in filling):
        return  # it would end the value, and what follows is none
    if ("$" in quoted and "$" in filling) or ("/*" in quoted and ("*/" in filling + "*" or filling.endswith("*"))):
        return
    assert SECRET not in normal("SELECT a FROM t WHERE b = " + quoted.replace("{}", filling + SECRET), 1000)


def test_what_is_no_value_is_shown() -> None:
    assert (
        normal('SELECT  "a b".c1,\n $1 FROM t2 WHERE x = 4 -- why\n LIMIT 1.5e3', 200)
        == 'SELECT "a b".c1, $1 FROM t2 WHERE x = ? LIMIT ?'
    )
    assert normal("UPDATE t SET a = $2 WHERE id = $1", 200) == "UPDATE t SET a = $2 WHERE id = $1"
    assert normal("vacuum (analyze) secret_table", 200) == "VACUUM ANALYZE …"
    assert normal("", 200) == "…"
    assert normal("SELECT " + "a, " * 100, 20) == "SELECT a, a, a, a, …"
