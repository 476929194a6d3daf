"""`serverless invoke local`: what goes wrong is told, and a function has the user's own environment.

What each function does by it is shown on the demo that stays (`integration/demo/test_serve.py`).
"""

import json
from collections.abc import Mapping
from typing import Any

from cloud import FUNCTIONS, ROOT, Ended, Project, serverless
from support import Tiers, tierkeeper_toml

_, _, MANAGER, SETUP = FUNCTIONS


def test_a_fault_is_told_and_exits_1(tiers: Tiers) -> None:
    config = tierkeeper_toml(tiers, extra='[[tables]]\nname = "public.flights"\ncore = "soon"\n')
    ended = _invoke(MANAGER, {**tiers.environment, "TIERKEEPER_CONFIG": str(config)})
    assert ended.code == 1
    assert "remedy" in ended.err, "it is told as the command line tells it"
    assert "soon" in ended.err
    assert ended.out.split() == ["Error:", *f"{MANAGER} failed (2): see above".split()]
    assert "Traceback" not in ended.text
    assert "\n    at " not in ended.text
    unknown = _invoke(SETUP, {**tiers.environment}, "--data", '{"dry_rum": true}')
    assert (unknown.code, "dry_run" in unknown.err) == (1, True), unknown.text


HANDLER = """
import os, sys, time
def handler(event, context):
    assert sys.stdin.read() == ""
    print("on its way", file=sys.stderr, flush=True)
    while context.stop() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    names = ("CORE_QUOTA_LIMIT", "TIERKEEPER_PARAMETERS", "IS_LOCAL", "AWS_LAMBDA_FUNCTION_NAME", "AWS_REGION", "MINE")
    return {"event": event, "left": context.get_remaining_time_in_millis(), **{n: os.environ.get(n) for n in names}, "ö": "ü"}
"""


def test_a_function_that_runs_here_has_the_users_environment_and_stdout_for_itself(project: Project) -> None:
    """It is asked to end by SIGTERM, and what it says then is waited for."""
    (project.folder / ".env").write_text("CORE_QUOTA_LIMIT=1MB\n")
    (project.folder / "multi_tier_setup.py").write_text(HANDLER)
    environment = {
        "MINE": "p$assword",
        "AWS_REGION": "eu-central-1",
        "TIERKEEPER_PARAMETERS": "/tierkeeper/dev/",
        "AWS_ACCESS_KEY_ID": "AKIA",
    }
    begun = project.begun("invoke", "local", "--function", SETUP, "--data", '{"dry_run": true}', environment=environment)
    assert begun.stderr is not None
    while (line := begun.stderr.readline()) != "on its way\n":
        assert line, "it ended of itself"
    begun.terminate()
    out, err = begun.communicate(timeout=60)
    answer = _answer(Ended(begun.returncode, out, err))
    assert 890_000 < answer.pop("left") <= 900_000
    assert answer == {
        "event": {"dry_run": True},
        "CORE_QUOTA_LIMIT": None,  # the function reads .env itself, beside the configuration that it goes by
        "TIERKEEPER_PARAMETERS": "/tierkeeper/dev/",  # of a terminal that also deploys; nobody asks Parameter Store here
        "IS_LOCAL": "true",
        "AWS_LAMBDA_FUNCTION_NAME": "tierkeeper-dev-multi-tier-setup",
        "AWS_REGION": "eu-central-1",
        "MINE": "p$assword",
        "ö": "ü",
    }
    assert "Stopping at the next safe point" in err


def _invoke(function: str, environment: Mapping[str, str], *argv: str) -> Ended:
    return serverless(ROOT, "invoke", "local", "--function", function, *argv, environment=environment)


def _answer(ended: Ended) -> Any:
    assert ended.code == 0, ended.text
    return json.loads(ended.out)
