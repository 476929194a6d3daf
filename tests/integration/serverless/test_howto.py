"""The how-to is true: each `serverless` command of it does what it says, in the order in which it stands there."""

import re

import pytest

from cloud import ROOT, Account, Project

PAGE = (ROOT / "docs/howto/run-on-lambda.md").read_text()
COMMANDS = [line.split()[1:] for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines()]


def test_the_page_shows_what_the_users_document_does() -> None:
    told = {" ".join(argv) for argv in COMMANDS}
    names = ("home-server-archiver", "intelligent-load-balancer", "multi-tier-quota-manager", "multi-tier-setup")
    assert told >= {f"{verb} --function {name}" for verb in ("invoke local", "deploy") for name in names}


@pytest.mark.long
def test_its_commands_run_as_printed(project: Project, aws: Account) -> None:
    deployed = [argv for argv in COMMANDS if argv[0] != "invoke"]
    assert len(deployed) == 7
    for argv in deployed:
        ended = project.serverless(*argv, environment=aws.environment)
        assert ended.code == 0, ended.text
