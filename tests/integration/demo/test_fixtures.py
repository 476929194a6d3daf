"""The fixtures that every other test stands on."""

from contextlib import closing

import psycopg

from support import FLIGHTS_POLICY, DatabaseFactory, Tiers, TiersFactory, tierkeeper_toml


def test_databases_are_fresh_and_apart(database_factory: DatabaseFactory) -> None:
    one, two = database_factory("Same Hint"), database_factory("Same Hint")
    with closing(psycopg.connect(one, autocommit=True)) as conn:
        conn.execute("CREATE TABLE public.only_here ()")
    with closing(psycopg.connect(two, autocommit=True)) as conn:
        found = conn.execute("SELECT count(*) FROM pg_class WHERE relname = 'only_here'").fetchone()
    assert found == (0,)


def test_a_sample_has_every_table_and_every_hundredth_flight(make_tiers: TiersFactory) -> None:
    with closing(make_tiers(core="sample").core.connect("test")) as conn:
        counts = conn.execute(
            "SELECT (SELECT count(*) FROM flights), (SELECT count(*) FROM airports), (SELECT count(DISTINCT month) FROM flights)"
        ).fetchone()
    assert counts == (3_368, 1_458, 12)


def test_tiers_are_verified_and_apart(tiers: Tiers) -> None:
    names = set()
    for link in (tiers.core, tiers.main, tiers.catalog):
        assert link.parameters["sslmode"] == "verify-full"
        with closing(link.connect("test")) as conn:
            names.add(conn.execute("SELECT current_database()").fetchone())
    assert len(names) == 3
    assert tiers.store.is_dir()


def test_the_toml_names_the_tiers(tiers: Tiers) -> None:
    import tomllib

    written = tomllib.loads(tierkeeper_toml(tiers, FLIGHTS_POLICY, extra='[alerts]\nnotify = ["x"]').read_text())
    assert written["tiers"]["core"]["url"] == tiers.core.url
    assert written["tiers"]["archive"] == {
        "catalog": tiers.catalog.url,
        "store": str(tiers.store),
        "quota": "100GB",
        "sslrootcert": tiers.catalog.sslrootcert,
    }
    assert [t["name"] for t in written["tables"]] == ["public.flights", "public.airlines", "public.airports"]
    assert written["query"] == {"timeout": "1 second"}
    assert written["alerts"] == {"notify": ["x"]}
