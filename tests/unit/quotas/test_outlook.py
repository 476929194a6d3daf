from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest

from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.results import TierStatus
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Link
from tierkeeper.quotas.outlook import outlook, total, warned
from tierkeeper.tiers.price import Price
from tierkeeper.tiers.profile import SUPABASE_FREE
from tierkeeper.tiers.tier import Tier

NOW = datetime(2026, 6, 30, tzinfo=UTC)
MB = 10**6
FLIGHTS, LOGS = TableName("public", "flights"), TableName("public", "logs")
CORE = Tier("core", Link("core", "postgresql://x/y"), 500 * MB, SUPABASE_FREE, SUPABASE_FREE.price)
MAIN = Tier("main", Link("main", "postgresql://x/y"), 10_000 * MB, price=Price(storage_per_gb_month=10.0, fixed_per_month=5.0))


@dataclass(frozen=True)
class Given:
    at: datetime
    table: TableName | None
    bytes: int


class Past:
    """Sixty days in which Core grew by 5 MB a day, 4 of them the logs'. It counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def samples(
        self, tier: TierName | None = None, table: TableName | None = None, *, every: bool = False, since: datetime | None = None
    ) -> Sequence[Given]:
        assert table is None
        assert every
        assert since is not None
        self.asked += 1
        days = [d for d in range(60) if NOW - timedelta(days=60 - d) >= since]
        sizes = ((None, 100, 5), (FLIGHTS, 90, 1), (LOGS, 10, 4)) if tier == "core" else ()
        return [Given(NOW - timedelta(days=60 - d), t, (base + rate * d) * MB) for d in days for t, base, rate in sizes]

    def egress(self, tier: TierName, month: date) -> int:
        assert month == NOW.date()
        return 2_000 * MB if tier == "core" else 0


def test_each_tier_is_foreseen_and_priced_with_one_question_to_the_history() -> None:
    past = Past()
    told = outlook(past, {"core": CORE, "main": MAIN}, {"core": 400 * MB, "main": 1_000 * MB}, NOW)
    assert past.asked == 2
    forecast, cost = told["core"]
    assert forecast.days_to_full == pytest.approx(20, abs=0.5)
    assert (forecast.driver, forecast.driver_bytes_per_day) == ("public.logs", pytest.approx(4 * MB, rel=0.01))
    assert forecast.confidence == "high"
    assert (cost.month, cost.egress_bytes, cost.egress_budget_bytes) == (0, 2_000 * MB, 5_000 * MB)
    forecast, cost = told["main"]
    assert forecast.confidence == "none"
    assert cost.month == pytest.approx(10.0 + 5.0)
    assert cost.known_since == NOW
    assert total([c for _, c in told.values()]).month == pytest.approx(15.0)


def test_without_a_history_only_what_is_now_is_known() -> None:
    told = outlook(None, {"core": CORE}, {"core": None}, NOW)
    assert told["core"][0].confidence == "none"
    assert told["core"][1].month == 0


@pytest.mark.parametrize(
    ("used", "line", "says"),
    [
        (470, {}, "94% of its quota is used; it will be full in 6.0 days at this pace, and public.logs grows most"),
        (497, {}, "it will be full in 0.6 days at this pace"),
        (450, {}, None),  # ten days are time enough for the runs to come
        (470, {"healthy": False, "cause": "it is away"}, None),
        (470, {"read_only": True, "cause": "it is read-only"}, None),
    ],
)
def test_a_wall_that_is_close_says_what_to_do_now(used: int, line: dict[str, object], says: str | None) -> None:
    forecast, _ = outlook(Past(), {"core": CORE}, {"core": used * MB}, NOW)["core"]
    before = TierStatus(used_bytes=used * MB, quota_bytes=500 * MB, share=used / 500, healthy=True, cause="so much is used")
    before = before.model_copy(update=line)
    after = warned("core", before, forecast)
    if says is None:
        assert after == before
        return
    assert says in (after.cause or "")
    assert (after.remedy or "").startswith("Run 'tierkeeper quota' now")
    assert "a shorter core = … of public.logs" in (after.remedy or "")
