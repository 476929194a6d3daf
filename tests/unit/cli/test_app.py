"""Exits, error shapes and streams of the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tierkeeper.kernel.errors import Exit, Failed, Faults, NotNow, UsageError
from tierkeeper.kernel.results import (
    ArchiveRunResult,
    CheckItem,
    CheckResult,
    MovePlan,
    MoveResult,
    QuotaResult,
    RestoreResult,
    SetupResult,
    SetupStep,
    StatusResult,
    VerifyResult,
)
from tierkeeper.kernel.tables import TableName

Cli = Callable[..., Any]
SECRET = "s3cr3t-passw0rd"

MOVED = MoveResult(
    table="public.t", from_="core", to="main", batches=2, rows=7, bytes=90, seconds=0.5, stopped_because="complete"
)


def with_end(reason: str) -> MoveResult:
    return MOVED.model_copy(update={"stopped_because": reason})


@pytest.mark.parametrize(
    "argv",
    [
        ["frobnicate"],
        ["move", "a.b", "--from", "core", "--to", "moon"],
        ["move", "a.b", "--from", "core", "--to", "core"],
        ["move", "a.b", "--from", "core", "--to", "main", "--before", "yesterweek"],
        ["move", "a.b", "--from", "core", "--to", "main", "--older-than", "soon"],
        ["move", "a.b", "--from", "core", "--to", "main", "--limit", "0"],
        ["move", "a.b", "--from", "core", "--to", "main", "--limit", str(2**63)],
        ["move", "a.b", "--from", "core", "--to", "main", "--before", "9999-12-31T23:59:59-14:00"],
        ["move", "a.b", "--from", "core", "--to", "main", "--max-time", "soon"],
        ["quota", "--max-time", "0 minutes"],
        ["move", "a b", "--from", "core", "--to", "main"],
        ["move"],
        ["status", "--colour"],
        ["archive"],
        ["archive", "restore", "t", "--to", "x.txt/"],
        ["archive", "run", "--before", "never"],
        ["archive", "restore", "t", "--to", "february.txt"],
        ["query", "select 1", "--output", "/no/such/folder/x.csv"],
        ["--config", "nowhere.toml", "check"],
        [],
    ],
)
def test_bad_arguments_are_usage_errors_before_anything_is_opened(cli: Cli, keeper: Any, argv: list[str]) -> None:
    plain = cli(*argv)
    assert (plain.code, plain.out) == (Exit.USAGE, "")
    assert plain.err
    as_json = cli(*argv, "--json")
    assert as_json.code == Exit.USAGE
    assert set(as_json.document["error"]) == {"place", "cause", "remedy"}
    assert as_json.err == ""
    assert not keeper.opened


def test_json_is_the_result_and_nothing_else(cli: Cli, keeper: Any) -> None:
    keeper.answer = MOVED
    before, after = (
        cli("--json", "move", "t", "--from", "core", "--to", "main"),
        cli("move", "t", "--from", "core", "--to", "main", "--json"),
    )
    assert before == after
    assert after.document == MOVED.model_dump(mode="json")
    promised = ("table", "from", "to", "batches", "rows", "bytes", "seconds", "stopped_because")
    assert [key for key in promised if key not in after.document] == []
    assert (after.code, after.err) == (0, "")


def test_a_move_hands_its_arguments_over(cli: Cli, keeper: Any) -> None:
    keeper.answer = MOVED
    cli("move", '"S".t', "--from", "core", "--to", "main", "--before", "2013-10-01", "--where", "a = 1", "--limit", "5")
    keeper.answer = MovePlan(
        table="t", from_="core", to="main", cutoff=datetime(2013, 1, 1, tzinfo=UTC), rows=1, batches=1, setup=[]
    )
    cli("move", "t", "--from", "main", "--to", "archive", "--older-than", "2 weeks", "--dry-run")
    (first, args, kwargs), (second, _, planned) = keeper.calls
    assert (first, args) == ("move", (TableName("S", "t"), "core", "main"))
    assert kwargs == {"before": datetime(2013, 10, 1, tzinfo=UTC), "older_than": None, "where": "a = 1", "limit": 5}
    assert second == "plan_move"
    assert planned["older_than"].text == "2 weeks"


@pytest.mark.parametrize(
    ("argv", "called"),
    [
        (["check"], ("check", ())),
        (["setup"], ("setup", (False,))),
        (["setup", "--apply"], ("trust", ({}, None))),
        (["status"], ("status", ())),
        (["quota", "--dry-run"], ("quota", (True,))),
        (["archive", "list", "t"], ("archive_list", (TableName("public", "t"),))),
        (["archive", "show", "s1"], ("archive_show", ("s1",))),
        (["archive", "verify", "--segment", "s1"], ("archive_verify", ("s1", None))),
        (["archive", "verify", "--sample", "1/30"], ("archive_verify", (None, "1/30"))),
        (
            ["archive", "run", "t", "--before", "2013-01-01"],
            ("archive_run", (TableName("public", "t"), datetime(2013, 1, 1, tzinfo=UTC))),
        ),
        (["archive", "run", "--dry-run"], ("plan_archive", (None, None))),
        (
            ["archive", "restore", "t", "--to", "r.t", "--since", "2013-01-01", "--segment", "s", "--tier", "core"],
            ("archive_restore", (TableName("public", "t"),)),
        ),
    ],
)
def test_a_command_asks_the_keeper_one_thing(cli: Cli, keeper: Any, argv: list[str], called: tuple[str, Any]) -> None:
    keeper.answer = NotNow("tiers.core", "it is away", "Run again")
    assert cli(*argv).code == Exit.NOT_NOW
    assert [(name, args) for name, args, _ in keeper.calls] == [called]


FAULT = {"place": "t", "cause": "c", "remedy": "r"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (MOVED, Exit.DONE),
        (with_end("resting"), Exit.DONE),
        (with_end("stopped"), Exit.NOT_NOW),
        (ArchiveRunResult(runs=[MOVED, with_end("stopped")]), Exit.NOT_NOW),
        (QuotaResult(dry_run=False, tiers={}, moves=[with_end("stopped")]), Exit.NOT_NOW),
        (QuotaResult(dry_run=False, tiers={}, errors=[FAULT]), Exit.FAILED),
        (QuotaResult(dry_run=True, tiers={}, errors=[{**FAULT, "not_now": True}]), Exit.NOT_NOW),
        (QuotaResult(dry_run=False, tiers={}, errors=[{**FAULT, "not_now": True}, FAULT]), Exit.FAILED),
        (VerifyResult(segments=1, checked=1, damaged=["s: flipped"], missing=[], ok=False), Exit.FAILED),
        (VerifyResult(segments=1, checked=1, damaged=[], missing=[], ok=True), Exit.DONE),
    ],
)
def test_a_result_means_an_exit_code(cli: Cli, keeper: Any, answer: object, code: int) -> None:
    keeper.answer = answer
    assert cli("quota").code == code
    assert cli("quota", "--json").code == code


def test_a_restore_hands_its_arguments_over(cli: Cli, keeper: Any) -> None:
    keeper.answer = NotNow("tiers.core", "it is away", "Run again")
    window = ["--since", "2013-01-01", "--segment", "s", "--key", "7", "--key", "8"]
    cli("archive", "restore", "t", "--to", "r.t", *window, "--tier", "core", "--on-conflict", "skip")
    since = datetime(2013, 1, 1, tzinfo=UTC)
    window_given = {"since": since, "until": None, "segment": "s", "keys": ["7", "8"]}
    assert keeper.calls[0][2] == {"to": "r.t", **window_given, "tier": "core", "on_conflict": "skip", "on": None}
    assert cli("archive", "restore", "t", "--to", "r.t", "--on-conflict", "update").code == Exit.USAGE


def test_several_faults_are_a_list(cli: Cli, keeper: Any) -> None:
    keeper.answer = Faults([NotNow("tiers.core", "away", "Start it"), UsageError("tables[0]", "no key", "Add one")])
    ran = cli("check", "--json")
    assert ran.code == Exit.USAGE
    assert [e["place"] for e in ran.document["error"]] == ["tiers.core", "tables[0]"]
    plain = cli("check")
    assert plain.out == ""
    assert plain.err.count("remedy") == 2


def test_an_unexpected_error_is_told_without_its_text(cli: Cli, keeper: Any) -> None:
    keeper.answer = RuntimeError(f"row ({SECRET})")
    ran = cli("status", "--json")
    assert ran.code == Exit.FAILED
    assert "RuntimeError" in ran.document["error"]["cause"]
    assert SECRET not in ran.out + ran.err
    assert "Traceback" not in cli("status").err


def test_debug_shows_the_traceback_without_secrets(cli: Cli, keeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper.answer = RuntimeError(f"postgresql://u:{SECRET}@h/x and {SECRET}")
    ran = cli("status", "--debug", "--json")
    assert "Traceback" in ran.err
    assert SECRET not in ran.out + ran.err
    assert "error" in ran.document
    monkeypatch.setenv("TIERKEEPER_DEBUG", "1")
    assert "Traceback" in cli("status").err


def test_a_password_in_a_cause_is_hidden(cli: Cli, keeper: Any) -> None:
    keeper.answer = Failed("t", f"could not use postgresql://u:{SECRET}@h/x", "Correct it")
    assert SECRET not in cli("status").err
    assert SECRET not in cli("status", "--json").out


def test_the_first_interrupt_asks_and_the_second_ends(cli: Cli, keeper: Any) -> None:
    def once() -> MoveResult:
        assert keeper.opened["stop"]() is None
        os.kill(os.getpid(), signal.SIGTERM)
        return with_end(keeper.opened["stop"]())

    keeper.answer = once
    ran = cli("move", "t", "--from", "core", "--to", "main", "--json")
    assert (ran.code, ran.document["stopped_because"]) == (Exit.NOT_NOW, "stopped")
    assert "safe point" in ran.err

    def twice() -> MoveResult:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    keeper.answer = twice
    ran = cli("move", "t", "--from", "core", "--to", "main", "--json")
    assert ran.code == Exit.NOT_NOW
    assert "error" in ran.document


def test_a_limit_on_time_asks_for_an_end_and_is_no_failure(cli: Cli, keeper: Any) -> None:
    def slow() -> MoveResult:
        stop, began = keeper.opened["stop"], time.monotonic()
        assert stop() is None
        while stop() is None:
            time.sleep(0.01)
        assert time.monotonic() - began > 0.5
        return with_end(stop())

    keeper.answer = slow
    for argv in (["move", "t", "--from", "core", "--to", "main"], ["archive", "run"], ["quota"]):
        ran = cli(*argv, "--max-time", "1 second", "--json")
        assert (ran.code, ran.document["stopped_because"]) == (Exit.DONE, "time limit")


def test_reading_ends_at_the_first_interrupt(cli: Cli, keeper: Any) -> None:
    def interrupted() -> StatusResult:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    keeper.answer = interrupted
    before = signal.getsignal(signal.SIGTERM)
    assert cli("status").code == Exit.NOT_NOW
    assert signal.getsignal(signal.SIGTERM) is before


def test_init_refers_to_variables_and_never_overwrites(
    cli: Cli, keeper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARCHIVE_PATH")
    (tmp_path / ".env").write_text("MAX_RETRIES=5\n")
    first = cli("init", "--json")
    assert first.code == 0
    assert first.document["missing"] == ["ARCHIVE_PATH"]
    text = (tmp_path / "tierkeeper.toml").read_text()
    assert SECRET not in text
    assert 'max_retries = "env:MAX_RETRIES"' in text
    (tmp_path / "tierkeeper.toml").write_text("# mine\n")
    assert cli("init").code == Exit.USAGE
    assert (tmp_path / "tierkeeper.toml").read_text() == "# mine\n"
    monkeypatch.setenv("ARCHIVE_PATH", "store")
    (tmp_path / "tierkeeper.toml").write_text(text)
    keeper.answer = CheckResult(ok=True, checks=[CheckItem(place="tiers.core", finding="answers")])
    assert cli("check").code == 0
    assert keeper.opened["settings"].balance.max_retries == 5


def test_a_person_reads_the_plan_of_a_setup(cli: Cli, keeper: Any) -> None:
    keeper.answer = SetupResult(applied=False, steps=[SetupStep(tier="main", action="make table", sql="CREATE TABLE t ()")])
    out = cli("setup").out
    assert "CREATE TABLE t ()" in out
    assert "setup --apply" in out


def test_a_restore_is_told_in_a_line(cli: Cli, keeper: Any) -> None:
    keeper.answer = RestoreResult(table="public.t", to="r.t", rows=1234, segments=1, seconds=0.25)
    assert "1,234 rows of public.t from 1 segment into r.t" in cli("archive", "restore", "t", "--to", "r.t").out


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("tierkeeper ")
    assert json.dumps(cli("--help").code) == "0"


def test_one_fault_is_an_object_and_several_are_a_list(cli: Cli, keeper: Any) -> None:
    one, two = UsageError("a", "b", "c"), UsageError("d", "e", "f")
    keeper.answer = Faults([one])
    assert cli("check", "--json").document == {"error": {"place": "a", "cause": "b", "remedy": "c"}}
    keeper.answer = Faults([one, two])
    assert [e["place"] for e in cli("check", "--json").document["error"]] == ["a", "d"]


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("2", min(2, os.cpu_count() or 1))])
def test_no_library_that_comes_along_begins_threads_unless_somebody_says_so(said: str | None, threads: int) -> None:
    """They look busily for work for a while, on cores that the servers need."""
    pytest.importorskip("numpy")
    code = "from tierkeeper.cli import lean; lean(); import os, numpy; print(len(os.listdir('/proc/self/task')))"
    own = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    environment = own if said is None else {**own, "OPENBLAS_NUM_THREADS": said}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(threads)]
