"""The queue's schema on Main: made by the setup, brought up to date, and told where it cannot be used."""

from collections.abc import Mapping
from contextlib import closing

import pytest

from support import Command, Tiers, tierkeeper_toml
from tierkeeper.postgres.link import Link, transaction
from tierkeeper.setup import queue


@pytest.fixture
def configured(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(tierkeeper_toml(tiers)))
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    return tiers


def say(main: Link, statement: str) -> list[tuple[object, ...]]:
    with closing(main.connect("test")) as conn:
        cur = conn.execute(statement.encode())
        return cur.fetchall() if cur.description else []


def objects(main: Link) -> Mapping[str, object]:
    """What the queue's schema has: its columns, functions and indexes."""
    found = say(
        main,
        """
        SELECT table_name || '.' || column_name, data_type || is_nullable FROM information_schema.columns
        WHERE table_schema = 'tierkeeper_jobs'
        UNION ALL SELECT oid::regprocedure::text, md5(regexp_replace(prosrc, '\\s+', ' ', 'g')) FROM pg_proc
        WHERE pronamespace = 'tierkeeper_jobs'::regnamespace
        UNION ALL SELECT indexname, regexp_replace(indexdef, '^.* USING', '') FROM pg_indexes WHERE schemaname = 'tierkeeper_jobs'
        """,
    )
    return {str(name): what for name, what in found}


def test_the_setup_makes_it_once_and_leaves_the_path_alone(configured: Tiers, ask: Command) -> None:
    action = "create schema tierkeeper_jobs with the queue of jobs"
    path = say(configured.main, "SHOW search_path")
    assert action in [s["action"] for s in ask("setup")["steps"]]
    ask("setup", "--apply")
    assert ask("setup")["steps"] == []
    assert say(configured.main, "SHOW search_path") == path
    made = say(
        configured.main,
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'procrastinate%' AND relnamespace = 'public'::regnamespace",
    )
    assert made == [(0,)]


def test_an_older_one_is_brought_up_to_date(configured: Tiers, ask: Command) -> None:
    """From the library's first version on: it becomes what a new one is."""
    ask("setup", "--apply")
    fresh = objects(configured.main)
    first = queue.versions()[0]
    with closing(configured.main.connect("test")) as conn, transaction(conn) as cur:
        cur.execute("DROP SCHEMA tierkeeper_jobs CASCADE")
        cur.execute(
            b"CREATE SCHEMA tierkeeper_jobs; SET LOCAL search_path = tierkeeper_jobs;"
            + (queue.folder() / "migrations" / f"{first}.sql").read_bytes()
        )
        cur.execute(f"COMMENT ON SCHEMA tierkeeper_jobs IS '{first}'".encode())
    steps = ask("setup", "--apply")["steps"]
    assert [s["action"] for s in steps] == [f"bring the queue of jobs to version {one}" for one in queue.versions()[1:]]
    assert ask("setup")["steps"] == []
    assert objects(configured.main) == fresh


def test_one_that_this_machine_cannot_use_is_told_and_kept(configured: Tiers, ask: Command) -> None:
    ask("setup", "--apply")
    before = objects(configured.main)
    say(configured.main, "COMMENT ON SCHEMA tierkeeper_jobs IS '99.00.00_01_later'")
    for command in (["setup", "--apply"], ["run", "--once"], ["worker"]):
        assert "is of version 99.00.00_01_later" in ask(*command, code=2)["error"]["cause"], command
    say(configured.main, "COMMENT ON SCHEMA tierkeeper_jobs IS NULL")
    assert "is not one that tierkeeper has made" in ask("setup", "--apply", code=2)["error"]["cause"]
    assert objects(configured.main) == before


def test_a_wrong_time_is_one_error(configured: Tiers, ask: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "TIERKEEPER_CONFIG", str(tierkeeper_toml(configured, extra='[schedule]\nquota = "0 25 * * *"\nscrub = "off"'))
    )
    error = ask("run", "--once", code=2)["error"]
    assert error["place"].endswith("schedule.quota")
    assert 'such as "0 4 * * sun"' in error["remedy"]
