"""Events: what is known runs, what is not is refused before anything is opened."""

import json
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from invocations import REQUEST, RULE, SCHEDULER, Context
from tierkeeper.functions import (
    HomeServerArchiver,
    IntelligentLoadBalancer,
    MultiTierQuotaManager,
    MultiTierSetup,
    handlers,
    parameters,
)
from tierkeeper.functions.limit import TimeOver
from tierkeeper.kernel.errors import Failed, Faults, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.results import (
    ArchiveRunResult,
    CheckResult,
    HealthItem,
    HealthResult,
    OptimiseResult,
    QuotaResult,
    RestoreResult,
    Result,
    SetupResult,
    StatusResult,
    VerifyResult,
    WhatIfResult,
)
from tierkeeper.kernel.stop import TIME_LIMIT

NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)

ALL = (
    handlers.home_server_archiver,
    handlers.intelligent_load_balancer,
    handlers.multi_tier_quota_manager,
    handlers.multi_tier_setup,
)
ANSWERS = {
    (HomeServerArchiver, "run"): ArchiveRunResult(runs=[]),
    (HomeServerArchiver, "plan"): [],
    (HomeServerArchiver, "segments"): [],
    (HomeServerArchiver, "verify"): VerifyResult(segments=0, checked=0, damaged=[], missing=[], ok=True),
    (HomeServerArchiver, "restore"): RestoreResult(table="t", to="u", rows=0, segments=0, seconds=0),
    (IntelligentLoadBalancer, "health"): HealthResult(ok=True, checks=[]),
    (MultiTierQuotaManager, "run"): QuotaResult(dry_run=False, tiers={}),
    (MultiTierQuotaManager, "status"): StatusResult(tiers={}, tables={}),
    (MultiTierQuotaManager, "optimise"): OptimiseResult(feasible=True, promise=0.95, currency="USD"),
    (MultiTierQuotaManager, "what_if"): WhatIfResult(
        currency="USD",
        changes=[],
        before={},
        after={},
        cost_per_month_before=1,
        cost_per_month_after=1,
        reads_in_core_before=None,
        reads_in_core_after=None,
        within_quotas=True,
        toml="",
    ),
    (MultiTierSetup, "run"): SetupResult(applied=True, steps=[]),
    (MultiTierSetup, "check"): CheckResult(ok=True, checks=[]),
}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    for (function, method), answer in ANSWERS.items():

        def recorded(_: object, *args: Any, _as: str = method, _answer: object = answer, **kwargs: Any) -> object:
            calls.append((_as, args, kwargs))
            return _answer

        monkeypatch.setattr(function, method, recorded)
    return calls


@pytest.mark.parametrize(
    ("event", "trigger"),
    [
        ({}, "direct"),
        (None, "direct"),
        ("", "direct"),
        (RULE, "schedule"),
        (SCHEDULER, "schedule"),
        ({"trigger": "schedule"}, "schedule"),
    ],
)
def test_an_empty_event_and_a_schedules_own_run_the_function(called: list[tuple[Any, ...]], event: object, trigger: str) -> None:
    answers = [handler(event, object()) for handler in ALL]
    assert [(a["trigger"], a["action"]) for a in answers] == [(trigger, name) for name in ("run", "check", "run", "apply")]
    assert [name for name, *_ in called] == ["run", "health", "run", "run"]
    assert called[2] == ("run", (), {})
    assert called[3] == ("run", (), {"apply": True})


def test_an_answer_has_the_names_of_the_commands_document(called: list[tuple[Any, ...]]) -> None:
    for event, handler, command in (
        ({}, handlers.home_server_archiver, ArchiveRunResult(runs=[])),
        ({"action": "verify"}, handlers.home_server_archiver, ANSWERS[HomeServerArchiver, "verify"]),
        ({}, handlers.multi_tier_quota_manager, ANSWERS[MultiTierQuotaManager, "run"]),
        ({"action": "status"}, handlers.multi_tier_quota_manager, ANSWERS[MultiTierQuotaManager, "status"]),
        ({"action": "check"}, handlers.multi_tier_setup, ANSWERS[MultiTierSetup, "check"]),
    ):
        assert isinstance(command, Result)
        answer = handler(event, None)
        assert {k: answer[k] for k in answer.keys() - {"trigger", "action"}} == command.model_dump(mode="json")
    assert handlers.home_server_archiver({"action": "list"}, None)["segments"] == []
    assert handlers.home_server_archiver({"dry_run": True}, None)["plans"] == []


@pytest.mark.parametrize(
    ("handler", "event", "call"),
    [
        (handlers.home_server_archiver, {"dry_run": True, "table": "a.b"}, ("plan", ("a.b", None), {})),
        (handlers.home_server_archiver, {"table": "t", "before": "2024-01-01"}, ("run", ("t", NEW_YEAR), {})),
        (handlers.home_server_archiver, {"action": "verify", "segment": "s"}, ("verify", ("s", None), {"before": None})),
        (
            handlers.home_server_archiver,
            {"action": "verify", "sample": "1/3", "before": "2024-01-01"},
            ("verify", (None, "1/3"), {"before": NEW_YEAR}),
        ),
        (handlers.home_server_archiver, {"action": "list"}, ("segments", (None,), {})),
        (
            handlers.home_server_archiver,
            {"action": "restore", "table": "t", "to": "r.t"},
            ("restore", (), {"table": "t", "to": "r.t"}),
        ),
        (
            handlers.home_server_archiver,
            {"action": "restore", "table": "t", "to": "r.t", "since": "2024-01-01", "tier": "core", "on_conflict": "skip"},
            ("restore", (), {"table": "t", "to": "r.t", "since": NEW_YEAR, "tier": "core", "on_conflict": "skip"}),
        ),
        (handlers.multi_tier_quota_manager, {"allow_rewrite": True}, ("run", (), {"allow_rewrite": True})),
        (handlers.multi_tier_quota_manager, {"action": "optimise", "promise": "95%"}, ("optimise", ("95%",), {})),
        (handlers.multi_tier_quota_manager, {"action": "what_if", "what_if": "core=45d"}, ("what_if", (["core=45d"],), {})),
        (handlers.multi_tier_quota_manager, {"dry_run": True}, ("run", (), {"dry_run": True})),
        (handlers.multi_tier_quota_manager, {"action": "status"}, ("status", (), {})),
        (handlers.multi_tier_setup, {"dry_run": True}, ("run", (), {"apply": False})),
        (handlers.multi_tier_setup, {"action": "plan"}, ("run", (), {"apply": False})),
        (handlers.multi_tier_setup, {"action": "check"}, ("check", (), {})),
    ],
)
def test_an_event_says_what_to_do(
    called: list[tuple[Any, ...]], handler: handlers.Handler, event: object, call: tuple[Any, ...]
) -> None:
    handler(event, None)
    assert called == [call]


@pytest.mark.parametrize(
    "event", [{"dryrun": True}, {"dry_run": "yes"}, {"action": "explode"}, ["dry_run"], "dry_run", {"table": 5}, {"config": 1}]
)
def test_what_is_not_known_is_refused(called: list[tuple[Any, ...]], event: object) -> None:
    for handler in ALL:
        with pytest.raises(UsageError) as caught:
            handler(event, None)
        assert caught.value.place.startswith("event")
    assert called == []


def test_a_restore_needs_to_know_what_and_where(called: list[tuple[Any, ...]]) -> None:
    with pytest.raises(UsageError, match="'table' and 'to'"):
        handlers.home_server_archiver({"action": "restore", "to": "x"}, None)
    with pytest.raises(UsageError, match=r"event: to: 'rows\.txt' ends neither") as caught:
        handlers.home_server_archiver({"action": "restore", "table": "t", "to": "rows.txt"}, None)
    assert caught.value.place == "event: to"
    assert called == []


def test_a_host_whose_disk_does_not_last_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = {"action": "restore", "table": "t", "to": str(tmp_path / "t.csv")}
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    with pytest.raises(UsageError, match="no lasting disk"):
        handlers.home_server_archiver(event, None)
    monkeypatch.setenv("IS_LOCAL", "true")
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(UsageError, match="there is no file"):  # invoke local goes on to look for its configuration
        handlers.home_server_archiver(event, None)


def test_a_function_without_a_url_answers_no_request(called: list[tuple[Any, ...]]) -> None:
    for handler in (handlers.home_server_archiver, handlers.multi_tier_quota_manager, handlers.multi_tier_setup):
        with pytest.raises(UsageError, match="it has no URL, and nothing was run"):
            handler(REQUEST, None)
    assert called == []


def published(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_schedule_at_lambda_publishes_health_also_where_it_is_bad(
    called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = HealthResult(
        ok=False, checks=[HealthItem(name="api b:1", service="api", backend="b:1", healthy=False, cause="refused")]
    )
    monkeypatch.setattr(IntelligentLoadBalancer, "health", lambda _: bad)
    with pytest.raises(Failed, match="api b:1: refused"):
        handlers.intelligent_load_balancer(RULE, None)
    assert published(capsys) == []  # not at Lambda: stdout is the answer's
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    with pytest.raises(Failed, match="api b:1: refused"):
        handlers.intelligent_load_balancer(RULE, None)
    assert [(d["Service"], d.get("Healthy"), d.get("HealthyBackends")) for d in published(capsys)] == [
        ("api", 0, None),
        ("api", None, 0),
    ]
    with pytest.raises(Failed):
        handlers.intelligent_load_balancer({}, None)
    assert published(capsys) == []  # asked directly, it answers whoever asks
    monkeypatch.setenv("IS_LOCAL", "true")
    with pytest.raises(Failed):
        handlers.intelligent_load_balancer(RULE, None)
    assert published(capsys) == []


def test_what_is_raised_holds_no_secret(
    called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORE_SUPABASE_URL", "postgresql://u:correct-horse@h/db")

    def unexpected(*_: object, **__: object) -> object:
        raise ValueError("postgresql://u:correct-horse@h/db")

    def failed(*_: object, **__: object) -> object:
        raise Faults([NotNow("tiers.core", "no answer from postgresql://u:correct-horse@h/db", "Wait"), Failed("b", "c", "d")])

    for broken in (unexpected, failed):
        monkeypatch.setattr(MultiTierQuotaManager, "run", broken)
        with pytest.raises(TierkeeperError) as caught:
            handlers.multi_tier_quota_manager({}, None)
        told = "".join(traceback.format_exception(caught.value)) + capsys.readouterr().err
        assert "correct-horse" not in told
        assert "a fault of tierkeeper" in str(caught.value) or "tiers.core: no answer" in str(caught.value)
    assert str(caught.value).endswith("b: c. d")  # every fault is told, not the first alone


def test_a_restore_that_the_time_took_behind_its_commit_is_not_said_to_be_nothing(
    called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(*_: object, **__: object) -> object:
        raise TimeOver

    monkeypatch.setattr(HomeServerArchiver, "restore", over)
    with pytest.raises(NotNow, match=r"unless all of it was .*Look which") as caught:
        handlers.home_server_archiver({"action": "restore", "table": "t", "to": "u"}, Context(time.monotonic(), 30))
    assert caught.value.place == TIME_LIMIT


@pytest.mark.parametrize("rotated", [False, True])
def test_what_is_raised_at_aws_holds_no_secret_of_parameter_store(
    called: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rotated: bool
) -> None:
    """Not even the one that it began with, where another has taken its place meanwhile; and the store is not asked for it."""
    held, at_aws = (
        {"/t/d/HOME_SERVER_TOKEN": "correct-horse"},
        {"AWS_LAMBDA_FUNCTION_NAME": "f", "TIERKEEPER_PARAMETERS": "/t/d/"},
    )
    for name, value in at_aws.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("IS_LOCAL", raising=False)
    monkeypatch.setenv("HOME_SERVER_TOKEN", "")

    class Client:
        def get_parameters(self, *, Names: list[str], **_: object) -> Any:  # noqa: N803 - botocore's
            return {"Parameters": [{"Name": n, "Value": held[n]} for n in Names if n in held]}

    now = [0.0]
    kept = parameters.Secrets(lambda _: Client(), lambda: now[0])
    monkeypatch.setattr(parameters, "_KEPT", kept)

    def broken(error: Exception) -> Any:
        def run(*_: object, **__: object) -> object:
            parameters.environment()
            if rotated:
                held["/t/d/HOME_SERVER_TOKEN"] = "battery-staple"
                now[0] += parameters.REREAD_SECONDS
                parameters.environment()
            held.clear()
            now[0] += parameters.REREAD_SECONDS
            raise error

        return run

    for error in (ValueError("refused: correct-horse"), NotNow("store", "it refused correct-horse", "Wait")):
        held["/t/d/HOME_SERVER_TOKEN"] = "correct-horse"
        monkeypatch.setattr(MultiTierQuotaManager, "run", broken(error))
        with pytest.raises(TierkeeperError) as caught:
            handlers.multi_tier_quota_manager({}, None)
        told = "".join(traceback.format_exception(caught.value)) + capsys.readouterr().err
        assert "correct-horse" not in told
        assert "HOME_SERVER_TOKEN" in told


def test_constructing_does_nothing_and_errors_are_the_projects(tmp_path: Path) -> None:
    for function in (HomeServerArchiver, IntelligentLoadBalancer, MultiTierQuotaManager, MultiTierSetup):
        function(tmp_path / "nowhere.toml")
    with pytest.raises(UsageError):
        handlers.multi_tier_quota_manager({"config": str(tmp_path / "nowhere.toml")}, None)


def test_without_configuration_the_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CORE_SUPABASE_URL", "MAIN_SUPABASE_URL", "ARCHIVE_SUPABASE_URL", "ARCHIVE_PATH", "TIERKEEPER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for handler in ALL:
        with pytest.raises(Faults):
            handler({}, None)
