"""What was seen of a tier ends an attempt early, and does nothing else."""

from datetime import UTC, datetime, timedelta

import pytest

from tierkeeper.compose.hints import Hints
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import NotNow
from tierkeeper.monitoring.seen import Seen


def hints(*, away: bool = True) -> Hints:
    now = datetime.now(UTC)
    seen = Seen("out", "the server does not answer", now - timedelta(minutes=5), now, away)
    return Hints(lambda: {"main": seen}, SystemClock())


def test_it_says_since_when_and_why() -> None:
    told = r"^tiers.main \(x\): it is out since 20.* UTC: the server does not answer"
    with pytest.raises(NotNow, match=told), hints().gate("main")("tiers.main (x)"):
        pytest.fail("it was tried")
    with hints().gate("core")("tiers.core"), hints(away=False).gate("main")("tiers.main"):
        pass


def test_whoever_has_just_reached_a_tier_knows_better() -> None:
    one = hints()
    gate = one.gate("main")
    with one.asking_anew(), gate("tiers.main"):
        pass
    with gate("tiers.main"):
        pass
    with pytest.raises(NotNow, match="lost"), gate("tiers.main"):
        raise NotNow("tiers.main", "lost", "Run again")
    with pytest.raises(NotNow, match="out since"), gate("tiers.main"):
        pytest.fail("it was tried after it was lost")


def test_who_is_to_tell_how_it_stands_asks_the_tier() -> None:
    one = hints()
    with one.asking_anew(), one.asking_anew(), pytest.raises(NotNow, match="away"), one.gate("main")("tiers.main"):
        raise NotNow("tiers.main", "away", "Run again")
    with pytest.raises(NotNow, match="out since"), one.gate("main")("tiers.main"):
        pytest.fail("it was tried")
