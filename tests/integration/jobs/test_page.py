"""The page of real tiers, as `tierkeeper run` serves it: what moved is there, and a tier that goes away is not passed over."""

import socket
from contextlib import closing

import httpx
import pytest

from pages import Seen
from support import FLIGHTS_POLICY, Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.cli.jobs import showing
from tierkeeper.compose import open_keeper
from tierkeeper.config import Settings, load
from tierkeeper.kernel.errors import Exit, UsageError
from tierkeeper.kernel.results import BoardResult
from tierkeeper.kernel.tables import TableName


def configured(tiers: Tiers, port: int, core: str | None = None) -> Settings:
    path = tierkeeper_toml(tiers, FLIGHTS_POLICY, extra=f'[dashboard]\nlisten = "127.0.0.1:{port}"\nnames = ["tiers.lan"]')
    if core is not None:
        path.write_text(path.read_text().replace(tiers.core.url, core))
    return load(path, {}, tiers.home)


def furnish(tiers: Tiers) -> None:
    settings = load(tierkeeper_toml(tiers, FLIGHTS_POLICY), {}, tiers.home)
    with open_keeper(settings, environment=tiers.environment) as keeper:
        keeper.setup(apply=True)
        keeper.move(TableName("public", "flights"), "core", "main")


@pytest.fixture
def moved(make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    """Every hundredth flight is at Main by now, and all of them are old."""
    tiers = make_tiers(core="sample", furnish=furnish)
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    return tiers


@pytest.fixture
def port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


def test_the_tiers_are_shown_as_they_are(moved: Tiers, port: int) -> None:
    page = f"http://127.0.0.1:{port}/"
    with showing(configured(moved, port), "run"):
        board = BoardResult.model_validate(httpx.get(f"{page}board.json").json())
        text = Seen(httpx.get(page, headers={"Host": "tiers.lan"}).text).text
    (move,) = [m for m in board.moves or () if m.from_ == "core"]
    assert (move.table, move.to, move.rows, move.state) == ("public.flights", "main", 3_368, "verified")
    assert board.proof is None, "there is no original to count against"
    assert board.errors == []
    assert "No row is known to be lost" in text
    assert "3,368" in text
    with pytest.raises(httpx.ConnectError):
        httpx.get(page)


def test_a_tier_that_is_away_is_said_first(moved: Tiers, port: int) -> None:
    with showing(configured(moved, port, "postgresql://u:s3cr3t-pw@127.0.0.1:1/x"), "run"):
        answer = httpx.get(f"http://127.0.0.1:{port}/", timeout=30)
        board = BoardResult.model_validate(httpx.get(f"http://127.0.0.1:{port}/board.json", timeout=30).json())
    text = Seen(answer.text).text
    assert "Core cannot be seen now: nothing can be said of all rows" in text
    assert "No row is known to be lost" not in text
    assert "s3cr3t-pw" not in answer.text
    flights = board.tables["public.flights"]
    assert (flights.core_rows_estimate, flights.in_flight) == (None, None), "what is in flight may be in Core"
    assert flights.main_rows_estimate is not None


def test_no_page_where_none_is_wanted_and_none_at_a_taken_port(moved: Tiers, port: int) -> None:
    settings = configured(moved, port)
    for role in ("once", "worker"):
        with showing(settings, role), pytest.raises(httpx.ConnectError):  # type: ignore[arg-type]
            httpx.get(f"http://127.0.0.1:{port}/")
    with socket.create_server(("127.0.0.1", port)), pytest.raises(UsageError) as caught, showing(settings, "run"):
        pass
    assert (caught.value.place, caught.value.exit_code) == (f"dashboard.listen (127.0.0.1:{port})", Exit.USAGE)
