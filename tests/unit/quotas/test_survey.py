"""What a survey makes of the history: how what no cutoff moves grows, and how much egress is left for moves."""

from datetime import UTC, date, datetime, timedelta

import pytest

from tierkeeper.kernel.policy import Tier as TierName
from tierkeeper.kernel.series import Sample
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Link
from tierkeeper.quotas import survey
from tierkeeper.quotas.stock import Cutoffs, Slice, Stock, World
from tierkeeper.tiers.price import NOTHING, Price
from tierkeeper.tiers.profile import SUPABASE_FREE
from tierkeeper.tiers.tier import Tier

NOW = datetime(2026, 6, 16, tzinfo=UTC)
MB = 10**6
FLIGHTS = TableName("public", "flights")


def daily(days: int, base: int, rate: int) -> list[Sample]:
    return [Sample(NOW - timedelta(days=days - d), (base + rate * d) * MB) for d in range(days)]


def test_what_no_cutoff_moves_grows_by_what_is_left_of_the_tiers_growth() -> None:
    past = {None: daily(60, 100, 7), FLIGHTS: daily(60, 50, 4)}
    assert survey._others_per_day(past, [FLIGHTS], NOW) == pytest.approx(3 * MB, rel=0.02)
    assert survey._others_per_day(past, [], NOW) == pytest.approx(7 * MB, rel=0.02)
    past[FLIGHTS] = past[FLIGHTS][::3]  # its samples are thinned out otherwise
    assert survey._others_per_day(past, [FLIGHTS], NOW) == pytest.approx(3 * MB, rel=0.02)
    assert survey._others_per_day({None: daily(60, 900, -3)}, [], NOW) == 0
    assert survey._others_per_day({None: daily(5, 100, 7)}, [], NOW) == 0, "too short to tell"


class Sent:
    """In May so much, and in the half of June that is over so much."""

    def __init__(self, may: int | None, june: int | None) -> None:
        self.by_month = {5: may, 6: june}

    def egress(self, tier: TierName, month: date) -> int | None:  # noqa: ARG002 - each tier sent as much
        return self.by_month[month.month]

    def samples(self, *_: object, **__: object) -> list[Sample]:
        return []


@pytest.mark.parametrize(
    ("now", "sent", "left"),
    [
        (NOW, Sent(100 * MB, 1_000 * MB), 5_000 - (2_000 - 300)),  # the half month at its pace, without the moves' own
        (NOW.replace(day=3), Sent(800 * MB, 900 * MB), 5_000 - (800 - 300)),  # a few days tell less than the month before
        (NOW, Sent(None, None), 5_000),
        (NOW, None, 5_000),
    ],
)
def test_what_is_sent_besides_is_not_left_for_moves(now: datetime, sent: Sent | None, left: int) -> None:
    moving = Stock(FLIGHTS, Cutoffs(30, None), (Slice(0, 30, 300_000),), {"core": 1e3, "main": 1e3, "archive": 1e3}, 10_000.0)
    core = Tier("core", Link("core", "postgresql://x/y"), 500 * MB, SUPABASE_FREE, Price(egress_per_gb=None))
    main = Tier("main", Link("main", "postgresql://x/y"), 500 * MB, SUPABASE_FREE, Price(egress_per_gb=0.1))
    world = World((moving,), {}, {}, {"core": NOTHING}, 0.85)
    found = survey._egress_left({"core": core, "main": main}, world, sent, now)
    assert found == pytest.approx({"core": left * MB}, rel=0.02), "what may cost more is no bound"
