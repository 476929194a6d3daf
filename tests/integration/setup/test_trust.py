"""A server with an authority of its own: it is shown, confirmed and pinned, and nobody else is believed from then on (I6)."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chains import Signed, sign
from impostor import Impostor
from support import Command, Tiers, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import folder, load
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import UsageError
from tierkeeper.postgres import certificates, pins
from tierkeeper.postgres import link as links
from tierkeeper.postgres.arrow import snapshot_reader
from tierkeeper.postgres.link import Link, transaction
from tierkeeper.postgres.trust import Untrusted, spelled

HOST, OTHER_HOST = "db.private.test", "other.private.test"
ROOT, SECOND = sign("the authority", 3000), sign("the next authority", 3000)
BETWEEN, EXPIRED = sign("between", 300, ROOT), sign("an authority that was", -1)
TIERS = ("core", "main", "archive")


def leaf(by: Signed | None, days: float = 30, host: str = HOST) -> Signed:
    return sign("the server", days, by, authority=False, host=host)


SELF = leaf(None)


@dataclass
class Own:
    """A server whose certificates a test chooses, and the user's tiers: all three on it, believed by nobody."""

    server: EmbeddedPostgres
    tiers: Tiers
    databases: tuple[str, ...] = ("postgres",) * 3

    def url(self, database: str, host: str = HOST) -> str:
        return self.server.url(database).replace("@127.0.0.1:", f"@{host}:") + "?hostaddr=127.0.0.1"

    def shows(self, *chain: Signed, root: Signed = ROOT) -> None:
        """Its certificates from now on, the server's own first; `root` vouches for them."""
        self.server.stop()
        tls = self.server.data_dir / "tls"
        (tls / "server.key").write_bytes(chain[0].key_pem)
        (tls / "server.crt").write_bytes(b"".join(one.pem for one in chain))
        (tls / "ca.crt").write_bytes(root.pem)
        self.server.restart()

    def configure(self, host: str = HOST, **ca: str) -> Path:
        names = dict(zip(("core", "main", "catalog"), self.databases, strict=True))
        on_it = {tier: Link(tier, self.url(name, host), ca.get(tier)) for tier, name in names.items()}
        return tierkeeper_toml(replace(self.tiers, **on_it))

    def link(self, tier: str = "core") -> Link:
        settings = load(self.tiers.home / "tierkeeper.toml", {}, self.tiers.home)
        return settings.links(folder.pins(self.tiers.environment))[tier]

    def pin(self, root: Signed) -> None:
        """As if it had been confirmed for all three."""
        for tier in TIERS:
            link, (authority,) = self.link(tier), certificates.read([root.der])
            path = pins.file_of(folder.of_user(self.tiers.environment), link)
            pins.write(path, link, authority, datetime.now(UTC), "tester")

    def trail(self) -> set[tuple[str, str]]:
        """What the audit says was confirmed: each intent has its outcome."""
        ended = "SELECT subject, detail ->> 'sha256', (SELECT count(*) FROM tierkeeper.audit o WHERE o.action = i.action)"
        with closing(self.link("main").connect("test")) as conn:
            rows = conn.execute(f"{ended} FROM tierkeeper.audit i WHERE verb = 'trust' AND kind = 'intent'".encode()).fetchall()
        assert {count for *_, count in rows} == {2}
        assert len(set(rows)) == len(rows)
        return {(tier, sha256) for tier, sha256, _ in rows}

    @property
    def pinned(self) -> list[str]:
        where = self.tiers.home / ".config" / "tierkeeper" / pins.FOLDER
        return sorted(p.name for p in where.iterdir()) if where.exists() else []


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres.start(server_folder / "of-an-own-authority", durable=False) as server:
        yield server


@pytest.fixture
def own(server: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    server.restart()
    nobody, home = Link("core", server.url()), tmp_path / "home"
    made = Own(server, Tiers(nobody, nobody, nobody, tmp_path / "store", home))
    for path in (home, made.tiers.store):
        path.mkdir()
    made.configure()
    for name, value in made.tiers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    links._conninfo.cache_clear()  # the system's authorities are others in some tests
    return made


@pytest.fixture
def fresh(own: Own) -> Iterator[Own]:
    """With a database of its own for each tier."""
    own.databases = tuple(f"{tier}_{own.tiers.home.parent.name}" for tier in TIERS)
    for name in own.databases:
        own.server.create_database(name)
    own.configure()
    yield own


def on_a_terminal(own: Own, answer: str) -> tuple[int, str]:
    """`setup --apply` by somebody at a terminal who answers each question so; its exit code and what the terminal showed."""
    there, here = pty.openpty()
    ran = subprocess.Popen(
        [Path(sys.executable).parent / "tierkeeper", "setup", "--apply"],
        stdin=here, stdout=subprocess.DEVNULL, stderr=here, cwd=own.tiers.home, env=own.tiers.environment,
    )  # fmt: skip
    os.close(here)
    seen = ""
    try:
        while True:
            seen += os.read(there, 4096).decode()
            if seen.endswith("[y/N] "):
                os.write(there, f"{answer}\n".encode())
    except OSError:  # nobody has the other end any more
        return ran.wait(30), seen
    finally:
        os.close(there)


def test_a_chain_is_shown_confirmed_and_pinned(fresh: Own, ask: Command) -> None:
    fresh.shows(leaf(ROOT), ROOT)
    shown = ask("check", code=2)["error"]
    assert [(e["tier"], e["host"], e["authority"], e["pinned"]) for e in shown] == [
        (tier, HOST, ROOT.sha256, None) for tier in TIERS
    ]
    assert [(c["subject"], c["issuer"], c["sha256"]) for c in shown[0]["chain"]][1:] == [
        ("CN=the authority", "CN=the authority", ROOT.sha256)
    ]
    assert f"--trust core={ROOT.sha256}" in shown[0]["remedy"]
    assert ask("setup", code=2)["error"] == shown
    assert ask("setup", "--apply", code=2)["error"] == shown, "where nobody can be asked nobody is believed"
    mixed = ["--trust", f"core={SECOND.sha256}", "--trust", f"main={ROOT.sha256}", "--trust", f"archive={ROOT.sha256}"]
    assert spelled(SECOND.sha256) in ask("setup", "--apply", *mixed, code=2)["error"]["cause"]
    code, seen = on_a_terminal(fresh, "")
    assert (code, seen.count("[y/N]")) == (2, 1)
    assert all(what in seen for what in (spelled(ROOT.sha256), "CN=the server", f"core at {HOST}", "was not confirmed"))
    assert fresh.pinned == []
    with closing(fresh.server.link("main", fresh.databases[1]).connect("test")) as conn:
        assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'tierkeeper'").fetchone() == (0,)

    code, seen = on_a_terminal(fresh, "y")
    assert (code, seen.count("[y/N]")) == (0, 1), seen
    assert fresh.pinned == [f"{tier}@{HOST}.pem" for tier in sorted(TIERS)]
    pin = Path(fresh.link().pin or "")
    assert pin.stat().st_mode & 0o777 == 0o600
    found = {c["place"]: c["finding"] for c in ask("check")["checks"]}
    assert str(pin) in found["tiers.core"]
    again = ask("setup", "--apply", "--trust", f"core={ROOT.sha256}")
    assert (again["steps"], again["trusted"]) == ([], [])
    assert fresh.trail() == {(tier, ROOT.sha256) for tier in TIERS}


def test_a_pin_is_all_that_is_believed(own: Own, ask: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else vouches for the server, and whoever else has its address."""
    own.shows(leaf(ROOT), ROOT)
    own.pin(ROOT)
    core = own.link()
    with closing(core.connect("test")) as conn, transaction(conn, isolation="repeatable read", read_only=True) as cur:
        ((snapshot,),) = cur.execute("SELECT pg_export_snapshot()").fetchall()
        with snapshot_reader(core, snapshot, "SELECT 7 AS n", purpose="test") as reader:
            assert reader.read_all().to_pydict() == {"n": [7]}
    with pytest.raises(Untrusted, match=r"not valid for 'elsewhere\.test'"):
        replace(core, url=own.url("postgres", "elsewhere.test")).connect("test")

    own.configure(OTHER_HOST)
    assert own.link().pin is None
    assert {e["pinned"] for e in ask("check", code=2)["error"]} == {None}, "it was confirmed for another host"
    (tmp_path / "second.pem").write_bytes(SECOND.pem)
    own.configure(core=str(tmp_path / "second.pem"))
    with pytest.raises(UsageError, match="sslrootcert") as named:
        own.link().connect("test")
    assert not isinstance(named.value, Untrusted), "what the user names beats what is pinned"
    own.configure()

    monkeypatch.setattr(links, "_SYSTEM_CAS", str(tmp_path / "second.pem"))
    own.server.stop()
    with Impostor((leaf(SECOND), SECOND), tmp_path, own.server.port) as impostor:
        for argv in (["check"], ["setup", "--apply", "--trust", f"core={ROOT.sha256}"]):
            told = ask(*argv, code=2)["error"]
            for one in told if isinstance(told, list) else [told]:
                assert all(spelled(root.sha256) in one["cause"] for root in (ROOT, SECOND))
    assert impostor.greeted > 0
    assert impostor.heard == []


def test_nobody_is_told_anything_before_they_are_believed(
    own: Own, ask: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.server.stop()
    with Impostor((leaf(ROOT), ROOT), tmp_path, own.server.port) as impostor:
        for argv in (["check"], ["setup"], ["setup", "--apply"]):
            assert {e["tier"] for e in ask(*argv, code=2)["error"]} == set(TIERS)
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
        told = ask("setup", "--apply", *[f"--trust={tier}={ROOT.sha256}" for tier in TIERS], code=2)["error"]
        assert "no lasting disk" in told["cause"]
        monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME")
        toml = (own.tiers.home / "tierkeeper.toml").read_text()
        away = re.sub(r'(\[tiers\.main\]\nurl = )"[^"]*"', r'\1"postgresql://u:p@127.0.0.1:1/x"', toml)
        (own.tiers.home / "tierkeeper.toml").write_text(away)
        told = ask("setup", "--apply", *[f"--trust={tier}={ROOT.sha256}" for tier in ("core", "archive")], code=2)["error"]
        assert "does not answer" in told[-1]["cause"], "nothing is pinned where nothing could be set up"
    assert impostor.greeted > 0
    assert impostor.heard == []
    assert own.pinned == []


def test_an_authority_that_changes_is_refused_until_it_is_confirmed_anew(fresh: Own, ask: Command) -> None:
    fresh.shows(leaf(ROOT), ROOT)
    fresh.pin(ROOT)
    ask("setup", "--apply")
    assert fresh.trail() == {(tier, ROOT.sha256) for tier in TIERS}, "files that somebody put there are in the audit, too"
    keeper = open_keeper(load(None, {}, fresh.tiers.home), environment=fresh.tiers.environment)
    ends = {e.what for e in keeper._alerting.facts(keeper._given())[0].expiries or ()}
    assert {f"the CA of {tier} (pinned)" for tier in TIERS} | {"the certificate of core's server"} <= ends
    fresh.shows(leaf(SECOND), SECOND, root=SECOND)
    for argv in (["check"], ["setup", "--apply"]):
        told = ask(*argv, code=2)["error"]
        assert {(e["pinned"], e["authority"]) for e in told} == {(ROOT.sha256, SECOND.sha256)}
        assert all(spelled(root.sha256) in told[0]["cause"] for root in (ROOT, SECOND))
    anew = [f"--trust={tier}={spelled(SECOND.sha256)}" for tier in TIERS]
    trusted = ask("setup", "--apply", *anew)["trusted"]
    assert [(t["tier"], t["sha256"], t["replaced"]) for t in trusted] == [
        (tier, SECOND.sha256, ROOT.sha256) for tier in ("main", "core", "archive")
    ]
    assert fresh.trail() == {(tier, root.sha256) for tier in TIERS for root in (ROOT, SECOND)}


def test_what_was_not_pinned_when_it_ended_is_pinned_by_the_next_run(fresh: Own, ask: Command) -> None:
    fresh.shows(leaf(ROOT), ROOT)
    confirmed = [f"--trust={tier}={ROOT.sha256}" for tier in TIERS]
    crash = [sys.executable, "-m", "tierkeeper.testing.crash", "authority-pinned", "setup", "--apply", *confirmed]
    assert subprocess.run(crash, cwd=fresh.tiers.home, env=fresh.tiers.environment, check=False, timeout=60).returncode == -9
    assert fresh.pinned == [f"main@{HOST}.pem"], "the audit's own link comes first"
    assert [t["tier"] for t in ask("setup", "--apply", *confirmed)["trusted"]] == ["core", "archive"]
    assert fresh.trail() == {(tier, ROOT.sha256) for tier in TIERS}


@pytest.mark.parametrize(
    ("first", "renewed", "authority", "words"),
    [
        ((leaf(BETWEEN), BETWEEN), (leaf(BETWEEN), BETWEEN, ROOT), BETWEEN, "CN=the authority, is not shown"),
        ((SELF,), (SELF,), SELF, "signed by nobody but itself"),
    ],
)
def test_the_topmost_that_is_shown_vouches(
    own: Own, first: tuple[Signed, ...], renewed: tuple[Signed, ...], authority: Signed, words: str
) -> None:
    """An authority below one that is not shown, and a server that signs itself: libpq believes these too, and no sibling."""
    own.shows(*first)
    with pytest.raises(Untrusted, match=words) as shown:
        own.link().connect("test")
    assert shown.value.authority is not None
    assert shown.value.authority.der == authority.der
    own.pin(authority)
    own.link().connect("test").close()
    own.shows(*renewed)
    own.link().connect("test").close()
    own.shows(leaf(ROOT), ROOT)
    with pytest.raises(Untrusted, match="not vouched for by the pinned authority"):
        own.link().connect("test")


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ((leaf(ROOT),), "shows its own certificate alone"),
        ((leaf(EXPIRED), EXPIRED), "certificate has expired"),
        ((leaf(ROOT, days=-1), ROOT), "certificate has expired"),
        ((leaf(ROOT, host=OTHER_HOST), ROOT), "certificate is not valid for"),
    ],
)
def test_what_nobody_should_confirm_cannot_be(own: Own, tmp_path: Path, chain: tuple[Signed, ...], words: str) -> None:
    own.server.stop()
    with Impostor(chain, tmp_path, own.server.port) as impostor, pytest.raises(Untrusted, match=words) as shown:
        own.link().connect("test")
    assert impostor.heard == []
    assert shown.value.authority is None
    assert len(shown.value.chain) == len(chain)


def test_a_pin_that_cannot_be_read_ends_the_link(own: Own, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own.shows(leaf(ROOT), ROOT)
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    monkeypatch.setattr(links, "_SYSTEM_CAS", str(tmp_path / "root.pem"))
    own.link().connect("test").close()
    own.pin(ROOT)
    pin = Path(own.link().pin or "")
    pin.write_text("nothing\n")
    with pytest.raises(UsageError, match="it holds no authority"):
        own.link().connect("test")
    pin.chmod(0o620)
    with pytest.raises(UsageError, match="others can write"):
        own.link()
