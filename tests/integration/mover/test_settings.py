"""Whatever a role or a database has set, a move and its plan say and do the same (I4, I10)."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from psycopg import sql

from support import Command, Tiers, tierkeeper_toml
from tierkeeper.cli.app import run
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.ports import Batch
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.postgres.catalog import server_now
from tierkeeper.postgres.link import Link, transaction, translated

MAKE = """
CREATE TABLE public.w (id text PRIMARY KEY, at timestamptz NOT NULL, arr text[], v interval, f float8, b bytea);
INSERT INTO public.w
SELECT 'k' || i, '2024-03-31 02:30+02'::timestamptz + i * interval '1 min', '{a,NULL}', '1 mon 2 days', 0.1, '\\x00'
FROM generate_series(1, 300) AS i
"""
POLICY = {"name": "public.w", "age": "at", "core": "30 days", "main": "300 days"}
SETTINGS = {
    "DateStyle": "German, DMY", "TimeZone": "America/New_York", "IntervalStyle": "sql_standard", "quote_all_identifiers": "on",
    "statement_timeout": "300ms", "transaction_timeout": "300ms", "idle_in_transaction_session_timeout": "100ms",
}  # fmt: skip


def unsettle(link: Link) -> None:
    """Settings that the next session at `link` begins with."""
    with closing(link.connect("app")) as conn:
        for name, value in SETTINGS.items():
            database = sql.Identifier(link.parameters["dbname"])
            conn.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, sql.Identifier(name), value))


@pytest.fixture
def unsettled(tiers: Tiers) -> Iterator[Tiers]:
    with closing(tiers.core.connect("app")) as core:
        core.execute(MAKE.encode())
    for link in (tiers.core, tiers.main, tiers.catalog):
        unsettle(link)
    yield tiers


def test_a_move_and_its_plans_under_settings_of_all_kinds(unsettled: Tiers, ask: Command) -> None:
    config = str(tierkeeper_toml(unsettled, [POLICY]))
    hop = ("move", "w", "--from", "core", "--to", "main")
    ask("check", "--config", config)
    planned = ask(*hop, "--dry-run", "--config", config)
    ago = datetime.now(UTC) - timedelta(days=30)
    assert planned["rows"] == 300
    assert abs(datetime.fromisoformat(planned["cutoff"]) - ago) < timedelta(minutes=10)
    assert planned["cutoff"].endswith(("Z", "+00:00"))

    assert ask(*hop, "--limit", "100", "--config", config)["rows"] == 100
    assert [s for s in ask("setup", "--config", config)["steps"] if s["tier"] == "main" and s["table"]] == []
    assert ask(*hop, "--config", config)["stopped_because"] == "complete"

    with closing(unsettled.main.connect("app")) as main, transaction(main) as cur:
        assert cur.execute("SELECT count(*), min(arr::text), min(v) FROM public.w").fetchone() == (300, "{a,NULL}", timedelta(32))


def test_what_is_read_with_the_commit_is_read_as_it_was_written(unsettled: Tiers) -> None:
    cutoff = datetime(2024, 7, 4, 12, 30, 0, 120, tzinfo=UTC)
    with closing(unsettled.main.connect("mover")) as conn:
        assert server_now(conn).tzinfo is UTC
        with transaction(conn) as cur:
            (days,) = cur.last("SELECT ARRAY[%s, NULL]::timestamptz[]", [cutoff]).fetchone() or (None,)
        assert days == [cutoff, None]


def test_a_batch_that_a_run_left_is_found(unsettled: Tiers, ask: Command) -> None:
    ask("setup", "--apply", "--config", str(tierkeeper_toml(unsettled, [POLICY])))
    cutoff = datetime(2024, 7, 4, 12, 30, tzinfo=UTC)
    with closing(unsettled.main.connect("mover")) as conn:
        there = PostgresDestination(conn, "main", "core", 1)
        there.open(Batch(uuid4(), "core", TableName("public", "w"), "at", cutoff, "true"))
        assert [row.batch.cutoff for row in there.unsettled()] == [cutoff]


def test_a_clock_that_was_set_back_is_told_where_rows_rest_by_it(unsettled: Tiers, ask: Command) -> None:
    ask("setup", "--apply", "--config", str(tierkeeper_toml(unsettled, [POLICY])))
    with closing(unsettled.main.connect("mover")) as conn:
        there = PostgresDestination(conn, "main", "core", 0)
        batch = Batch(uuid4(), "core", TableName("public", "w"), "at", datetime(2024, 7, 4, tzinfo=UTC), "true")
        there.open(batch)
        settle = "UPDATE tierkeeper.ledger SET state = 'done', settled_at = clock_timestamp() + %s::interval"
        conn.execute(settle, ["0"])
        assert there.rests(batch.table, 30) == "resting: rows that came to main stay for 30 s (query.timeout)"
        conn.execute(settle, ["3 hours 0.9 seconds"])
        told = str(there.rests(batch.table, 30))
        assert "(query.timeout), and for 03:00:0" in told
        assert told.endswith("more: the clock of main's server was set back by that")


def test_no_statement_of_ours_is_cut_short(unsettled: Tiers) -> None:
    with closing(unsettled.core.connect("mover")) as conn:
        with transaction(conn) as cur:
            cur.execute("SELECT pg_sleep(0.5)")
        with transaction(conn, read_only=True) as cur:
            cur.last("SELECT pg_sleep(0.5)")
        with transaction(conn, ahead=[sql.SQL("SELECT pg_sleep(0.3)")]) as cur:
            cur.execute("SELECT 1")
            time.sleep(0.2)  # another tier is at work
            cur.execute("SELECT 1")


@pytest.mark.parametrize("name", ["idle_in_transaction_session_timeout", "transaction_timeout", "idle_session_timeout"])
def test_where_a_setting_ends_a_session_all_the_same_the_remedy_names_it(tiers: Tiers, name: str) -> None:
    with (
        pytest.raises(NotNow) as told,
        translated("there"),
        closing(tiers.core.connect("mover")) as conn,
        nullcontext() if name == "idle_session_timeout" else conn.transaction(),
    ):
        conn.execute(f"SET {name} = '10ms'".encode())
        time.sleep(0.2)
        conn.execute("SELECT 1")
    assert f"SET {name} = 0" in told.value.remedy


@pytest.fixture
def without_encoding(cluster: EmbeddedPostgres, tiers: Tiers) -> Iterator[Tiers]:
    """A Core that takes any bytes for text."""
    make = "CREATE DATABASE ascii_core ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with closing(tiers.main.connect("app")) as conn:
        conn.execute(make)
    yield replace(tiers, core=cluster.link("core", "ascii_core"))
    cluster.drop_database("ascii_core")


def test_bytes_that_are_no_text_are_told_of_the_tier_that_has_them(
    without_encoding: Tiers, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = str(tierkeeper_toml(without_encoding, [POLICY]))
    with closing(without_encoding.core.connect("app")) as core:
        core.execute("CREATE TABLE public.w (id int PRIMARY KEY, at timestamptz NOT NULL, v text)")
        core.execute("INSERT INTO public.w VALUES (1, '2024-01-01', E'\\xff'), (2, '2024-01-01', 'ok')")
        assert run(["move", "w", "--from", "core", "--to", "main", "--json", "--config", config]) == 1
        out, err = capfd.readouterr()
        error = json.loads(out)["error"]
        assert error["place"] == "public.w (core)"
        assert "0xff" in error["cause"]
        assert not [word for word in ("ascii_core", "psycopg", "user=") if word in err + caplog.text]
        assert core.execute("SELECT count(*) FROM public.w").fetchone() == (2,)
