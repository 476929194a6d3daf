"""The certificates that a server shows, on one of its own: they ring before they end, and are asked for once a day."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chains import Signed, sign
from faultproxy import FaultProxy
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.clock import FixedDay

DAY = timedelta(days=1)
ROOT = sign("the authority", 3000)


@pytest.fixture
def own(server_folder: Path, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres.start(server_folder / f"certificates-{tmp_path.name}", durable=False) as server:
        yield server


def give(server: EmbeddedPostgres, leaf: Signed, *above: Signed) -> None:
    """The server's certificates from now on."""
    with closing(server.link("core").connect("test")) as conn:
        tls = server.data_dir / "tls"
        (tls / "server.key").write_bytes(leaf.key_pem)
        (tls / "server.crt").write_bytes(b"".join(one.pem for one in (leaf, *above)))
        (tls / "ca.crt").write_bytes(ROOT.pem)
        log = server.log_file.read_text().count("SIGHUP")
        conn.execute("SELECT pg_reload_conf()")
        while server.log_file.read_text().count("SIGHUP") == log:
            conn.execute("SELECT pg_sleep(0.01)")


def keeper(tiers: Tiers, now: datetime) -> Keeper:
    return open_keeper(load(tierkeeper_toml(tiers), {}, tiers.home), environment=tiers.environment, clock=FixedDay(now))


def ends(tiers: Tiers, now: datetime) -> dict[str, int]:
    """Days from today to the end of each certificate of a server, by a look at `now`."""
    found, unseen = keeper(tiers, now)._alerting.facts(keeper(tiers, now)._given())
    assert unseen == []
    return {e.what: round((e.at - datetime.now(UTC)) / DAY) for e in found.expiries or () if "server" in e.what}


def test_they_ring_before_they_end_and_are_asked_for_once_a_day(tiers: Tiers, own: EmbeddedPostgres) -> None:
    between = sign("between", 3, ROOT)
    give(own, sign("core", 5, between, authority=False), between)
    now, mine = datetime.now(UTC), replace(tiers, core=own.link("core"))
    keeper(mine, now).setup(apply=True)
    assert ends(mine, now) == {
        "the certificate of core's server": 5,
        "CN=between, which vouches for core's server": 3,
        "the certificate of main's server": 365,
        "the certificate of the catalog's server": 365,
    }
    keeper(mine, now).alerts()
    rings = {a.subject: a for a in keeper(mine, now).alert_status().alerts if a.kind == "expiring"}
    assert {subject: a.severity for subject, a in rings.items()} == {
        "the certificate of core's server": "warning",
        "CN=between, which vouches for core's server": "serious",
    }
    assert "SELECT pg_reload_conf()" in rings["the certificate of core's server"].remedy
    core = keeper(mine, now + 6 * DAY)
    with FaultProxy(own.port) as proxy:
        proxy.refuse()
        gone = replace(mine, core=proxy.link(mine.core))
        keeper(gone, now + 6 * DAY).alerts()
    said_of_it = [a.what for a in core.alert_status().alerts if a.kind == "expiring"]
    assert "the certificate of core's server has expired" in said_of_it, "it is away for that"
    give(own, sign("core", 90, ROOT, authority=False))
    assert ends(mine, now + 0.9 * DAY)["the certificate of core's server"] == 5, "it is not asked again so soon"
    assert ends(mine, now + 1.1 * DAY)["the certificate of core's server"] == 90
    keeper(mine, now + 1.1 * DAY).alerts()
    assert not [a for a in keeper(mine, now).alert_status().alerts if (a.kind, a.state) == ("expiring", "firing")]
    said = own.log_file.read_text()
    assert not [line for line in said.splitlines() if "SSL" in line or "startup packet" in line], "a look leaves no noise there"
