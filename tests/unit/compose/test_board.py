"""What a look makes of the audit, and how often what is metered may be looked at."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tierkeeper.compose.board import Looks, fresh_seconds, look, moves
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.limits import BOARD_EGRESS_SHARE, BOARD_FRESH_SECONDS, BOARD_METERED_FRESH_SECONDS
from tierkeeper.kernel.results import AlertStatusResult, StatusResult, TableStatus, TierStatus
from tierkeeper.postgres.link import Link
from tierkeeper.security.runs import Action

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def action(**more: Any) -> Action:
    given: dict[str, Any] = {
        "note": 2, "at": NOW, "actor": "a", "verb": "move", "subject": "t", "source": "core", "destination": "main",
        "ended_at": NOW + timedelta(seconds=3), "rows": 5, "stopped_because": "complete", "failed": None, "waited": None,
    }  # fmt: skip
    return Action(**{**given, **more})


def test_a_page_that_is_looked_at_all_month_leaves_the_budget_to_others() -> None:
    budget = 5 * 10**9
    assert fresh_seconds([(10**9, None), (0, 0)]) == BOARD_FRESH_SECONDS
    assert fresh_seconds([(8_000, budget)]) == BOARD_METERED_FRESH_SECONDS
    for sent in (8_000, 100_000, 3_000_000):
        looks = 31 * 86_400 / fresh_seconds([(sent, budget), (1, None)])
        assert looks * sent <= BOARD_EGRESS_SHARE * budget * 1.001


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, ("core", "main", 5, 3.0, "verified", None)),
        ({"stopped_because": "resting"}, ("core", "main", 5, 3.0, "verified", "resting")),
        ({"failed": "a lock", "rows": None}, ("core", "main", None, 3.0, "failed", "a lock")),
        ({"ended_at": None, "rows": None, "stopped_because": None}, ("core", "main", None, None, "open", None)),
        ({"verb": "thaw", "source": None, "destination": None}, ("archive", "main", 5, 3.0, "verified", None)),
        ({"rows": 0}, None),
        ({"verb": "quota"}, None),
        ({"verb": "erase", "source": None, "destination": None}, None),
    ],
)
def test_a_move_is_what_took_rows_or_did_not_come_to_it(more: dict[str, Any], told: tuple[object, ...] | None) -> None:
    found = [(m.from_, m.to, m.rows, m.seconds, m.state, m.cause) for m in moves([action(**more)])]
    assert found == ([] if told is None else [told])


def test_batches_in_flight_are_not_known_while_a_tier_is_away() -> None:
    away = TierStatus(used_bytes=None, quota_bytes=1, share=None, healthy=False, read_only=None, cause="x", remedy="y")
    table = TableStatus(mode="move", in_flight=0)
    found = StatusResult(tiers={"core": away}, tables={"public.t": table})
    links = {"core": Link("core", "postgresql://u:p@127.0.0.1:1/d")}
    seen = look(Looks(lambda: found, lambda: AlertStatusResult(alerts=[]), links, (), {}, SystemClock()))
    assert seen.tables["public.t"].in_flight is None
    assert seen.moves is None
