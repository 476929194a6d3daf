"""The whole life of a table through a pooler in transaction mode, and what our commands leave on its server connections."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hosted import Hosted
from support import EVENTS, Command, Tiers, tierkeeper_toml
from tierkeeper.postgres.link import Link, transaction

POLICY = (
    {"name": "public.events", "age": "at", "core": "30 days", "main": "60 days", "mode": "move"},
    {"name": "public.kinds", "mode": "mirror"},
)
LEAKS = {
    "SET statement_timeout = '1min'": "setting statement_timeout=60000",
    "SET default_transaction_read_only = off": "setting default_transaction_read_only=off",
    "SELECT pg_advisory_lock(7)": "lock ExclusiveLock",
    "CREATE TEMP TABLE left_over (a int)": "temporary table left_over",
    "PREPARE left_over AS SELECT 1": "statement left_over",
    "LISTEN left_over": "channel left_over",
    "SET search_path = 'elsewhere'": "path elsewhere",
}


def test_the_look_for_leaks_sees_each_kind(supabase_free: Hosted) -> None:
    assert supabase_free.leaks() == []
    with closing(supabase_free.pooled.connect("careless")) as conn:
        for statement in LEAKS:
            conn.execute(statement.encode())
    found = supabase_free.leaks()
    assert [leak for leak in LEAKS.values() if leak not in found] == []


def test_a_client_that_leaves_right_after_reading_costs_the_pooler_no_connection(supabase_free: Hosted) -> None:
    """It gives up a server connection whose client goes away before it was told that the transaction has ended."""
    pids = set()
    for _ in range(20):
        with closing(supabase_free.pooled.connect("usage")) as conn, transaction(conn, read_only=True) as cur:
            pids.add(cur.execute("SELECT pg_backend_pid()").fetchone())
    assert len(pids) == 1


@pytest.fixture
def pooled(supabase_free: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    """All three databases behind the pooler, two thousand events in Core, and a configuration named by TIERKEEPER_CONFIG."""
    store, home = tmp_path / "store", tmp_path / "home"
    store.mkdir(mode=0o700)
    home.mkdir(mode=0o700)
    main, catalog = (supabase_free.pooled_database(name) for name in ("main", "archive"))
    tiers = Tiers(supabase_free.pooled, main, catalog, store, home)
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(tierkeeper_toml(tiers, POLICY)))
    monkeypatch.chdir(home)
    with closing(supabase_free.session.connect("application")) as conn:
        conn.execute(EVENTS)
    return tiers


def ids(link: Link) -> list[int]:
    with closing(link.connect("test")) as conn:
        return [int(str(i)) for (i,) in conn.execute("SELECT id FROM public.events ORDER BY id")]


@contextmanager
def writers(link: Link) -> Iterator[list[int]]:
    """Two clients of the same pooler that add events old enough to be moved, and change some; gives the ids they have added."""
    added: list[int] = []
    failed: list[Exception] = []
    stop = threading.Event()

    def write(first: int) -> None:
        try:
            with closing(link.connect("application")) as conn:
                number = first
                while not stop.is_set():
                    conn.execute("INSERT INTO public.events VALUES (%s, '2024-01-05', 'a', 'late')", [number])
                    added.append(number)
                    conn.execute("UPDATE public.events SET body = body || '!' WHERE id = %s", [number - first + 300])
                    number += 2
                    time.sleep(0.002)
        except Exception as error:  # noqa: BLE001 - told in the test's thread
            failed.append(error)

    threads = [threading.Thread(target=write, args=(first,)) for first in (10_000, 10_001)]
    for thread in threads:
        thread.start()
    try:
        yield added
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []


@pytest.mark.long
def test_the_whole_life_through_transaction_mode(pooled: Tiers, supabase_free: Hosted, ask: Command) -> None:
    assert ask("check")["ok"] is True
    assert ask("setup", "--apply")["applied"] is True
    assert ask("setup")["steps"] == []
    with writers(pooled.core) as added:
        moved = ask("move", "events", "--from", "core", "--to", "main", "--before", "2024-02-20")
    moved_later = ask("move", "events", "--from", "core", "--to", "main", "--before", "2024-02-20")
    assert moved["rows"] > 0  # while rows changed under it
    assert moved["rows"] + moved_later["rows"] == len(ids(pooled.main)) == 1199 + len(added)
    everything = sorted([*range(1, 2001), *added])
    assert sorted(ids(pooled.core) + ids(pooled.main)) == everything
    assert ask("query", "SELECT count(*) AS n FROM events") == [{"n": len(everything)}]
    time.sleep(1.3)
    archived = ask("archive", "run", "events", "--before", "2024-01-20")
    assert archived["runs"][0]["rows"] > 400
    assert ask("query", "SELECT count(*) AS n, count(DISTINCT id) AS d FROM events") == [
        {"n": len(everything), "d": len(everything)}
    ]
    assert ask("archive", "verify")["ok"] is True
    assert ask("archive", "restore", "events", "--to", "public.old_events")["rows"] == archived["runs"][0]["rows"]
    assert ask("quota")["errors"] == []  # the policy's ages are long past: all that has rested goes to the archive
    file = pooled.home / "old.parquet"
    ask("archive", "restore", "events", "--to", str(file))
    archived_ids = pq.read_table(file, columns=["id"]).column(0).to_pylist()
    assert sorted(ids(pooled.core) + ids(pooled.main) + archived_ids) == everything
    assert {t["healthy"] for t in ask("status")["tiers"].values()} == {True}
    for link in (pooled.core, pooled.main, pooled.catalog):
        assert supabase_free.leaks(link) == [], link.tier
