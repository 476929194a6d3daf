"""The how-to is true: each command of it does what it says, in the order in which it stands there."""

import os
import re
import shutil
import subprocess
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


@pytest.mark.skipif(AWS is None, reason="AWS's command line is not installed")
def test_the_secrets_arrive_as_they_are(aws: Account, tmp_path: Path) -> None:
    """The addresses are such as a shell, or a program that follows URLs, would take for something else."""
    told = {
        "CORE_SUPABASE_URL": "postgresql://u:p$$%40 `x`@core/db?sslrootcert=a.crt",
        "MAIN_SUPABASE_URL": "postgresql://u:p@main/db",
        "HOME_SERVER_URL": "https://127.0.0.1:9/#sha256=00",
    }
    (tmp_path / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in told.items()))
    key = tmp_path / ".config" / "tierkeeper" / "archive.key"
    key.parent.mkdir(parents=True)
    key.write_text("# of an archive\nAGE-SECRET-KEY-1\n")
    typed = tmp_path / "aws"
    typed.write_text(f'#!/bin/sh\nexec {AWS} --endpoint-url {aws.url} "$@"\n')
    typed.chmod(0o755)
    environment = {**aws.environment, "AWS_DEFAULT_REGION": aws.environment["AWS_REGION"], "HOME": str(tmp_path)}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SECRETS],
        cwd=tmp_path,
        env={**environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    kept = aws.client("ssm").get_parameters_by_path(Path="/tierkeeper/dev/", WithDecryption=True)["Parameters"]
    assert {p["Name"].rpartition("/")[2]: p["Value"] for p in kept} == {**told, "TIERKEEPER_KEY": key.read_text()}
    assert {p["Type"] for p in kept} == {"SecureString"}


@pytest.mark.long
def test_its_commands_run_as_printed(project: Project, aws: Account) -> None:
    deployed = [argv for argv in COMMANDS if argv[0] != "invoke"]
    assert len(deployed) == 7
    for argv in deployed:
        ended = project.serverless(*argv, environment=aws.environment)
        assert ended.code == 0, ended.text
