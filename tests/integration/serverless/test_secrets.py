"""A function at AWS has its secrets from Parameter Store alone: none in its environment, none in a file beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cloud import REGION, ROOT, Account
from support import Tiers

FOLDER = "/tierkeeper/dev/"
RUN = "import json, sys, multi_tier_setup as m; print(json.dumps(m.handler(json.loads(sys.argv[1]), None)))"


def test_a_function_reads_its_secrets(tiers: Tiers, aws: Account, tmp_path: Path) -> None:
    catalog = f"{tiers.catalog.url}?sslrootcert={tiers.catalog.sslrootcert}"
    urls = {"CORE_SUPABASE_URL": f"{tiers.core.url}", "MAIN_SUPABASE_URL": f"{tiers.main.url}", "ARCHIVE_SUPABASE_URL": catalog}
    ssm = aws.client("ssm")
    for name, value in urls.items():
        ssm.put_parameter(Name=FOLDER + name, Value=value, Type="SecureString")
    (tmp_path / "tierkeeper.toml").write_text(
        "\n".join(
            f'[tiers.{tier}]\n{key} = "env:{name}"\nsslrootcert = {json.dumps(str(link.sslrootcert))}'
            for tier, key, name, link in (
                ("core", "url", "CORE_SUPABASE_URL", tiers.core),
                ("main", "url", "MAIN_SUPABASE_URL", tiers.main),
                ("archive", "catalog", "ARCHIVE_SUPABASE_URL", tiers.catalog),
            )
        )
        + f"\nstore = {json.dumps(str(tiers.store))}\n"
    )
    done = _run(tmp_path, aws, {"action": "check"})
    assert (done.returncode, json.loads(done.stdout or "{}").get("ok")) == (0, True), done.stderr
    ssm.delete_parameter(Name=FOLDER + "MAIN_SUPABASE_URL")
    missing = _run(tmp_path, aws, {"action": "check"})
    assert missing.returncode == 1
    assert "MAIN_SUPABASE_URL is not set" in missing.stderr
    assert tiers.core.url not in missing.stderr


def _run(folder: Path, aws: Account, event: Any) -> "subprocess.CompletedProcess[str]":
    """A cold start with the variables that Lambda and serverless.yml set."""
    environment = {
        **{name: value for name, value in aws.environment.items() if name.startswith("AWS_")},
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "AWS_REGION": REGION,
        "AWS_LAMBDA_FUNCTION_NAME": "tierkeeper-dev-multi-tier-setup",
        "TIERKEEPER_PARAMETERS": FOLDER,
        "TIERKEEPER_PARAMETER_NAMES": "ARCHIVE_SUPABASE_URL,CORE_SUPABASE_URL,HOME_SERVER_TOKEN,MAIN_SUPABASE_URL",
    }
    argv = [sys.executable, "-c", RUN, json.dumps(event)]
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
