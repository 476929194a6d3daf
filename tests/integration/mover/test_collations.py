"""Keys in the order of a language, on another version of Postgres: Debian's, which has ICU where the embedded build has none."""

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from support import Command, Tiers, tierkeeper_toml
from tierkeeper.demo.server import EmbeddedPostgres

MAKE = """
CREATE COLLATION public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE public.german (name text COLLATE "de-x-icu" PRIMARY KEY, at timestamptz NOT NULL, n int, note text);
CREATE TABLE public.loose (a int, name text COLLATE public.any_case, at timestamptz NOT NULL, n int, PRIMARY KEY (name, a));
INSERT INTO public.german SELECT chr(97 + i * 7 % 26) || (ARRAY['ä', 'z', 'ß', 'Å', '-', ' '])[1 + i % 6] || i,
    timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', i, repeat('ö', i % 3) FROM generate_series(1, 2000) AS i;
INSERT INTO public.loose SELECT i % 3, 'Key ' || i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', i
FROM generate_series(1, 2000) AS i;
"""
TABLES = ("german", "loose")
WHOLE = 'SELECT count(*), sum(hashtextextended(t::text COLLATE "C", 0)) FROM public.{} AS t'


def policies() -> list[dict[str, str]]:
    return [{"name": f"public.{t}", "age": "at", "core": "30 days", "main": "60 days"} for t in TABLES]


@pytest.fixture
def old(debian: EmbeddedPostgres, tiers: Tiers) -> Iterator[Tiers]:
    """Core and Main on Debian's server, the catalog on the embedded one."""
    for name in ("core", "main"):
        debian.create_database(name)
    made = Tiers(debian.link("core", "core"), debian.link("main", "main"), tiers.catalog, tiers.store, tiers.home)
    with closing(made.core.connect("app")) as core:
        core.execute(MAKE.encode())
    yield made
    for name in ("core", "main"):
        debian.drop_database(name)


@pytest.mark.long
def test_rows_go_down_and_come_back_whatever_their_order(old: Tiers, ask: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(tierkeeper_toml(old, policies(), query_timeout="3 seconds"))
    monkeypatch.setenv("HOME", str(old.home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    with closing(old.core.connect("app")) as core, closing(old.main.connect("app")) as main:
        before = {t: core.execute(WHOLE.format(t).encode()).fetchone() for t in TABLES}
        ask("setup", "--apply", "--config", config)
        for table in TABLES:
            hop = ("--from", "core", "--to", "main", "--before", "2024-02-20")
            assert ask("move", table, *hop, "--config", config)["rows"] == 1199
            asked = ask("query", f"SELECT count(*), sum(n) FROM {table}", "--config", config)
            assert asked == [{"count": 2000, "sum": 2001 * 1000}]

        for table in TABLES:
            up = ("--from", "main", "--to", "core", "--where", "true", "--config", config)
            while ask("move", table, *up)["stopped_because"] != "complete":
                time.sleep(0.5)
            assert core.execute(WHOLE.format(table).encode()).fetchone() == before[table]
            assert main.execute(f"SELECT count(*) FROM public.{table}".encode()).fetchone() == (0,)

        down = ("--from", "core", "--to", "main", "--before", "2024-02-20", "--config", config)
        while ask("move", "loose", *down)["stopped_because"] != "complete":
            time.sleep(0.5)
        core.execute("INSERT INTO public.loose VALUES (1, 'KEY 1', '2024-01-01', -1)")  # the key that Main has, written otherwise
        again = ask("move", "loose", *down)
        assert (again["rows"], len(again["conflicts"])) == (0, 1)
        assert ask("query", "SELECT count(*), min(n) FROM loose", "--config", config) == [{"count": 2000, "min": -1}]


def test_a_main_that_lacks_the_collation_is_told_of_it(
    old: Tiers, tiers: Tiers, ask: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: before anything is changed, by every command that looks."""
    monkeypatch.setenv("HOME", str(old.home))
    without = Tiers(old.core, tiers.main, tiers.catalog, tiers.store, tiers.home)
    config = str(tierkeeper_toml(without, policies()))
    hop = ("--from", "core", "--to", "main", "--before", "2024-02-20", "--config", config)
    things = "SELECT count(*) FROM pg_class"
    with closing(old.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        before = core.execute(things).fetchone(), main.execute(things).fetchone()
        told = str(ask("check", "--config", config, code=2))
        assert "de-x-icu" in told
        assert "any_case" in told
        setup = str(ask("setup", "--config", config, code=2))
        for table, collation in (("german", "de-x-icu"), ("loose", "any_case")):
            for more in (["--dry-run"], []):
                error = ask("move", table, *hop, *more, code=2)["error"]
                assert f"table public.{table}, column 'name'" in error["place"]
                assert collation in error["cause"]
            assert collation in setup
        assert (core.execute(things).fetchone(), main.execute(things).fetchone()) == before


def test_a_column_that_is_there_in_another_order_takes_the_rows(
    old: Tiers, tiers: Tiers, ask: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(old.home))
    without = Tiers(old.core, tiers.main, tiers.catalog, tiers.store, tiers.home)
    config = str(tierkeeper_toml(without, policies()[:1]))
    with closing(tiers.main.connect("app")) as main:
        main.execute("CREATE TABLE public.german (name text PRIMARY KEY, at timestamptz NOT NULL, n int, note text)")
        hop = ("--from", "core", "--to", "main", "--before", "2024-02-20", "--config", config)
        assert ask("move", "german", *hop)["rows"] == 1199
