"""The whole data set in Postgres: counts, types, keys, and the oracle's reading of it."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from support import TiersFactory
from tierkeeper.demo import oracle
from tierkeeper.postgres.link import Connection


@pytest.fixture
def core(make_tiers: TiersFactory) -> Iterator[Connection]:
    with closing(make_tiers(core="flights").core.connect("test")) as conn:
        yield conn


def _one(conn: Connection, query: str) -> tuple[object, ...] | None:
    return conn.execute(query).fetchone()


def test_rows_orphans_keys_and_types(core: Connection) -> None:
    tables = ("flights", "planes", "airports", "airlines", "weather")
    counts = [_one(core, f"SELECT count(*) FROM public.{name}") for name in tables]
    assert counts == [(336_776,), (3_322,), (1_458,), (16,), (26_115,)]
    orphans = "SELECT count(*) FROM flights LEFT JOIN {} p ON p.{} = flights.{} WHERE p.{} IS NULL"
    assert _one(core, orphans.format("planes", "tailnum", "tailnum", "tailnum")) == (52_606,)
    assert _one(core, orphans.format("airports", "faa", "dest", "faa")) == (7_602,)
    keys = core.execute(
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype IN ('p', 'f') AND connamespace = 'public'::regnamespace ORDER BY 1, contype DESC, 2"
    ).fetchall()
    assert keys == [
        ("airlines", "PRIMARY KEY (carrier)"),
        ("airports", "PRIMARY KEY (faa)"),
        ("flights", "PRIMARY KEY (time_hour, carrier, flight)"),
        ("flights", "FOREIGN KEY (carrier) REFERENCES airlines(carrier)"),
        ("flights", "FOREIGN KEY (origin) REFERENCES airports(faa)"),
        ("planes", "PRIMARY KEY (tailnum)"),
        ("weather", "PRIMARY KEY (origin, time_hour)"),
    ]
    types = core.execute(
        "SELECT DISTINCT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'public.flights'::regclass AND attnum > 0"
    ).fetchall()
    assert sorted(types) == [("integer",), ("smallint",), ("text",), ("timestamp with time zone",)]


def test_the_oracle_reads_the_tables_and_finds_what_was_planted(core: Connection) -> None:
    original = oracle.Original.load()
    core.execute("SET TimeZone = 'America/New_York'")
    core.execute("SET DateStyle = 'German'")
    assert original.lost_and_doubled([oracle.read_rows(core)]) == (0, 0)
    core.execute("UPDATE flights SET tailnum = '' WHERE ctid = (SELECT min(ctid) FROM flights WHERE tailnum IS NULL)")
    assert original.lost_and_doubled([oracle.read_rows(core)]) == (1, 0)
    core.execute('CREATE TABLE public."Other Tier" AS SELECT * FROM flights WHERE flight = 1545')
    core.execute("DELETE FROM flights WHERE ctid = (SELECT min(ctid) FROM flights WHERE tailnum IS NOT NULL AND flight <> 1545)")
    other = oracle.read_rows(core, 'public."Other Tier"')
    assert original.lost_and_doubled([oracle.read_rows(core), other]) == (2, other.num_rows)
    assert other.num_rows > 0


def test_an_empty_table_is_no_rows(core: Connection) -> None:
    core.execute("TRUNCATE flights")
    assert oracle.read_rows(core).num_rows == 0


def test_a_foreign_key_that_holds_is_enforced(core: Connection) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        core.execute("DELETE FROM airlines WHERE carrier = 'UA'")
