"""What is a success, and what an error tells."""

import pytest

from tierkeeper.functions.verdict import RunFaults, fault, told
from tierkeeper.kernel.errors import Exit, Failed, Faults, NotNow, UsageError
from tierkeeper.kernel.results import (
    ArchiveRunResult,
    CheckResult,
    FaultResult,
    HealthItem,
    HealthResult,
    Left,
    MoveResult,
    QuotaResult,
    Result,
    SetupResult,
    StaysFull,
    VerifyResult,
)
from tierkeeper.kernel.results.meaning import exit_code, left_over
from tierkeeper.kernel.stop import STOPPED, TIME_LIMIT


def move(rows: int, because: str = "complete", table: str = "public.t", left: int = 0, to: str = "main") -> MoveResult:
    return MoveResult(
        table=table, from_="core", to=to, batches=1, rows=rows, bytes=1, seconds=1, stopped_because=because, rows_left=left
    )


def verified(**more: object) -> VerifyResult:
    given = {"segments": 3, "checked": 3, "damaged": [], "missing": [], "ok": True}
    return VerifyResult.model_validate(given | more)


LOCKED = FaultResult(place="public.u", cause="something holds a lock", remedy="Run again", not_now=True)
BROKEN = FaultResult(place="public.v", cause="a trigger raises", remedy="Change it", not_now=False)
FULL = StaysFull(tier="core", used_bytes=218, quota_bytes=100, over_quota=True, cause="resting", remedy="Wait")
LEFT = [Left(table="public.t", from_="core", to="main", rows=7)]

GOOD = [
    QuotaResult(dry_run=False, tiers={}),
    QuotaResult(dry_run=False, tiers={}, moves=[move(5, TIME_LIMIT, left=7)], left=LEFT, stopped_because=TIME_LIMIT),
    QuotaResult(dry_run=False, tiers={}, moves=[move(0, "resting", left=7)], left=LEFT),
    QuotaResult(dry_run=False, tiers={}, stays_full=[FULL]),
    ArchiveRunResult(runs=[move(5)]),
    SetupResult(applied=True, steps=[]),
    verified(),
    verified(checked=1, left=[Left(segments=2)], stopped_because=TIME_LIMIT),
    HealthResult(ok=True, checks=[]),
]
BAD = [
    (QuotaResult(dry_run=False, tiers={}, errors=[LOCKED]), Exit.NOT_NOW, "public.u: something holds a lock. Run again"),
    (ArchiveRunResult(runs=[move(5)], errors=[LOCKED, BROKEN]), Exit.FAILED, "public.v: a trigger raises. Change it"),
    (SetupResult(applied=True, steps=[], errors=[LOCKED]), Exit.NOT_NOW, "public.u"),
    (verified(damaged=["a: its bytes differ"], ok=False), Exit.FAILED, "damaged: a: its bytes differ"),
    (verified(missing=["b: it is not there"], ok=False), Exit.FAILED, "missing: b: it is not there"),
    (
        HealthResult(ok=False, checks=[HealthItem(name="api x:1", healthy=False, cause="refused", remedy="Start it")]),
        Exit.FAILED,
        "api x:1: refused. Start it",
    ),
    (QuotaResult(dry_run=False, tiers={}, stopped_because=STOPPED), Exit.NOT_NOW, "asked to stop"),
    (ArchiveRunResult(runs=[], left=LEFT, stopped_because=TIME_LIMIT), Exit.NOT_NOW, "too short for a single step"),
    (ArchiveRunResult(runs=[move(0, TIME_LIMIT, left=7)], left=LEFT, stopped_because=TIME_LIMIT), Exit.NOT_NOW, "longer timeout"),
    (verified(checked=0, left=[Left(segments=3)], stopped_because=TIME_LIMIT), Exit.NOT_NOW, "3 segments"),
]


@pytest.mark.parametrize("result", GOOD, ids=range(len(GOOD)))
def test_what_the_command_line_ends_with_0_is_a_success(result: Result) -> None:
    assert exit_code(result) is Exit.DONE
    assert fault(result) is None


@pytest.mark.parametrize(("result", "code", "words"), BAD, ids=range(len(BAD)))
def test_what_it_ends_otherwise_is_raised(result: Result, code: Exit, words: str) -> None:
    found = fault(result)
    assert found is not None
    assert found.exit_code is code
    assert words in str(found)
    assert exit_code(result) in (code, Exit.DONE)


def test_every_result_that_is_not_well_is_raised() -> None:
    unlike = CheckResult(ok=False, checks=[])
    assert str(fault(unlike)).startswith("result: it says that something is wrong")


def test_an_error_says_what_was_done_all_the_same() -> None:
    found = fault(ArchiveRunResult(runs=[move(1500, to="archive")], removed=["s"], errors=[BROKEN, LOCKED]))
    assert str(found).splitlines() == [
        "public.v: a trigger raises. Change it",
        "public.u: something holds a lock. Run again",
        "Done all the same: 1,500 rows of public.t went from core to archive; 1 segments whose time was over were removed",
    ]


def test_a_list_of_faults_tells_them_all() -> None:
    assert str(Faults([Failed("a", "b", "c"), NotNow("d", "e", "f")])) == "a: b. c\nd: e. f"


def test_secrets_are_taken_out_and_options_are_keys() -> None:
    environment = {"HOME_SERVER_TOKEN": "swordfish-swordfish"}
    error = RunFaults(
        [UsageError("--what-if", "it is swordfish-swordfish", "No"), NotNow("x", "postgres://u:p@h/d", "Wait")],
        "rows of swordfish-swordfish",
    )
    plain = told(error, environment)
    assert "swordfish" not in str(plain) and "u:p" not in str(plain)
    assert str(plain).startswith("event: what_if: it is")
    assert plain.exit_code is Exit.USAGE
    for remedy, said in (
        ("Leave it out, or say with --on-conflict what becomes", "Leave it out, or say with on_conflict what becomes"),
        ('Deploy with --param="kms-key=ARN"', 'Deploy with --param="kms-key=ARN"'),
        ("Restore it: tierkeeper archive restore --segment", "Restore it: tierkeeper archive restore --segment"),
    ):
        assert told(UsageError("x", "y", remedy), {}).remedy == said


def test_what_is_left_is_what_the_last_run_over_a_table_left() -> None:
    moves = [
        move(5, "resting", left=7),
        move(7),
        move(1, "row limit", table="public.u", left=9),
        move(1, TIME_LIMIT, "public.w", 3),
    ]
    assert left_over(moves, LEFT) == [Left(table="public.w", from_="core", to="main", rows=3), *LEFT]
