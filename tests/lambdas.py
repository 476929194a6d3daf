"""The artifacts of Lambda's functions, built once for all tests of a run, and calls of what lies in them."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pythons

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "deploy" / "lambda" / "artifacts.py"
CACHE = ROOT / "build" / "lambda"
"""Shared with `make artifacts`, so that what was downloaded there is not fetched again."""
RUNNER = Path(__file__).with_name("as_lambda.py")
FUNCTIONS = ("home-server-archiver", "intelligent-load-balancer", "multi-tier-quota-manager", "multi-tier-setup")


def build(*arguments: str | Path, cwd: Path = ROOT, umask: int = 0o022, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, run to its end."""
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        cwd=cwd,
        umask=umask,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@cache
def built(python: str) -> Path:
    """The folder of the artifacts for `python`; another process of this run may have built them."""
    out = CACHE / f"tested-{python}"
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = build("--python", python, "--out", out, "--config", out / "none.toml")
    assert ran.returncode == 0, ran.stderr
    return out


def unpacked(python: str, folder: Path) -> dict[str, Path]:
    """Where each lies as at Lambda: nothing beside it, and nothing that may be written to. What several have is one file."""
    seen: dict[tuple[str, int], Path] = {}
    places = {}
    for function in FUNCTIONS:
        places[function] = place = folder / function / "task"
        with zipfile.ZipFile(built(python) / f"{function}.zip") as artifact:
            for info in artifact.infolist():
                there, like = place / info.filename, seen.get((info.filename, info.CRC))
                there.parent.mkdir(parents=True, exist_ok=True)
                if like is None:
                    seen[info.filename, info.CRC] = there
                    artifact.extract(info, place)
                else:
                    there.hardlink_to(like)
        place.chmod(0o555)
    return places


def imported(python: str, artifact: Path, outside: Iterable[str], *, cwd: Path) -> list[str]:
    """The modules of the artifact, each imported from there, and the names `outside` too."""
    code = (
        "import importlib, json, pkgutil, sys; sys.path.insert(0, sys.argv[1]); import tierkeeper\n"
        "names = [m.name for m in pkgutil.walk_packages(tierkeeper.__path__, 'tierkeeper.')]\n"
        "[importlib.import_module(n) for n in [*names, *sys.argv[2:]]]; print(json.dumps(names))"
    )
    return list(json.loads(_run(python, "-c", code, artifact, *outside, cwd=cwd)))


def asks_aws(python: str, artifact: Path, *, cwd: Path) -> None:
    """Makes a client of Parameter Store from what the artifact has of botocore's descriptions, and asks it in vain."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import botocore.session as s, botocore.exceptions as e\n"
        "from botocore.config import Config\n"
        "c = s.get_session().create_client('ssm', 'eu-central-1', endpoint_url='http://127.0.0.1:9', aws_access_key_id='a',"
        " aws_secret_access_key='b', config=Config(retries={'mode': 'standard', 'total_max_attempts': 1}))\n"
        "try: c.get_parameters_by_path(Path='/tierkeeper/')\n"
        "except e.EndpointConnectionError: pass\n"
        "s.get_session().create_client('ssm', 'eu-central-1')"
    )
    _run(python, "-c", code, artifact, cwd=cwd)


def call(python: str, artifact: Path, events: Iterable[object], environment: Mapping[str, str], *, cwd: Path) -> dict[str, Any]:
    """What one instance of the function answers, one event after the other, and what it loaded.

    Its environment is `environment` alone. An error is {"raised": its type, "cause": its text}.
    """
    name = artifact.parent.name.replace("-", "_")
    ran = _run(python, RUNNER, artifact, name, *map(json.dumps, events), cwd=cwd, environment=environment)
    found = json.loads(ran)
    assert found["strays"] == {}
    return dict(found)


def _run(python: str, *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    interpreter = pythons.find(python)
    assert interpreter is not None
    ran = subprocess.run(
        [interpreter, "-I", "-S", "-X", f"pycache_prefix={cwd / 'compiled'}", *arguments],
        cwd=cwd,
        env=dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def tidied(folder: Path) -> None:
    """Removes what `unpacked` made there."""
    for place in folder.glob("*/task"):
        place.chmod(0o755)
        shutil.rmtree(place)
