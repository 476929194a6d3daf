"""A Core above its quota: read-only for every new session. It is emptied through the pooler and comes back by itself."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hosted import Hosted
from support import Command, Tiers, TiersFactory, eventually, tierkeeper_toml
from tierkeeper.mover import pacing
from tierkeeper.postgres.link import Link
from tierkeeper.tiers.profile import SUPABASE_FREE
from tierkeeper.tiers.usage import measure

ROWS = 42_000
QUOTA = 40_000_000  # of which an empty server takes 30
GROWTH = 1_000_000  # what our own tables may add to a Core that is full: a dozen empty relations
POLICY = ({"name": "public.readings", "age": "at", "core": "30 days", "mode": "move"},)
FILL = """
CREATE TABLE public.readings (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text NOT NULL);
CREATE INDEX ON public.readings (at);
"""
MORE = f"""
INSERT INTO public.readings
SELECT i, now() - interval '300 days' + i * interval '570 seconds', repeat(md5(i::text), 5)
FROM generate_series(%s + 1, %s + {ROWS // 14}) AS i
"""


def ids(*links: Link) -> list[int]:
    found: list[int] = []
    for link in links:
        with closing(link.connect("test")) as conn:
            found += [int(str(i)) for (i,) in conn.execute("SELECT id FROM public.readings")]
    return sorted(found)


@pytest.fixture
def full(supabase_free: Hosted, make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    """Core is above its limit before tierkeeper ever saw it; Main and the catalog are servers of one's own."""
    own = make_tiers()
    tiers = Tiers(supabase_free.pooled, own.main, own.catalog, own.store, own.home)
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    path = tierkeeper_toml(tiers, POLICY, quotas={"core": f"{QUOTA}B"})
    path.write_text(path.read_text().replace("[tiers.core]", '[tiers.core]\nprofile = "supabase-free"'))
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(path))
    monkeypatch.chdir(tiers.home)
    supabase_free.quota_bytes = QUOTA
    with closing(supabase_free.session.connect("application")) as conn:
        conn.execute(FILL)
        for first in range(0, ROWS, ROWS // 14):
            conn.execute(MORE.encode(), [first, first])
            supabase_free.admin.execute("CHECKPOINT")  # so that no large log is kept for later use
    assert eventually(supabase_free.is_read_only)
    supabase_free.renew_sessions()
    return tiers


def refuses_writes(link: Link) -> bool:
    with closing(link.connect("application")) as conn:
        try:
            conn.execute("INSERT INTO public.readings VALUES (-1, now(), 'new')")
        except psycopg.errors.ReadOnlySqlTransaction:
            return True
        conn.execute("DELETE FROM public.readings WHERE id = -1")
        return False


def test_a_core_that_is_read_only_is_rescued_through_the_pooler(full: Tiers, supabase_free: Hosted, ask: Command) -> None:
    """I1, I9: rows leave by transactions that say READ WRITE for themselves; nobody else may write meanwhile."""
    assert refuses_writes(full.core)
    before = supabase_free.used_bytes()
    assert before > QUOTA
    supabase_free.peaks.used = 0
    status = ask("status")["tiers"]["core"]
    assert (status["read_only"], status["healthy"]) == (True, True)
    assert ask("setup", "--apply")["applied"] is True
    moved = ask("move", "readings", "--from", "core", "--to", "main", "--older-than", "290 days")
    assert moved["rows"] > 0
    assert refuses_writes(full.core)  # deleting alone gives nothing back
    assert supabase_free.peaks.used < before + GROWTH
    assert supabase_free.leaks() == []

    supabase_free.renew_sessions()  # a session that lives on counts its deletes late, and VACUUM's figures come before them
    told = ask("quota")
    assert told["errors"] == []
    assert supabase_free.used_bytes() < 0.95 * QUOTA
    assert eventually(lambda: not supabase_free.is_read_only())
    supabase_free.renew_sessions()
    assert not refuses_writes(full.core)
    assert ids(full.core, full.main) == list(range(1, ROWS + 1))
    assert supabase_free.leaks() == []


ROOM = 8_000_000  # what a disk of twice the quota has for log in the tests below, where Core is far above its quota


@pytest.fixture
def crowded(full: Tiers, supabase_free: Hosted, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    """What is left of Core's disk beside its data is far less than the log of moving all that is old."""
    path = Path(os.environ["TIERKEEPER_CONFIG"])
    path.write_text(path.read_text().replace(f"{QUOTA}B", f"{(supabase_free.used_bytes() + ROOM) // 2}B"))
    supabase_free.peaks.used = supabase_free.peaks.wal = 0
    return full


def move_all(ask: Command) -> dict[str, Any]:
    result: dict[str, Any] = ask("move", "readings", "--from", "core", "--to", "main", "--before", "2100-01-01")
    return result


def test_moving_out_of_a_full_core_does_not_fill_its_disk(crowded: Tiers, supabase_free: Hosted, ask: Command) -> None:
    """I9, on the real size of the log's folder: a checkpoint comes only when the run waits for it."""
    before, log = supabase_free.used_bytes(), supabase_free.written_bytes()
    with supabase_free.late_checkpoints():
        moved = move_all(ask)
    assert (moved["stopped_because"], moved["rows"]) == ("complete", ROWS)
    assert supabase_free.written_bytes() - log > 1.5 * ROOM  # as one log it would not have fitted
    assert supabase_free.peaks.looks > 100
    assert supabase_free.peaks.wal <= ROOM
    assert supabase_free.peaks.used < before + GROWTH
    assert ids(crowded.main) == list(range(1, ROWS + 1))
    assert supabase_free.leaks() == []


@pytest.mark.long
def test_without_a_checkpoint_the_run_ends_before_the_disk_is_full(
    crowded: Tiers, supabase_free: Hosted, ask: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "PACE_SECONDS", 0.5)
    moved = move_all(ask)
    assert "waiting for its next checkpoint" in moved["stopped_because"]
    assert 0 < moved["rows"] < ROWS
    assert supabase_free.peaks.wal <= ROOM
    supabase_free.admin.execute("GRANT pg_checkpoint TO app")
    assert move_all(ask)["stopped_because"] == "complete"  # a role that may, asks for one itself
    assert supabase_free.peaks.wal <= ROOM
    assert ids(crowded.main) == list(range(1, ROWS + 1))


def test_a_slot_that_nobody_reads_is_named_before_anything_is_written(
    crowded: Tiers, supabase_free: Hosted, ask: Command
) -> None:
    supabase_free.admin.execute("SELECT pg_create_physical_replication_slot('stuck', true)")
    error = ask("move", "readings", "--from", "core", "--to", "main", "--before", "2100-01-01", code=75)["error"]
    assert error["place"] == "tiers.core"
    assert "the replication slot stuck, which nobody reads, holds back" in error["cause"]
    assert "pg_drop_replication_slot('stuck')" in error["remedy"]
    with closing(crowded.main.connect("test")) as conn:
        assert conn.execute("SELECT to_regnamespace('tierkeeper'), to_regclass('readings')").fetchone() == (None, None)
    supabase_free.admin.execute("SELECT pg_drop_replication_slot('stuck')")


def test_a_session_that_a_pooler_has_kept_does_not_hide_the_switch(supabase_free: Hosted) -> None:
    """I9: what counts is what the provider has set, in both directions, not what an old session was given."""
    with closing(supabase_free.session.connect("application")) as conn:
        conn.execute("CREATE TABLE public.readings (id bigint, at timestamptz, body text)")

    def seen() -> bool:
        with closing(supabase_free.pooled.connect("usage")) as conn:
            return measure(conn, SUPABASE_FREE).read_only

    assert (seen(), refuses_writes(supabase_free.pooled)) == (False, False)
    supabase_free.read_only(True)
    assert (seen(), refuses_writes(supabase_free.pooled)) == (True, False)  # the session is older than the switch
    supabase_free.renew_sessions()
    assert (seen(), refuses_writes(supabase_free.pooled)) == (True, True)
    supabase_free.read_only(False)
    assert (seen(), refuses_writes(supabase_free.pooled)) == (False, True)
    supabase_free.read_only(True)
    with closing(supabase_free.pooled.connect("careless")) as conn:
        conn.execute("SET default_transaction_read_only = off")
    assert seen()
    supabase_free.admin.execute("ALTER ROLE app IN DATABASE core SET default_transaction_read_only = off")
    assert not seen()
