"""What is said of a tier that is too full still: every reason that is known, each with what to do."""

from dataclasses import replace
from typing import Any

import pytest

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.results import FaultResult, MoveResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.quotas.full import Seen, why

LOGS, WAGES = TableName("public", "logs"), TableName("public", "wages")
POLICY = TablePolicy(LOGS, "at", core=Age.parse("30 days", "core"), core_min=Age.parse("7 days", "core_min"))


def move(left: int, because: str) -> MoveResult:
    given = {"table": "public.logs", "from": "core", "to": "main", "batches": 0, "rows": 0, "bytes": 0, "seconds": 0.0}
    return MoveResult.model_validate(given | {"stopped_because": because, "rows_left": left})


def said(*, moves: list[MoveResult] = [], errors: list[FaultResult] = [], kept: int = 0, size: int = 0) -> str:  # noqa: B006
    found = list(
        why("core", [POLICY], [], [(LOGS, 9_000_000), *([(WAGES, size)] if size else [])], Seen(moves, errors, {LOGS: kept}))
    )
    assert all(cause and remedy for cause, remedy in found)
    return "; ".join(cause for cause, _ in found)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"moves": [move(9, "resting"), move(7, "resting")]}, "rows that may not leave yet: 7 of public.logs (resting)"),
        ({"moves": [move(9, "row limit"), move(7, "row limit")]}, "and leaves to the next: 7 of public.logs"),
        ({"errors": [FaultResult(place="public.u", cause="locked", remedy="Wait")]}, "had to wait: public.u"),
        ({"kept": 5_000_000}, "space of deleted rows did not come back: public.logs (5.0 MB)"),
        ({"size": 4_000_000}, "no policy lets rows leave public.wages (4.0 MB)"),
        ({}, "the least age keeps rows of public.logs"),
    ],
)
def test_each_reason_is_told(given: dict[str, Any], words: str) -> None:
    assert words in said(**given)
    assert "9 of public.logs" not in said(**given), "the last move of a table says what it left"


def test_without_a_reason_what_lies_there_is_told() -> None:
    free = replace(POLICY, core_min=None)
    ((cause, remedy),) = why("core", [free], [], [(LOGS, 9_000_000)], Seen((), (), {}))
    assert "public.logs (9.0 MB)" in cause
    assert "again" in remedy
