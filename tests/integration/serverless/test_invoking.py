"""`serverless invoke local`, as the user's document has it, on real tiers: each function does its job and answers in JSON."""

import json
from collections.abc import Mapping
from typing import Any

from cloud import FUNCTIONS, ROOT, Ended, serverless
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


def _rows(tiers: Tiers, tier: str) -> int:
    with getattr(tiers, tier).connect("test") as conn:
        return int(conn.execute("SELECT count(*) FROM public.flights").fetchone()[0])


def _invoke(function: str, environment: Mapping[str, str], *argv: str) -> Ended:
    return serverless(ROOT, "invoke", "local", "--function", function, *argv, environment=environment)


def _answer(ended: Ended) -> Any:
    assert ended.code == 0, ended.text
    return json.loads(ended.out)
