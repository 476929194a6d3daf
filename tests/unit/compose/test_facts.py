"""What is known of the runs that nobody starts by hand, from a status and a store's report."""

from datetime import UTC, datetime, timedelta

import pytest

from tierkeeper.compose.facts import Given, Sources, gather
from tierkeeper.jobs.table import SCRUB_SAMPLE
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.results import DrillStatus, ReadingStatus, StatusResult, StoreReport
from tierkeeper.monitoring.alerts.conditions import judge
from tierkeeper.monitoring.alerts.facts import Facts
from tierkeeper.monitoring.alerts.model import Condition, Kind
from tierkeeper.objectstore.enrolment import Lifetime

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DAILY = Given(periods={"scrub": DAY, "drill": 30 * DAY})


def gathered(read_days: float, *, drill: DrillStatus | None = None, report: StoreReport | None = None) -> Facts:
    """Of an archive of which something was last read so long ago."""
    reading = ReadingStatus(
        segments=60,
        unread=0,
        oldest_read_at=NOW - read_days * DAY,
        stalest_at=NOW - read_days * DAY,
        first_written_at=NOW - DAY,
        drill=drill,
    )
    status = StatusResult(tiers={}, tables={}, archive=reading)
    facts, unseen = gather(Sources(NOW, {}, lambda: status, lambda: report, lambda: ()), DAILY)
    assert unseen == []
    return facts


def told(facts: Facts) -> list[Condition]:
    return list(judge(facts, 0.85).conditions)


@pytest.mark.parametrize(("days", "kinds"), [(29, []), (44, []), (46, [Kind.SCRUB_OVERDUE])])
def test_a_daily_scrub_of_a_thirtieth_has_a_month(days: float, kinds: list[Kind]) -> None:
    assert SCRUB_SAMPLE == "1/30"
    found = told(gathered(days))
    assert [c.kind for c in found] == kinds
    assert all("all of it is to be read every 30 days" in c.cause for c in found)


def test_of_a_home_server_its_own_reading_counts_and_it_is_to_be_looked_at() -> None:
    def of_server(days: float) -> list[Condition]:
        report = StoreReport(objects=9, bytes=9, unread=0, oldest_read_at=NOW - days * DAY, overdue=True, scrub_days=10, wrong={})
        return told(gathered(90, report=report))

    assert of_server(14) == []
    (late,) = of_server(16)
    assert "every 10 days" in late.cause
    assert "tierkeeper homeserver" in late.remedy
    assert "archive verify" not in late.remedy, "that reads the server's objects here, and the server not at all"


def test_a_failed_drill_says_what_it_found_under_one_name() -> None:
    def after(*wrong: str) -> Condition:
        drill = DrillStatus(at=NOW, ok=False, segments=4, restored=4 - len(wrong), wrong=list(wrong))
        (one,) = told(gathered(1, drill=drill))
        return one

    one, two = after("a: damaged"), after("a: damaged", "b: missing")
    assert one.key == two.key, "the next drill that fails is no other alarm"
    assert (one.what, "found a fault, such as a: damaged" in one.cause) == ("the restore drill failed", True)
    assert "found 2 faults, such as a: damaged" in two.cause


def test_of_a_home_server_that_is_away_only_its_own_lifetimes_are_missing() -> None:
    def away() -> list[Lifetime]:
        raise NotNow("home server", "it does not answer", "Start it")

    status = StatusResult(tiers={}, tables={})
    facts, unseen = gather(Sources(NOW, {}, lambda: status, lambda: None, away), DAILY)
    assert (facts.expiries, facts.served) == ((), None)
    assert unseen == ["certificates of the store: it does not answer"]
