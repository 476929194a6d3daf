"""What a role lacks is told by every command that looks, before anything is changed (I10)."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from psycopg import sql

from support import Command, Tiers, tierkeeper_toml
from tierkeeper.postgres.link import Connection, Link

POLICY = {"name": "public.w", "age": "at", "core": "30 days", "main": "300 days"}
MAKE = "CREATE TABLE public.w (id int PRIMARY KEY, at timestamptz NOT NULL)"
FILL = "INSERT INTO public.w SELECT i, '2024-01-01' FROM generate_series(1, 9) AS i"
HOP = ("move", "w", "--from", "core", "--to", "main")


def as_plain(link: Link) -> Link:
    """The same database for a role with no more than its own tables."""
    host, _, rest = link.url.partition("://")[2].partition("@")[2].partition("/")
    return replace(link, url=f"postgresql://plain_mover:secret@{host}/{rest}")


@pytest.fixture
def plain(tiers: Tiers) -> Iterator[Tiers]:
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        core.execute("CREATE ROLE plain_mover LOGIN PASSWORD 'secret'")
        core.execute("GRANT CREATE ON SCHEMA public TO plain_mover")
        main.execute("GRANT CREATE ON SCHEMA public TO plain_mover")
        core.execute(f"{MAKE}; {FILL}; ALTER TABLE public.w OWNER TO plain_mover".encode())
    links = (tiers.core, tiers.main, tiers.catalog)
    core_, main_, catalog = map(as_plain, links)
    yield Tiers(core_, main_, catalog, tiers.store, tiers.home)
    for link in links:
        with closing(link.connect("app")) as conn:
            conn.execute("DROP OWNED BY plain_mover CASCADE")
    with closing(tiers.core.connect("app")) as core:
        core.execute("DROP ROLE plain_mover")


def allow(conn: Connection, link: Link) -> None:
    conn.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO plain_mover").format(sql.Identifier(link.parameters["dbname"])))


def test_the_schema_that_the_role_may_not_make(plain: Tiers, tiers: Tiers, ask: Command) -> None:
    config = str(tierkeeper_toml(plain, [POLICY]))
    for command in (("check",), ("setup",), (*HOP, "--dry-run"), HOP):
        told = str(ask(*command, "--config", config, code=2))
        for link in (tiers.core, tiers.main) if command != ("check",) else (tiers.core, tiers.main, tiers.catalog):
            assert f"GRANT CREATE ON DATABASE {link.parameters['dbname']}" in told
    for link in (tiers.core, tiers.main, tiers.catalog):
        with closing(link.connect("app")) as conn:
            allow(conn, link)
    ask("check", "--config", config)
    assert ask(*HOP, "--config", config)["rows"] == 9


def test_a_table_at_main_that_is_somebody_elses(plain: Tiers, tiers: Tiers, ask: Command) -> None:
    config = str(tierkeeper_toml(plain, [POLICY]))
    with closing(tiers.main.connect("app")) as main:
        for link in (tiers.core, tiers.main, tiers.catalog):
            with closing(link.connect("app")) as conn:
                allow(conn, link)
        main.execute("CREATE ROLE somebody_else")
        try:
            main.execute(f"{MAKE}; ALTER TABLE public.w OWNER TO somebody_else".encode())
            main.execute("GRANT SELECT, INSERT, DELETE ON public.w TO plain_mover")
            for command in (("check",), ("setup",), (*HOP, "--dry-run"), HOP):
                assert "GRANT somebody_else TO" in str(ask(*command, "--config", config, code=2))
            main.execute("GRANT somebody_else TO plain_mover")
            ask("check", "--config", config)
            assert ask(*HOP, "--config", config)["rows"] == 9
        finally:
            main.execute("DROP OWNED BY somebody_else CASCADE; DROP ROLE somebody_else")
