"""`serverless deploy` and its kin, as the user's document has them, against an AWS account on this machine."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud import FUNCTIONS, REGION, Account, Project
from tierkeeper.functions import parameters

ARCHIVER, BALANCER, MANAGER, SETUP = FUNCTIONS
STACK = "tierkeeper-dev"
OWNER = "123456789012"
SECRETS = [name for name in parameters.SECRET if name != "TIERKEEPER_KEY"]
DOTENV = """
CORE_SUPABASE_URL=postgresql://user:h1dd3n-core@core.example/postgres
HOME_SERVER_TOKEN='h1dd3n-token'
ALERT_URL=json://h1dd3n-alert
export CORE_QUOTA_LIMIT="450MB"
LOAD_BALANCER_ALGORITHM=least_request
"""
TOML = """
[tiers.core]
url = "env:CORE_SUPABASE_URL"
quota = "env:CORE_QUOTA_LIMIT"
[alerts]
notify = ["env:ALERT_URL", 'env:PAGER_URL']
"""


@pytest.fixture
def project(project: Project) -> Project:
    (project.folder / ".env").write_text(DOTENV)
    (project.folder / "tierkeeper.toml").write_text(TOML)
    return project


def test_a_stack_from_its_first_function_to_its_removal(project: Project, aws: Account) -> None:
    assert _built(_run(project, aws, "deploy", "--function", ARCHIVER)) == sorted(FUNCTIONS)
    _compare_all(aws)
    again = _run(project, aws, "deploy", "--function", ARCHIVER)
    assert ("Code did not change" in again, _built(again)) == (True, [])

    (project.folder / "multi_tier_setup.py").write_text("def handler(event, context): return {'new': True}")
    before = _code(aws, SETUP), _code(aws, ARCHIVER)
    assert _built(_run(project, aws, "deploy", "--function", SETUP)) == [SETUP]
    assert (_code(aws, SETUP) != before[0], _code(aws, ARCHIVER)) == (True, before[1])

    with (project.folder / "tierkeeper.toml").open("a") as more:
        more.write("[mail]\nurl = 'env:MAIL_URL'\n")
    told = _run(project, aws, "deploy", "--function", MANAGER)
    assert (f"the role of {STACK}-{MANAGER} may not read MAIL_URL yet" in told, _built(told)) == (True, [])
    _compare_all(aws, "MAIL_URL")
    shown = _run(project, aws, "info")
    assert all(f"{STACK}-{name}" in shown for name in FUNCTIONS), shown
    assert _url(aws)["FunctionUrl"] in shown
    _run(project, aws, "remove")
    assert _left(aws) == {}
    assert "h1dd3n" not in "".join(_texts(project.folder / ".serverless"))


@pytest.mark.long
@pytest.mark.parametrize("first", [BALANCER, MANAGER, SETUP])
def test_any_function_may_come_first(project: Project, aws: Account, first: str) -> None:
    for name in (first, *(n for n in FUNCTIONS if n != first)):
        _run(project, aws, "deploy", "--function", name, "--stage", "prod")
    names = [f["FunctionName"] for f in aws.client("lambda").list_functions()["Functions"]]
    assert sorted(names) == [f"tierkeeper-prod-{name}" for name in sorted(FUNCTIONS)]
    _run(project, aws, "remove", "--stage", "prod")
    assert _left(aws) == {}


def test_the_switches_of_a_stage(project: Project) -> None:
    key, bucket = f"arn:aws:kms:{REGION}:{OWNER}:key/1234", "vault/home/archive"
    given = ("reserve-concurrency=off", f"kms-key={key}", f"archive-bucket={bucket}", "subnets=a, b", "security-groups=c")
    params = [f"--param={p}" for p in given]
    ended = project.serverless("package", "--stage", "prod", "--region", REGION, *params)
    assert ended.code == 0, ended.text
    resources = json.loads((project.folder / ".serverless/cloudformation-template-update-stack.json").read_text())["Resources"]
    assert [name for name, r in resources.items() if r.get("DeletionPolicy") or r["Type"] == "AWS::Lambda::Version"] == []
    functions = [r["Properties"] for r in resources.values() if r["Type"] == "AWS::Lambda::Function"]
    assert len(functions) == 4
    assert not any("ReservedConcurrentExecutions" in f for f in functions)
    assert all(f["Tags"] == [{"Key": "project", "Value": "tierkeeper"}, {"Key": "stage", "Value": "prod"}] for f in functions)
    assert [(f["VpcConfig"]["SubnetIds"], f["VpcConfig"]["SecurityGroupIds"]) for f in functions] == [(["a", "b"], ["c"])] * 4
    bucket_block = resources["ServerlessDeploymentBucket"]["Properties"]["PublicAccessBlockConfiguration"]
    assert (len(bucket_block), all(bucket_block.values())) == (4, True)
    (role,) = resources["IntelligentLoadBalancerRole"]["Properties"]["Policies"]
    statements = {s["Sid"]: s for s in role["PolicyDocument"]["Statement"]}
    secrets = [_sub("ssm", f"parameter/tierkeeper/prod/{name}") for name in sorted([*SECRETS, "ALERT_URL", "PAGER_URL"])]
    assert statements.pop("ReadItsOwnSecrets")["Resource"] == secrets
    assert statements.pop("WriteItsOwnLog")
    assert statements.pop("DecryptThemOnly") == {
        "Sid": "DecryptThemOnly",
        "Effect": "Allow",
        "Action": ["kms:Decrypt"],
        "Resource": [key],
        "Condition": {
            "StringEquals": {
                "kms:ViaService": {"Fn::Sub": "ssm.${AWS::Region}.amazonaws.com"},
                "kms:EncryptionContext:PARAMETER_ARN": secrets,
            }
        },
    }
    network = statements.pop("StandInItsNetwork")
    assert (network["Resource"], {action.partition(":")[0] for action in network["Action"]}) == (["*"], {"ec2"})
    assert [(s["Action"], s["Resource"], s.get("Condition")) for s in statements.values()] == [
        (
            ["s3:ListBucket"],
            [{"Fn::Sub": "arn:${AWS::Partition}:s3:::vault"}],
            {"StringLike": {"s3:prefix": "home/archive/*"}},
        ),
        (
            ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
            [{"Fn::Sub": "arn:${AWS::Partition}:s3:::vault/home/archive/*"}],
            None,
        ),
    ]
    half = project.serverless("package", "--param=subnets=a")
    assert (half.code, "give both, or neither" in half.text) == (1, True), half.text
    wrong = project.serverless("package", "--param=reserve-concurrency=no")
    assert (wrong.code, 'reserve-concurrency is "no": write on or off' in wrong.text) == (1, True), wrong.text


def test_what_goes_wrong_is_told(project: Project, aws: Account) -> None:
    unknown = project.serverless("deploy", "--function", "home-server", environment=aws.environment)
    assert (unknown.code, 'Function "home-server" doesn\'t exist' in unknown.text) == (1, True), unknown.text
    assert "home-server-archiver, intelligent-load-balancer" in unknown.text
    nothing = project.serverless(environment=aws.environment)
    assert (nothing.code, "invoke local" in nothing.text) == (0, True), nothing.text
    nobody = project.serverless("deploy", "--function", ARCHIVER, environment={"AWS_EC2_METADATA_DISABLED": "true"})
    assert (nobody.code, "credentials not found" in nobody.text) == (1, True), nobody.text
    below = project.serverless("deploy", "--function", ARCHIVER, environment=aws.environment, cwd=project.folder / "deploy")
    assert (below.code, f"cd {project.folder}" in below.text) == (1, True), below.text

    (project.folder / "deploy/lambda/artifacts.py").write_text("raise SystemExit('tierkeeper.toml: a password. Write env:NAME')")
    failed = project.serverless("deploy", "--function", ARCHIVER, environment=aws.environment)
    assert (failed.code, "tierkeeper.toml: a password. Write env:NAME" in failed.text) == (1, True), failed.text
    assert "at " not in failed.out, "no stack trace: it is the user's to mend"
    assert _left(aws) == {}


def _run(project: Project, aws: Account, *argv: str) -> str:
    ended = project.serverless(*argv, environment=aws.environment)
    assert ended.code == 0, ended.text
    assert "Warning" not in ended.text, ended.text
    return ended.text


def _built(text: str) -> list[str]:
    """The functions whose artifacts were built, as it is shown."""
    return sorted(re.findall(r"dist/lambda/(.*)\.zip  0 MB, built", text))


def _compare_all(aws: Account, *more: str) -> None:
    """`more`: secrets that tierkeeper.toml names besides."""
    functions = {f["FunctionName"]: f for f in aws.client("lambda").list_functions()["Functions"]}
    assert sorted(functions) == [f"{STACK}-{name}" for name in sorted(FUNCTIONS)]
    assert "h1dd3n" not in json.dumps(functions, default=str)
    for name in FUNCTIONS:
        _compare_function(aws, name, functions[f"{STACK}-{name}"], more)
        assert _policies(aws, name) == [_expected_policy(name, more)]
    _compare_schedules(aws)
    url = _url(aws)
    assert (url["AuthType"], url["FunctionArn"]) == ("AWS_IAM", _arn("lambda", f"function:{STACK}-{BALANCER}"))
    logs = {g["logGroupName"]: g["retentionInDays"] for g in aws.client("logs").describe_log_groups()["logGroups"]}
    assert logs == {f"/aws/lambda/{STACK}-{name}": 30 for name in FUNCTIONS}


def _compare_function(aws: Account, name: str, found: Any, more: Iterable[str]) -> None:
    quick = name == BALANCER
    assert found["Runtime"] == "python3.13"
    assert found["Handler"] == f"{name.replace('-', '_')}.handler"
    assert (found["MemorySize"], found["Timeout"]) == ((512, 30) if quick else (1769, 900))
    assert found["Role"] == f"arn:aws:iam::{OWNER}:role/{STACK}-{REGION}-{name}"
    assert found["Environment"]["Variables"] == {
        "CORE_QUOTA_LIMIT": "450MB",
        "LOAD_BALANCER_ALGORITHM": "least_request",
        "TIERKEEPER_PARAMETERS": "/tierkeeper/dev/",
        "TIERKEEPER_PARAMETER_NAMES": ",".join(_secrets(name, more)),
    }
    client, function = aws.client("lambda"), found["FunctionName"]
    reserved = client.get_function_concurrency(FunctionName=function).get("ReservedConcurrentExecutions")
    assert reserved == (None if quick else 1)
    again = client.get_function_event_invoke_config(FunctionName=function)["MaximumRetryAttempts"]
    assert again == (1 if name in (ARCHIVER, MANAGER) else 0)


def _secrets(name: str, more: Iterable[str] = ()) -> list[str]:
    key = [] if name == BALANCER else ["TIERKEEPER_KEY"]
    return sorted([*SECRETS, "ALERT_URL", "PAGER_URL", *key, *more])


def _expected_policy(name: str, more: Iterable[str] = ()) -> Any:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "WriteItsOwnLog",
                "Effect": "Allow",
                "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
                "Resource": [_arn("logs", f"log-group:/aws/lambda/{STACK}-{name}:*")],
            },
            {
                "Sid": "ReadItsOwnSecrets",
                "Effect": "Allow",
                "Action": ["ssm:GetParameters"],
                "Resource": [_arn("ssm", f"parameter/tierkeeper/dev/{secret}") for secret in _secrets(name, more)],
            },
        ],
    }


def _policies(aws: Account, name: str) -> list[Any]:
    """All that the function's role may do. It is assumed by Lambda alone, and carries no managed policy."""
    iam, role = aws.client("iam"), f"{STACK}-{REGION}-{name}"
    assert iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]["Statement"] == [
        {"Effect": "Allow", "Principal": {"Service": ["lambda.amazonaws.com"]}, "Action": ["sts:AssumeRole"]}
    ]
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    found = [iam.get_role_policy(RoleName=role, PolicyName=each)["PolicyDocument"] for each in names]
    return [ast.literal_eval(each) if isinstance(each, str) else each for each in found]  # moto tells of some as of Python's


def _compare_schedules(aws: Account) -> None:
    events, client = aws.client("events"), aws.client("lambda")
    found = {}
    for rule in events.list_rules()["Rules"]:
        (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
        function = target["Arn"].rpartition(":")[2]
        found[function.removeprefix(f"{STACK}-")] = rule["ScheduleExpression"], rule["State"], target.get("Input")
        (allowed,) = json.loads(client.get_policy(FunctionName=function)["Policy"])["Statement"]
        assert allowed["Principal"] == {"Service": "events.amazonaws.com"}
        assert allowed["Condition"] == {"ArnLike": {"AWS:SourceArn": rule["Arn"]}}
    assert found == {
        ARCHIVER: ("cron(0 4 ? * SUN *)", "ENABLED", None),
        MANAGER: ("cron(0 3 * * ? *)", "ENABLED", None),
        BALANCER: ("rate(1 minute)", "ENABLED", None),
    }


def _url(aws: Account) -> Any:
    return aws.client("lambda").get_function_url_config(FunctionName=f"{STACK}-{BALANCER}")


def _code(aws: Account, name: str) -> str:
    return str(aws.client("lambda").get_function(FunctionName=f"{STACK}-{name}")["Configuration"]["CodeSha256"])


def _left(aws: Account) -> dict[str, list[str]]:
    """What is in the account, by kind."""
    stacks = aws.client("cloudformation").list_stacks()["StackSummaries"]
    found = {
        "stacks": [s["StackName"] for s in stacks if s["StackStatus"] != "DELETE_COMPLETE"],
        "functions": [f["FunctionName"] for f in aws.client("lambda").list_functions()["Functions"]],
        "rules": [r["Name"] for r in aws.client("events").list_rules()["Rules"]],
        "roles": [r["RoleName"] for r in aws.client("iam").list_roles()["Roles"]],
        "logs": [g["logGroupName"] for g in aws.client("logs").describe_log_groups()["logGroups"]],
        "buckets": [b["Name"] for b in aws.client("s3").list_buckets()["Buckets"]],
    }
    return {kind: names for kind, names in found.items() if names}


def _arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{OWNER}:{resource}"


def _sub(service: str, resource: str) -> dict[str, str]:
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{resource}"}


def _texts(folder: Path) -> Iterator[str]:
    return (path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())
