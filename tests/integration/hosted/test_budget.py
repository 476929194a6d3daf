"""The estimate of a move beside what it then writes: to the log of both servers, and to Main for good."""

import os
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hosted import Hosted
from support import Command, Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.postgres.link import Link

FACTOR = 2  # what `docs/internals/hosted.md` says of the estimate
BUILD = {
    "in order": "i, timestamptz '2024-01-01' + i * interval '1 minute', md5(i::text)",
    "anywhere": "(i * 7919) % 1000003, timestamptz '2024-01-01' + (i * 7919) % 12007 * interval '1 minute', md5(i::text)",
    "large": (
        "i, timestamptz '2024-01-01' + i * interval '1 minute',"
        " (SELECT string_agg(md5((i * 400 + n)::text), '') FROM generate_series(1, 250) AS n)"
    ),
}
ROWS = {"in order": 12_000, "anywhere": 12_000, "large": 800}


@pytest.fixture
def hosted_core(supabase_free: Hosted, make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    """Core is hosted, Main and the catalog are not; no table yet."""
    own = make_tiers()
    tiers = Tiers(supabase_free.pooled, own.main, own.catalog, own.store, own.home)
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    names = [name.replace(" ", "_") for name in BUILD]
    policy = [{"name": f"public.{name}", "age": "at", "mode": "move"} for name in names]
    path = tierkeeper_toml(tiers, policy, quotas={"core": "60MB"})
    path.write_text(path.read_text().replace("[tiers.core]", '[tiers.core]\nprofile = "supabase-free"'))
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(path))
    monkeypatch.chdir(tiers.home)
    return tiers


def number(link: Link, query: str) -> int:
    with closing(link.connect("test")) as conn:
        (value,) = conn.execute(query.encode()).fetchone() or (None,)
    return int(str(value))


def log(link: Link) -> int:
    return number(link, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")


def within(estimate: int, real: int) -> bool:
    return real / FACTOR <= estimate <= real * FACTOR


def test_the_plan_says_what_the_move_writes(hosted_core: Tiers, supabase_free: Hosted, ask: Command) -> None:
    tables = {}
    with closing(supabase_free.session.connect("application")) as conn:
        for kind, columns in BUILD.items():
            table = kind.replace(" ", "_")
            tables[kind] = table
            conn.execute(f"CREATE TABLE public.{table} (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text)".encode())
            conn.execute(f"INSERT INTO public.{table} SELECT {columns} FROM generate_series(1, {ROWS[kind]}) AS i".encode())
            conn.execute(f"CREATE INDEX ON public.{table} (at)".encode())
            conn.execute(f"ANALYZE public.{table}".encode())
    ask("setup", "--apply")
    found: dict[str, Any] = {}
    for kind, table in tables.items():
        before = "2024-01-06" if kind != "large" else "2024-01-01 08:00"
        arguments = ("move", table, "--from", "core", "--to", "main", "--before", before)
        supabase_free.admin.execute("CHECKPOINT")
        plan = ask(*arguments, "--dry-run")
        core, main, size = log(hosted_core.core), log(hosted_core.main), f"SELECT pg_total_relation_size('public.{table}')"
        held = number(hosted_core.main, size)
        moved = ask(*arguments)
        assert moved["rows"] == plan["rows"] > 0
        found[kind] = {
            "wal_bytes": (plan["wal_bytes"], log(hosted_core.core) - core),
            "destination_wal_bytes": (plan["destination_wal_bytes"], log(hosted_core.main) - main),
            "destination_bytes": (plan["destination_bytes"], number(hosted_core.main, size) - held),
        }
    assert [(kind, f) for kind, figures in found.items() for f in figures.items() if not within(*f[1])] == []


def test_what_main_has_no_room_for_is_refused_before_anything_is_written(
    hosted_core: Tiers, supabase_free: Hosted, ask: Command
) -> None:
    """The plan says so too, `--limit` as it is told passes, and the quota manager moves as many as fit."""
    with closing(supabase_free.session.connect("application")) as conn:
        conn.execute("CREATE TABLE public.in_order (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text)")
        conn.execute(f"INSERT INTO public.in_order SELECT {BUILD['in order']} FROM generate_series(1, 12000) AS i".encode())
    path = Path(os.environ["TIERKEEPER_CONFIG"])
    main_bytes = number(hosted_core.main, "SELECT pg_database_size(current_database())")
    text = path.read_text().replace("10GB", f"{main_bytes + 2_200_000}B")
    path.write_text(text.replace('name = "public.in_order"', 'name = "public.in_order"\ncore = "30 days"'))
    arguments = ("move", "in_order", "--from", "core", "--to", "main", "--before", "2025-01-01")
    error = ask(*arguments, code=75)["error"]
    assert error["place"] == "tiers.main"
    assert number(hosted_core.main, "SELECT count(*) FROM pg_namespace WHERE nspname = 'tierkeeper'") == 0
    assert any(error["cause"] in note for note in ask(*arguments, "--dry-run")["notes"])
    limit = int(str(re.findall(r"--limit (\d+)", error["remedy"])[0]))
    assert 500 <= limit < 12_000
    moved = ask("quota")
    stopped = [(m["rows"], m["stopped_because"]) for m in moved["moves"] if m["from"] == "core"]
    assert stopped[0][0] > limit / 2
    assert "no room" in stopped[0][1]
    assert number(hosted_core.main, "SELECT pg_database_size(current_database())") <= main_bytes + 2_200_000
    left, below = (number(link, "SELECT count(*) FROM public.in_order") for link in (hosted_core.core, hosted_core.main))
    assert (left + below, below) == (12_000, stopped[0][0])
