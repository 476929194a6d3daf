"""A tier's server dies at a step of the move, as in a power cut; it comes back, and the same command runs again (I1, I5)."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tierkeeper import config
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName

EVENTS = TableName("public", "events")
CASES = [
    ("main", Point.COPY_BEFORE_COMMIT), ("main", Point.COPIED), ("main", Point.DELETED),
    ("core", Point.SOURCE_READ), ("core", Point.DELETE_BEFORE_COMMIT), ("core", Point.DELETED),
]  # fmt: skip


@pytest.fixture(scope="module")
def servers(server_folder: Path) -> Iterator[dict[str, EmbeddedPostgres]]:
    with (
        EmbeddedPostgres.start(server_folder / "killed-core") as core,
        EmbeddedPostgres.start(server_folder / "killed-main") as main,
    ):
        yield {"core": core, "main": main}


@pytest.fixture
def keeper(servers: dict[str, EmbeddedPostgres], tmp_path: Path, request: pytest.FixtureRequest) -> Keeper:
    database = f"case_{request.node.callspec.indices['point']}"
    for server in servers.values():
        server.create_database(database)
    with closing(servers["core"].link("core", database).connect("app")) as app:
        app.execute("CREATE TABLE public.events (id int PRIMARY KEY, at date, body text)")
        app.execute("INSERT INTO public.events SELECT i, '2024-01-01', 'body ' || i FROM generate_series(1, 500) AS i")
    servers["core"].create_database(f"{database}_catalog")
    path = tmp_path / "tierkeeper.toml"
    path.write_text(
        "".join(
            f'[tiers.{tier}]\nurl = "{s.url(database)}"\nsslrootcert = "{s.ca_file}"\nquota = "1GB"\n'
            for tier, s in servers.items()
        )
        + f'[tiers.archive]\ncatalog = "{servers["core"].url(database + "_catalog")}"\n'
        + f'store = "{tmp_path}/store"\nquota = "1GB"\n'
        + '[[tables]]\nname = "public.events"\nage = "at"\ncore = "30 days"\n[query]\ntimeout = "1 second"\n'
    )
    path.chmod(0o600)
    return open_keeper(config.load(path, {}, tmp_path), environment={"HOME": str(tmp_path)}, batch_rows=100)


@pytest.mark.parametrize(("tier", "point"), CASES)
def test_a_server_dies(servers: dict[str, EmbeddedPostgres], keeper: Keeper, tier: str, point: Point) -> None:
    killed = list[str]()

    def hook(reached: Point) -> None:
        if reached is point and not killed:
            killed.append(tier)
            servers[tier].kill()

    faults.arm(hook)
    try:
        with pytest.raises(NotNow):
            keeper.move(EVENTS, "core", "main")
    finally:
        faults.disarm()
    servers[tier].restart()
    assert keeper.move(EVENTS, "core", "main").stopped_because == "complete"
    held = {}
    for name, link in keeper.links.items():
        if name != "archive":
            with closing(link.connect("oracle")) as conn:
                held[name] = conn.execute("SELECT id, body FROM public.events ORDER BY id").fetchall()
    assert held == {"core": [], "main": [(i, f"body {i}") for i in range(1, 501)]}
