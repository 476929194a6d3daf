"""An archive on clean tiers: two databases for all of these tests, emptied before each, which is faster than making new ones."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from archive_bench import Bench
from support import Tiers, TiersFactory
from tierkeeper.archive.service import Archive
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.objectstore.directory import DirectoryStore
from tierkeeper.postgres.statements import load
from vault import House, furnish, furnish_segments

_CLEAN = """DO $$
DECLARE found text;
BEGIN
    FOR found IN SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %s CASCADE', found);
    END LOOP;
    CREATE SCHEMA public;
END $$"""


@pytest.fixture(scope="module")
def databases(cluster: EmbeddedPostgres) -> Iterator[tuple[str, str]]:
    names = f"archive_main_{uuid4().hex[:8]}", f"archive_catalog_{uuid4().hex[:8]}"
    for name in names:
        cluster.create_database(name)
    yield names
    for name in names:
        cluster.drop_database(name)


@pytest.fixture
def tiers(server_folder: Path, cluster: EmbeddedPostgres, databases: tuple[str, str]) -> Iterator[Tiers]:
    """Main and catalog, empty; Core is a database without tierkeeper's schema."""
    main, catalog = databases
    folder = Path(tempfile.mkdtemp(prefix="tiers-", dir=server_folder))
    home, store = folder / "home", folder / "store"
    home.mkdir()
    links = cluster.link("core", "postgres"), cluster.link("main", main), cluster.link("archive", catalog)
    for link in links[1:]:
        with closing(link.connect("test")) as conn:
            conn.execute(_CLEAN)
    yield Tiers(*links, store=store, home=home)
    shutil.rmtree(folder)


@pytest.fixture
def bench(tiers: Tiers) -> Iterator[Bench]:
    own = list(load("tierkeeper.postgres", "schema.sql").values())
    store = DirectoryStore(tiers.store)
    keys, _ = KeyRing.create(tiers.home / ".config" / "tierkeeper", {})
    archive = Archive(store, tiers.catalog, lambda: keys, SystemClock(), source_marker=lambda _: "open")
    with closing(tiers.main.connect("test")) as main, closing(tiers.catalog.connect("test")) as catalog:
        for conn in (main, catalog):
            for statement in own:
                conn.execute(statement)
        for text in archive.schema.values():
            catalog.execute(text.encode())
        main.execute("SET TimeZone = 'UTC'")
        yield Bench(tiers, main, archive, store, keys)


@pytest.fixture
def small(bench: Bench) -> Bench:
    """`public.events` with three rows of 2013, one of 2014."""
    bench.main.execute("CREATE TABLE public.events (at timestamptz NOT NULL, id int4 PRIMARY KEY, what text)")
    bench.main.execute(
        "INSERT INTO public.events"
        " VALUES ('2013-01-01', 1, 'a'), ('2013-02-01', 2, NULL), ('2013-03-01', 3, ''), ('2014-01-01', 4, 'd')"
    )
    return bench


@pytest.fixture
def house(make_tiers: TiersFactory, cluster: EmbeddedPostgres) -> House:
    """Two thousand events in Main, nothing archived."""
    return House(make_tiers(core="events", main="events", furnish=furnish), cluster)


@pytest.fixture
def filled(make_tiers: TiersFactory, cluster: EmbeddedPostgres) -> House:
    """The house with two segments."""
    return House(make_tiers(core="events", main="events", furnish=furnish_segments), cluster)
