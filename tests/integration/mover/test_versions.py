"""Between two versions of Postgres a value stays what it was, or is refused by its column's name (I4, I10)."""

import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest

from support import Command, Tiers, sampled, tierkeeper_toml
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.postgres.link import Link

MAKE = """
CREATE DOMAIN public.lasting AS interval; CREATE TYPE public.spans AS RANGE (SUBTYPE = interval);
CREATE TYPE public.span AS (a int, b interval);
CREATE TABLE public.w (id int PRIMARY KEY, at timestamptz NOT NULL, v {type});
INSERT INTO public.w VALUES (1, '2024-01-01', {value}), (2, '2024-01-01', NULL)
"""
LONGEST = "178956970 years 7 mons 2147483647 days 2562047788 hours 54.775807 seconds"
TYPES = {
    "interval": "'{}'", "public.lasting": "'{}'", "interval[]": "ARRAY['1 day', '{}']::interval[]",
    "public.spans": "public.spans('1 day', '{}')", "public.span": "(1, '{}')",
}  # fmt: skip


@pytest.fixture
def databases(debian: EmbeddedPostgres, tiers: Tiers) -> Iterator[dict[str, Link]]:
    """One on Postgres 15 and one on Postgres 17."""
    debian.create_database("fifteen")
    yield {"15": debian.link("core", "fifteen"), "17": tiers.core}
    debian.drop_database("fifteen")


@pytest.mark.parametrize(
    ("way", "kind"),
    sampled(
        itertools.product(("15 -> 17", "17 -> 15"), TYPES), *(("15 -> 17", kind) for kind in TYPES), ("17 -> 15", "interval")
    ),
)
def test_an_endless_interval_is_never_made_of_a_long_one_nor_the_other_way(
    databases: dict[str, Link], tiers: Tiers, ask: Command, way: str, kind: str
) -> None:
    source, destination = (databases[v] for v in way.split(" -> "))
    value = TYPES[kind].format("infinity" if way.startswith("17") else LONGEST)
    core, main = Link("core", source.url, source.sslrootcert), Link("main", destination.url, destination.sslrootcert)
    config = str(
        tierkeeper_toml(
            Tiers(core, main, tiers.catalog, tiers.store, tiers.home),
            [{"name": "public.w", "age": "at", "core": "30 days", "main": "300 days"}],
        )
    )
    with closing(core.connect("app")) as conn, closing(main.connect("app")) as there:
        conn.execute(MAKE.format(type=kind, value=value).encode())
        before = conn.execute("SELECT v::text FROM public.w WHERE id = 1").fetchone()
        hop = ("move", "w", "--from", "core", "--to", "main", "--config", config)
        error = ask(*hop, code=1)["error"]
        assert ("column v" if way.startswith("17") else "read back differs") in error["cause"]
        assert there.execute("SELECT count(*) FROM public.w").fetchone() == (0,)
        assert conn.execute("SELECT v::text FROM public.w WHERE id = 1").fetchone() == before

        ordinary = TYPES[kind].format("1 mon -2 days 00:00:00.5")
        conn.execute(f"UPDATE public.w SET v = {ordinary} WHERE id = 1".encode())
        kept = conn.execute("SELECT v::text FROM public.w WHERE id = 1").fetchone()
        assert ask(*hop)["rows"] == 2
        assert there.execute("SELECT v::text FROM public.w WHERE id = 1").fetchone() == kept
