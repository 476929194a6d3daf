"""The root modules, as the user's document runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRINTED = {
    "multi_tier_setup": """
from multi_tier_setup import MultiTierSetup
setup = MultiTierSetup()
setup.validate_configuration()
""",
    "intelligent_load_balancer": """
from intelligent_load_balancer import IntelligentLoadBalancer
lb = IntelligentLoadBalancer()
lb.test_health_checks()
""",
}


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("module", PRINTED)
def test_the_printed_lines_say_what_is_missing(module: str, tmp_path: Path) -> None:
    ran = run("-c", PRINTED[module], folder=tmp_path)
    assert ran.returncode == 2
    for name in ("CORE_SUPABASE_URL", "MAIN_SUPABASE_URL", "ARCHIVE_SUPABASE_URL", "ARCHIVE_PATH"):
        assert f"remedy  Set {name}=" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("module", [*PRINTED, "home_server_archiver", "multi_tier_quota_manager"])
def test_a_module_is_a_program_too(module: str, tmp_path: Path) -> None:
    ran = run(str(ROOT / f"{module}.py"), folder=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("remedy") == 4


ASKED = """
import os, signal, sys, time
from tierkeeper.functions import as_script
from tierkeeper.functions.limit import Bounds
def handler(event, context):
    bounds = Bounds.of(context)
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    return {"event": event, "asked": bounds.stop(), "ö": "\\ud800"}
as_script(handler)
"""


def test_a_program_ends_at_a_safe_point_when_it_is_asked_and_at_once_when_it_is_told(tmp_path: Path) -> None:
    asked, told = (run("-c", ASKED, times, folder=tmp_path) for times in ("1", "2"))
    assert (asked.returncode, json.loads(asked.stdout)["asked"]) == (0, "stopped"), asked.stderr
    assert (told.returncode, told.stdout) == (75, "")
    assert "it was told to end at once" in told.stderr
    assert "Traceback" not in told.stderr
