"""`serverless invoke local`, as the user's document has it, on real tiers: each function does its job and answers in JSON."""

import json
from collections.abc import Mapping
from typing import Any

from cloud import FUNCTIONS, ROOT, Ended, Project, serverless
from support import FLIGHTS_POLICY, Tiers, TiersFactory, tierkeeper_toml

ARCHIVER, BALANCER, MANAGER, SETUP = FUNCTIONS
CLOUD = {  # what a terminal that also deploys may have; a function that runs here asks no Parameter Store
    "AWS_ACCESS_KEY_ID": "AKIA",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "TIERKEEPER_PARAMETERS": "/tierkeeper/dev/",
}


def test_each_function_does_its_job(make_tiers: TiersFactory) -> None:
    tiers = make_tiers(core="sample")
    config = tierkeeper_toml(tiers, FLIGHTS_POLICY)
    environment = {**tiers.environment, **CLOUD, "TIERKEEPER_CONFIG": str(config)}
    before = _rows(tiers, "core")
    assert _answer(_invoke(SETUP, environment))["applied"] is True
    planned = _answer(_invoke(MANAGER, environment, "--data", '{"dry_run": true}'))
    assert (planned["dry_run"], _rows(tiers, "core")) == (True, before)
    assert _answer(_invoke(MANAGER, environment))["dry_run"] is False
    left = _rows(tiers, "core") + _rows(tiers, "main")
    assert _answer(_invoke(ARCHIVER, environment))["action"] == "run"
    listed = _answer(_invoke(ARCHIVER, environment, "--data", '{"action": "list"}'))
    assert left < before
    assert sum(segment["rows"] for segment in listed["segments"]) == before - left
    health = _answer(_invoke(BALANCER, environment))
    assert [(check["name"], check["healthy"]) for check in health["checks"]] == [
        ("core", True), ("main", True), ("archive (catalog)", True), ("archive (store)", True),
    ]  # fmt: skip


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
import os, sys
def handler(event, context):
    print("on its way", file=sys.stderr)
    assert sys.stdin.read() == ""
    names = ("CORE_QUOTA_LIMIT", "TIERKEEPER_PARAMETERS", "IS_LOCAL", "AWS_LAMBDA_FUNCTION_NAME", "AWS_REGION", "MINE")
    return {"event": event, "left": context.get_remaining_time_in_millis(), **{n: os.environ.get(n) for n in names}, "ö": "ü"}
"""


def test_a_function_that_runs_here_has_the_users_environment_and_stdout_for_itself(project: Project) -> None:
    (project.folder / ".env").write_text("CORE_QUOTA_LIMIT=1MB\n")
    (project.folder / "multi_tier_setup.py").write_text(HANDLER)
    environment = {"MINE": "p$assword", "AWS_REGION": "eu-central-1"}
    ended = project.serverless("invoke", "local", "--function", SETUP, "--data", '{"dry_run": true}', environment=environment)
    answer = _answer(ended)
    assert 890_000 < answer.pop("left") <= 900_000
    assert answer == {
        "event": {"dry_run": True},
        "CORE_QUOTA_LIMIT": None,  # the function reads .env itself, beside the configuration that it goes by
        "TIERKEEPER_PARAMETERS": None,
        "IS_LOCAL": "true",
        "AWS_LAMBDA_FUNCTION_NAME": "tierkeeper-dev-multi-tier-setup",
        "AWS_REGION": "eu-central-1",
        "MINE": "p$assword",
        "ö": "ü",
    }
    assert "on its way" in ended.err


def _rows(tiers: Tiers, tier: str) -> int:
    with getattr(tiers, tier).connect("test") as conn:
        return int(conn.execute("SELECT count(*) FROM public.flights").fetchone()[0])


def _invoke(function: str, environment: Mapping[str, str], *argv: str) -> Ended:
    return serverless(ROOT, "invoke", "local", "--function", function, *argv, environment=environment)


def _answer(ended: Ended) -> Any:
    assert ended.code == 0, ended.text
    return json.loads(ended.out)
