"""The archive opens with nothing but its store and the recovery key, and what would stop that is found before it is needed."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import processes
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.stop import STOPPED
from vault import House

KEYS = Path(".config/tierkeeper")


@pytest.fixture
def house(filled: House) -> House:
    return filled


def scratch_databases(house: House) -> list[str]:
    with closing(house.tiers.catalog.connect("test")) as conn:
        return [str(r[0]) for r in conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'tierkeeper_scratch_%'")]


def test_a_drill_restores_all_and_leaves_nothing(house: House) -> None:
    before, ids = house.segments(), house.online()
    result = house.keeper.archive_drill()
    assert (result.ok, result.wrong, result.segments, result.restored, result.rows) == (True, [], 2, 2, 191)
    assert scratch_databases(house) == []
    assert (house.segments(), house.online()) == (before, ids)
    reading = house.keeper.status().archive
    assert reading is not None
    assert reading.drill is not None
    assert (reading.drill.ok, reading.drill.restored) == (True, 2)
    share = house.keeper.archive_drill(sample="1/2")
    assert (share.segments, share.restored) == (2, 1)


def test_what_would_stop_a_new_machine_is_found(house: House) -> None:
    """Also what only a look into every byte finds; the catalog keeps that it went wrong."""
    one, two = house.segments()
    path = house.tiers.store / "segment" / one["sha256"]
    good = path.read_bytes()
    path.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    (house.tiers.store / two["commit_object"]).unlink()
    ended = processes.command(["archive", "drill", "--json"], house.tiers.environment)
    assert ended.returncode == 1
    result = json.loads(ended.stdout)
    wrong = result["wrong"]
    assert (len(wrong), result["segments"], result["restored"]) == (3, 1, 0)
    assert wrong[0].startswith(f"{two['id']}: no marker says")
    assert "the store gives 1 segments, and the catalog knows 2" in wrong[1]
    assert wrong[2].startswith(f"{one['id']}: ")
    noted = house.keeper.status().archive.drill  # type: ignore[union-attr]
    assert noted is not None
    assert (noted.ok, noted.restored, noted.wrong) == (False, 0, wrong)
    assert scratch_databases(house) == []


def test_a_drill_that_was_cut_short_is_not_noted_as_one_that_failed(house: House) -> None:
    asked: list[int] = []

    def after_one() -> str | None:
        asked.append(1)
        return STOPPED if len(asked) > 1 else None

    cut = open_keeper(house.keeper._settings, environment=house.tiers.environment, stop=after_one).archive_drill()
    assert (cut.ok, cut.wrong, cut.stopped_because, cut.restored) == (True, [], STOPPED, 1)
    assert house.keeper.status().archive.drill is None  # type: ignore[union-attr]
    assert scratch_databases(house) == []


def test_the_kits_own_commands_restore_everything_on_a_new_machine(house: House, cluster: EmbeddedPostgres) -> None:
    """As they are printed, with what stands for the user's own filled in; Main and Core are gone, and so is the catalog."""
    kit, archived = house.tiers.home / "kit.txt", sorted(house.archived())
    ended = processes.command(["keys", "kit", "--to", str(kit), "--json"], house.tiers.environment)
    assert ended.returncode == 0, ended.stdout
    assert kit.stat().st_mode & 0o777 == 0o600
    machine = house.tiers.home / "machine"
    machine.mkdir()
    house.lose_the_catalog()
    lines = [line[2:].strip() for line in kit.read_text().splitlines() if line.startswith("#   ")]
    script = "\n".join(line for line in lines if not line.startswith("pip "))
    filled = {
        "THIS_FILE": str(kit),
        "postgresql://...": f"{house.tiers.catalog.url}?sslrootcert={house.tiers.catalog.sslrootcert}",
        "ARCHIVE_PATH=/...": f"ARCHIVE_PATH={house.tiers.store}",
        "TABLE": "public.events",
    }
    for placeholder, value in filled.items():
        assert placeholder in script
        script = script.replace(placeholder, value)
    environment = {**house.tiers.environment, "HOME": str(machine), "XDG_CONFIG_HOME": str(machine / ".config")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=machine,
        env={**environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert sorted(house.ids_in(machine / "public.events.parquet")) == archived
    assert "AGE-SECRET-KEY" not in ran.stdout + ran.stderr


def test_what_a_killed_drill_left_is_dropped_by_the_next(house: House, cluster: EmbeddedPostgres) -> None:
    cluster.create_database("tierkeeper_scratch_left")
    cluster.create_database("tierkeeper_scratch_used")
    try:
        with closing(cluster.link("archive", "tierkeeper_scratch_used").connect("another drill")):
            assert house.keeper.archive_drill(sample="1/2").ok
            assert scratch_databases(house) == ["tierkeeper_scratch_used"], "one that somebody is connected to stays"
    finally:
        cluster.drop_database("tierkeeper_scratch_used")


def test_only_a_recovery_key_opens_a_drill_or_makes_a_kit(house: House) -> None:
    operational = house.tiers.home / KEYS / "archive.key"
    for use in (house.keeper.archive_drill, house.keeper.keys_kit):
        with pytest.raises(UsageError, match="this is the operational key"):
            use(recovery=operational)
        (house.tiers.home / KEYS / "archive-recovery.key").unlink(missing_ok=True)
        with pytest.raises(UsageError, match="cannot be read here"):
            use()


def test_a_kit_is_a_recovery_key_and_a_kit_of_a_kit_is_the_same_key(house: House) -> None:
    printed = house.keeper.keys_kit()
    again = house.tiers.home / "kit.txt"
    again.write_text(str(printed.kit))
    assert KeyRing.parse(again.read_text(), "kit").key_id == printed.key_id
    assert house.keeper.keys_kit(recovery=again).key_id == printed.key_id
    with pytest.raises(UsageError, match="it exists already"):
        house.keeper.keys_kit(to=again)
    assert again.read_text() == printed.kit
    on_a_terminal = processes.command(["keys", "kit"], {**house.tiers.environment, "COLUMNS": "40"})
    assert KeyRing.parse(on_a_terminal.stdout, "terminal").key_id == printed.key_id, "no line is cut or folded"


def test_the_status_of_the_keys_says_what_they_open_and_no_secret(house: House) -> None:
    status = house.keeper.keys_status()
    assert (status.ok, status.can_write, status.segments) == (True, True, {status.key_id: 2})
    assert "still lies beside the other" in status.notes[0]
    kept = {path: path.read_text() for path in (house.tiers.home / KEYS).glob("*.key")}
    secrets = [
        line.partition(": ")[2] for text in kept.values() for line in text.splitlines() if line.startswith(("identity", "sign"))
    ]
    assert len(secrets) == 3
    for arguments in (["keys", "status"], ["keys", "status", "--json"], ["archive", "drill"]):
        ended = processes.command(arguments, house.tiers.environment)
        assert ended.returncode == 0
        assert not any(secret in ended.stdout + ended.stderr for secret in secrets)
    for path in kept:
        path.unlink()
    KeyRing.create(house.tiers.home / KEYS, {})
    other = house.keeper.keys_status()
    assert not other.ok
    assert f"2 segments were written with key {status.key_id}" in other.notes[0]


def test_a_key_is_made_once_and_never_for_an_archive_that_has_its_own(house: House) -> None:
    folder = house.tiers.home / KEYS
    with pytest.raises(UsageError, match="its archive has a key"):
        house.keeper.keys_init()
    for path in folder.glob("*.key"):
        path.unlink()
    with pytest.raises(UsageError, match="its archive has a key"):
        house.keeper.keys_init()
    assert not list(folder.glob("*.key"))
    house.lose_the_catalog()
    with pytest.raises(UsageError, match="its archive has a key"):
        house.keeper.keys_init()
    house.tiers.store.rename(house.tiers.home / "elsewhere")
    made = house.keeper.keys_init()
    assert made.notes[0].startswith("The archive's key was made")
    given = {**house.tiers.environment, "TIERKEEPER_PASSPHRASE": "correct horse battery"}
    open_keeper(load(house.config, {}, house.tiers.home), environment=given).keys_protect()
    with closing(house.tiers.main.connect("oracle")) as main:
        noted = main.execute("SELECT verb, kind FROM tierkeeper.audit WHERE subject = 'archive.key' ORDER BY id").fetchall()
    assert noted == [(verb, kind) for verb in ("make key", "protect key") for kind in ("intent", "outcome")]
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {
        "archive.key": 0o600,
        "archive-recovery.key": 0o600,
    }
    with pytest.raises(UsageError, match="a key is there already"):
        house.keeper.keys_init()
    with pytest.raises(UsageError, match="gives the archive's key already"):
        open_keeper(
            load(house.config, {}, house.tiers.home), environment={**house.tiers.environment, "TIERKEEPER_KEY": "x"}
        ).keys_init()
