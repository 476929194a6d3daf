"""An AWS account on this machine, and a copy of the project that `serverless` deploys there."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx

from support import eventually
from tierkeeper.demo.server import free_port

ROOT = Path(__file__).resolve().parents[1]
REGION = "eu-central-1"
FUNCTIONS = ("home-server-archiver", "intelligent-load-balancer", "multi-tier-quota-manager", "multi-tier-setup")

_CACHE = ROOT / "node_modules" / ".cache" / "osls"
_COPIED = (
    "serverless.yml",
    "package.json",
    "pyproject.toml",
    "requirements.lock",
    *(f"{f.replace('-', '_')}.py" for f in FUNCTIONS),
)
_ARTIFACTS = """
import argparse, pathlib, zipfile
parser = argparse.ArgumentParser()
parser.add_argument("--function", action="append")
for function in parser.parse_args().function:
    module = pathlib.Path(function.replace("-", "_") + ".py")
    artifact = pathlib.Path("dist/lambda") / f"{function}.zip"
    artifact.parent.mkdir(parents=True, exist_ok=True)
    if artifact.exists() and zipfile.ZipFile(artifact).read(module.name) == module.read_bytes():
        print(f"{artifact.absolute()}  0 MB, unchanged")
        continue
    with zipfile.ZipFile(artifact, "w") as made:
        made.writestr(zipfile.ZipInfo(module.name), module.read_bytes())
    print(f"{artifact.absolute()}  0 MB, built")
"""
"""Stands in for the script that makes the real ones, which takes long: each holds the function's module alone."""


@dataclass(frozen=True)
class Account:
    """Reached at `url`; empty but for what a test put there."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": REGION,
            "SLS_AWS_MONITORING_FREQUENCY": "100",  # milliseconds between two looks at a stack that is made at once here
        }

    def client(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self.url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test-secret"
        )

    def empty(self) -> None:
        """Forgets everything."""
        httpx.post(f"{self.url}/moto-api/reset").raise_for_status()


@contextmanager
def account() -> Iterator[Account]:
    """A fresh account, while it is needed."""
    port = free_port()
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("cloud_server.py")), str(port)], **quiet)
    try:
        url = f"http://127.0.0.1:{port}"
        assert eventually(lambda: _answers(url), 60)
        yield Account(url)
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/moto-api/").status_code < 500
    except httpx.TransportError:
        return False


@dataclass(frozen=True)
class Ended:
    """How a command ended; its terminal's text without colours."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Project:
    """A copy of the project's files for `serverless`, with a `.venv/bin` of its own that leads to this one's."""

    folder: Path
    home: Path

    @classmethod
    def at(cls, folder: Path) -> "Project":
        """Lays it out in `folder`, which is empty."""
        project, home = folder / "project", folder / "home"
        (project / ".venv" / "bin").mkdir(parents=True)
        (project / "deploy" / "lambda").mkdir(parents=True)
        home.mkdir()
        for name in _COPIED:
            shutil.copy(ROOT / name, project)
        shutil.copytree(ROOT / "deploy" / "serverless", project / "deploy" / "serverless")
        (project / "deploy" / "lambda" / "artifacts.py").write_text(_ARTIFACTS)
        (project / "node_modules").symlink_to(ROOT / "node_modules")
        (project / "src").mkdir()
        (project / ".venv" / "bin" / "serverless").symlink_to("../../deploy/serverless/command")
        (project / ".venv" / "bin" / "python").symlink_to(sys.executable)
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", project / ".venv")
        theirs = Path(sysconfig.get_path("purelib"))
        ours = project / ".venv" / theirs.relative_to(sys.prefix)
        ours.mkdir(parents=True)
        (ours / "theirs.pth").write_text(f"import site; site.addsitedir({str(theirs)!r})\n")
        return cls(project, home)

    def serverless(self, *argv: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
        return serverless(self.folder, *argv, environment={"HOME": str(self.home), **(environment or {})}, cwd=cwd)

    def begun(self, *argv: str, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
        """`serverless …` at work, its stdout and stderr to be read."""
        how = _typed(self.folder, {"HOME": str(self.home), **environment})
        return subprocess.Popen(["serverless", *argv], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


def serverless(root: Path, *argv: str, environment: Mapping[str, str], cwd: Path | None = None) -> Ended:
    """`serverless …`, to its end."""
    ended = subprocess.run(
        ["serverless", *argv], cwd=cwd or root, capture_output=True, timeout=110, check=False, **_typed(root, environment)
    )
    return Ended(ended.returncode, _plain(ended.stdout), _plain(ended.stderr))


def _typed(root: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """As it is typed where the environment of `root` is active, with no variable of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if name in ("LANG", "LC_ALL", "TMPDIR")}
    path = f"{root}/.venv/bin:{os.environ['PATH']}"
    cache = Path(environment["HOME"]) / ".serverless"
    if not cache.exists():  # osls keeps there what it makes of its own schema in two seconds
        _CACHE.mkdir(parents=True, exist_ok=True)
        cache.symlink_to(_CACHE)
    return {
        "env": {**kept, "PATH": path, **environment},
        "stdin": subprocess.DEVNULL,
        "text": True,
        "executable": str(root / ".venv" / "bin" / "serverless"),
    }


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
