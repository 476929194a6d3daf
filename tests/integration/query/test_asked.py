"""The log of asked ages: what it keeps, and that it neither fails a query nor keeps it waiting."""

import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import pytest

from integration.query.test_door import ITEMS, door
from integration.query.world import set_up
from support import Tiers
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.watching import Touched
from tierkeeper.monitoring import asked
from tierkeeper.monitoring.asked import EVERYTHING, AskedLog, Reads
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load
from tierkeeper.query.runner import FastDoor

NOW = datetime(2013, 2, 1, tzinfo=UTC)
TODAY = NOW.date()


@pytest.fixture
def main(tiers: Tiers) -> Iterator[Connection]:
    """A connection to Main; ten items are in Core, of the first days of 2013, and Main has the log."""
    for link in (tiers.core, tiers.main, tiers.catalog):
        with closing(link.connect("test")) as conn:
            set_up(conn)
            conn.execute("CREATE TABLE items (id int PRIMARY KEY, at timestamptz NOT NULL, note text)")
    with closing(tiers.core.connect("test")) as conn:
        conn.execute("INSERT INTO items SELECT i, '2013-01-01'::timestamptz + i * interval '1 day' FROM generate_series(0, 9) i")
    with closing(tiers.main.connect("test")) as conn:
        conn.execute(load("tierkeeper.postgres", "schema.sql")["asked"])
        yield conn


@pytest.fixture
def fast(tiers: Tiers) -> FastDoor:
    policies = [TablePolicy(ITEMS, age="at")]
    log = AskedLog(lambda: NOW)
    return FastDoor(tiers.core, tiers.main, tiers.catalog, policies, timeout_seconds=30, archive=None, asked=log)


def kept(main: Connection) -> list[tuple[object, ...]]:
    return main.execute("SELECT day, oldest_days, youngest_days, count FROM tierkeeper.asked ORDER BY 1, 2, 3").fetchall()


def test_each_scan_is_counted_by_the_ages_that_it_allows(fast: FastDoor, main: Connection, tiers: Tiers) -> None:
    fast.query("SELECT count(*) FROM items WHERE at >= '2013-01-26'")  # 6 days old at most
    fast.query("SELECT count(*) FROM items WHERE at >= '2013-01-27' AND note = 'a secret'")  # 5
    fast.query("SELECT count(*) FROM items WHERE at BETWEEN '2013-01-01' AND '2013-01-04'")  # 31 to 28
    fast.query("SELECT count(*) FROM items WHERE at < '2013-01-04' OR id = 3")  # anything
    fast.query("SELECT count(*) FROM items a JOIN items b USING (id) WHERE a.at > '2013-01-31' AND b.at > '2013-01-31'")
    assert kept(main) == [(TODAY, EVERYTHING, 0, 1), (TODAY, 1, 0, 2), (TODAY, 5, 0, 1), (TODAY, 7, 0, 1), (TODAY, 45, 21, 1)]
    (columns,) = main.execute("SELECT array_agg(attname::text) FROM pg_attribute WHERE attnum > 0"
                              " AND attrelid = 'tierkeeper.asked'::regclass").fetchone() or ((),)  # fmt: skip
    assert set(columns) == {"schema_name", "table_name", "day", "oldest_days", "youngest_days", "count"}
    assert asked.read(tiers.main, TODAY) == {ITEMS: Reads({1: 2, 5: 1, 7: 1, 45: 1}, 1, TODAY)}
    assert asked.read(tiers.main, TODAY + timedelta(days=1)) == {}


def test_what_fails_or_is_core_s_alone_is_not_counted(fast: FastDoor, main: Connection) -> None:
    with pytest.raises(Exception, match="zero"):
        fast.query("SELECT 1 / (id - id) FROM items")
    fast.query("SELECT 1")
    assert kept(main) == []


@pytest.mark.parametrize(
    "broken",
    [
        "DROP TABLE tierkeeper.asked",
        "ALTER TABLE tierkeeper.asked DROP COLUMN count",
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        "BEGIN; LOCK TABLE tierkeeper.asked",
    ],
    ids=["missing", "another", "read-only", "locked"],
)
def test_no_query_fails_because_it_cannot_be_noted(fast: FastDoor, main: Connection, tiers: Tiers, broken: str) -> None:
    (name,) = main.execute("SELECT quote_ident(current_database())").fetchone() or ("",)
    main.execute(broken.replace("{}", name).encode())
    began = time.monotonic()
    assert fast.query("SELECT count(*) FROM items").column(0).to_pylist() == [10]
    assert time.monotonic() - began < 10
    if "DROP TABLE" in broken:
        assert asked.read(tiers.main, TODAY) == {}
    if "read_only" in broken:  # nothing more is wanted there (I9)
        assert kept(main) == []


def test_a_standby_or_a_role_without_rights_is_no_fault_either(fast: FastDoor, main: Connection) -> None:
    main.execute("REVOKE ALL ON tierkeeper.asked FROM PUBLIC")
    main.execute("CREATE FUNCTION tierkeeper.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
    main.execute("CREATE TRIGGER no BEFORE INSERT ON tierkeeper.asked EXECUTE FUNCTION tierkeeper.no()")
    assert fast.query("SELECT count(*) FROM items").column(0).to_pylist() == [10]
    assert kept(main) == []


def test_days_become_months_and_old_months_go(main: Connection, tiers: Tiers) -> None:
    days = [TODAY - timedelta(days=n) for n in (0, 1, 39, 60, 61, 90, 500)]
    for n, day in enumerate(days):
        main.execute("INSERT INTO tierkeeper.asked VALUES ('public', 'items', %s, 7, 0, %s)", [day, 10**n])
    AskedLog(lambda: NOW).note(main, [Touched(ITEMS, NOW - timedelta(days=1), None)])  # a new row: it tidies up
    found = {day: count for day, oldest, _, count in kept(main) if oldest == 7}
    assert found == {
        TODAY: 1, TODAY - timedelta(days=1): 10, date(2012, 12, 24): 100, date(2012, 12, 1): 11_000, date(2012, 11, 1): 100_000,
    }  # fmt: skip
    AskedLog(lambda: NOW).note(main, [Touched(ITEMS, NOW - timedelta(days=1), None)])
    assert asked.read(tiers.main, date(2012, 1, 1))[ITEMS].by_oldest == {1: 2, 7: 111_111}


def test_the_log_stays_small_whatever_is_asked(main: Connection) -> None:
    for n in range(0, 4_000, 37):
        AskedLog(lambda: NOW).note(main, [Touched(ITEMS, NOW - timedelta(days=n), NOW - timedelta(days=n // 2))])
    assert len(kept(main)) < 80


def test_it_costs_a_query_next_to_nothing(main: Connection) -> None:
    log, taken = AskedLog(lambda: NOW), []
    for _ in range(30):
        began = time.perf_counter()
        log.note(main, [Touched(TableName("public", "items"), NOW - timedelta(days=5), None)])
        taken.append(time.perf_counter() - began)
    assert statistics.median(taken) < 0.03


def test_it_is_off_where_nobody_wants_it(tiers: Tiers, main: Connection) -> None:
    door(tiers).query("SELECT count(*) FROM items")
    assert kept(main) == []
