"""What a look says where a tier cannot be seen."""

from tierkeeper.compose.board import Looks, look
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.results import AlertStatusResult, StatusResult, TableStatus, TierStatus
from tierkeeper.postgres.link import Link


def test_batches_in_flight_are_not_known_while_a_tier_is_away() -> None:
    away = TierStatus(used_bytes=None, quota_bytes=1, share=None, healthy=False, read_only=None, cause="x", remedy="y")
    table = TableStatus(mode="move", in_flight=0)
    found = StatusResult(tiers={"core": away}, tables={"public.t": table})
    links = {"core": Link("core", "postgresql://u:p@127.0.0.1:1/d")}
    seen = look(Looks(lambda: found, lambda: AlertStatusResult(alerts=[]), links, (), {}, SystemClock()))
    assert seen.tables["public.t"].in_flight is None
    assert seen.moves is None
