"""The systemd units, as systemd itself reads them; nothing is started."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
PROGRAM = "/usr/local/bin/tierkeeper"
EXPOSED_AT_MOST = 2.0  # of 10, by systemd's own scale

pytestmark = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed: apt-get install systemd")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run(
        [ANALYZE, *arguments], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with the program where it is here."""
    for unit in UNITS.iterdir():
        text = unit.read_text()
        (tmp_path / unit.name).write_text(text.replace(PROGRAM, str(Path(sys.executable).parent / "tierkeeper")))
    return tmp_path


def test_every_unit_is_valid(installed: Path) -> None:
    units = sorted(map(str, installed.iterdir()))
    assert len(units) == 6
    verified = analyze("verify", "--man=no", *units)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    broken = installed / "tierkeeper.service"
    broken.write_text(broken.read_text().replace("ProtectSystem=strict", "ProtectSistem=strict"))
    assert "ProtectSistem" in analyze("verify", "--man=no", str(broken)).stderr


def test_every_service_is_confined(installed: Path) -> None:
    for unit in sorted(installed.glob("*.service")):
        said = analyze("security", "--offline=true", "--no-pager", str(unit)).stdout
        (exposed,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert float(exposed) <= EXPOSED_AT_MOST, (unit.name, said)


@pytest.mark.parametrize("name", ["tierkeeper", "tierkeeper-balance"])
def test_a_brain_that_systemd_starts_anew_finds_the_envoy_of_the_last_one(name: str) -> None:
    """Whose files it may not see from a user namespace of its own, so that the ports would seem to be somebody else's."""
    settings = (UNITS / f"{name}.service").read_text().splitlines()
    assert "KillMode=process" in settings
    assert not any(line.startswith("PrivateUsers=") for line in settings)


def test_the_services_run_commands_that_there_are() -> None:
    from tierkeeper.cli.app import app

    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    commands = [line.split()[1] for unit in UNITS.glob("*.service") for line in unit.read_text().splitlines() if PROGRAM in line]
    assert sorted(commands) == ["balance", "homeserver", "run", "run", "worker"]
    assert set(commands) <= known
