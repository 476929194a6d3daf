"""Events: what is known runs, what is not is refused before anything is opened."""

from pathlib import Path
from typing import Any

import pytest

from tierkeeper.functions import HomeServerArchiver, IntelligentLoadBalancer, MultiTierQuotaManager, MultiTierSetup, handlers
from tierkeeper.kernel.errors import Faults, UsageError
from tierkeeper.kernel.results import (
    ArchiveRunResult,
    CheckResult,
    HealthResult,
    QuotaResult,
    RestoreResult,
    SetupResult,
    StatusResult,
    VerifyResult,
)

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


@pytest.mark.parametrize("event", [{}, None, "", {"source": "aws.events", "detail-type": "Scheduled Event", "id": "1"}])
def test_an_empty_event_and_a_schedules_own_run_the_function(called: list[tuple[Any, ...]], event: object) -> None:
    for handler in ALL:
        assert isinstance(handler(event, object()), dict)
    assert [name for name, *_ in called] == ["run", "health", "run", "run"]
    assert called[2] == ("run", (), {"dry_run": False})
    assert called[3] == ("run", (), {"apply": True})


@pytest.mark.parametrize(
    ("handler", "event", "call"),
    [
        (handlers.home_server_archiver, {"dry_run": True, "table": "a.b"}, ("plan", ("a.b", None), {})),
        (handlers.home_server_archiver, {"action": "verify", "segment": "s"}, ("verify", ("s",), {})),
        (handlers.home_server_archiver, {"action": "list"}, ("segments", (None,), {})),
        (
            handlers.home_server_archiver,
            {"action": "restore", "table": "t", "to": "r.t"},
            ("restore", ("t", "r.t"), {"since": None, "until": None, "segment": None}),
        ),
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
    assert called == []


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
