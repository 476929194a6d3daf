"""The how-to is true: each command of it does what it says, in the order in which it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloud import ROOT, Account, Project

PAGE = (ROOT / "docs/howto/run-on-lambda.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
(SECRETS,) = (block for block in BLOCKS if "aws ssm" in block)
COMMANDS = [line.split()[1:] for block in BLOCKS if block != SECRETS for line in block.splitlines()]
AWS = shutil.which("aws", path=f"/usr/bin:{os.environ['PATH']}")
"""AWS's command line, of either version."""


def test_the_page_shows_what_the_users_document_does() -> None:
    told = {" ".join(argv) for argv in COMMANDS}
    names = ("home-server-archiver", "intelligent-load-balancer", "multi-tier-quota-manager", "multi-tier-setup")
    assert told >= {f"{verb} --function {name}" for verb in ("invoke local", "deploy") for name in names}


TOLD = {
    "CORE_SUPABASE_URL": "postgresql://u:p$a'ss@core.example/db?sslmode=verify-full&sslrootcert=a.crt",
    "MAIN_SUPABASE_URL": "postgresql://u:$HOME@main.example/db",
    "HOME_SERVER_URL": "https://127.0.0.1:9/#sha256=ab",
}
"""What a shell would make something else of, and an address that a program that follows addresses would ask."""


@pytest.mark.skipif(AWS is None, reason="AWS's command line is not installed")
def test_what_it_puts_into_parameter_store_is_what_the_file_says(aws: Account, tmp_path: Path) -> None:
    key, typed = tmp_path / ".config" / "tierkeeper" / "archive.key", tmp_path / "bin" / "aws"
    for file, text in (
        (tmp_path / ".env", "".join(f"{n}={v}\n" for n, v in TOLD.items()) + "MAIN_SUPABASE_URL='old'\nARCHIVE_SUPABASE_URL=\n"),
        (key, "# of an archive\nAGE-SECRET-KEY-1\n"),
        (typed, f'#!/bin/sh\nexec {AWS} --endpoint-url {aws.url} "$@"\n'),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    typed.chmod(0o755)
    path = f"{typed.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"MAIN_SUPABASE_URL": TOLD["MAIN_SUPABASE_URL"], "HOME": str(tmp_path), "PATH": path}
    credentials = {name: aws.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SECRETS],
        cwd=tmp_path, env={**given, **credentials}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    kept = aws.client("ssm").get_parameters_by_path(Path="/tierkeeper/dev/", WithDecryption=True)["Parameters"]
    assert {p["Name"].rpartition("/")[2]: p["Value"] for p in kept} == {**TOLD, "TIERKEEPER_KEY": key.read_text()}
    assert {p["Type"] for p in kept} == {"SecureString"}


@pytest.mark.long
def test_its_commands_run_as_printed(project: Project, aws: Account) -> None:
    deployed = [argv for argv in COMMANDS if argv[0] != "invoke"]
    assert len(deployed) == 7
    for argv in deployed:
        ended = project.serverless(*argv, environment=aws.environment)
        assert ended.code == 0, ended.text
