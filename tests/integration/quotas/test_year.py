"""A year of the quota manager on real tiers: Core stays within its quota, no row is lost, and little could have been cheaper."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from faultproxy import FaultProxy
from receivers import http_receiver
from support import Tiers
from tierkeeper.kernel.errors import NotNow, TierkeeperError
from year import CORE_DAYS, LOOKS, QUOTA_BYTES, Year, year

FLOOD = 200  # the day on which it begins


def live(one: Year, days: range, *, also: Callable[[], object] = lambda: None) -> None:
    """The application writes. At each look usage is recorded and pressure felt; the quota manager runs at 03:00."""
    for day in days:
        for part in range(LOOKS):
            one.look(day, part * 24 // LOOKS)
            one.write(day, part)
            assert one.keeper.record_usage().errors == []
            pressed = one.keeper.quota_if_pressed()
            assert pressed is None or pressed.errors == []
            also()
            if part == 0:
                one.look(day, 3)
                assert one.keeper.quota().errors == []
        one.count()


def check(one: Year) -> None:
    assert one.fullest_bytes < QUOTA_BYTES
    assert one.everything() == list(range(1, sum(one.written) + 1))


def test_a_flood_finds_room(tiers: Tiers) -> None:
    """Two weeks, the last days of which bring more than Core has room for."""
    with year(tiers) as one:
        one.begin(FLOOD - 10)
        live(one, range(FLOOD - 10, FLOOD + 4))
        check(one)
        assert one.fullest_bytes > 0.7 * QUOTA_BYTES
        before = len(one.written) - len(one.held)
        by_age = [sum(one.written[: before + day][-CORE_DAYS:]) for day in range(1, len(one.held) + 1)]
        early = [kept < young for (kept, _, _), young in zip(one.held, by_age, strict=True)]
        assert not any(early[:10]) and any(early[10:]), "rows left before their time, in the flood alone"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_year(tiers: Tiers) -> None:
    with year(tiers) as one:
        began = time.monotonic()
        live(one, range(365))
        took_seconds = time.monotonic() - began
        check(one)
        ratio = one.cost() / one.best()
        print(  # noqa: T201
            f"a year in {took_seconds:.0f} s: {sum(one.written)} rows, cost / optimum {ratio:.4f}, Core at most"
            f" {one.fullest_bytes / QUOTA_BYTES:.1%} of its quota, Main at most {max(main for _, main, _ in one.held)} rows"
        )
        assert ratio <= 1.05, f"what was held cost {ratio:.4f} times the optimum with hindsight"


@pytest.mark.long
def test_main_is_away_for_a_week(tiers: Tiers) -> None:
    """Watching and alerts go on from this machine's own memory, moves wait, nothing is lost; then all of it is made up."""
    with FaultProxy(int(tiers.main.parameters["port"])) as proxy, http_receiver() as receiver:
        behind = replace(tiers, main=proxy.link(tiers.main))
        with year(tiers, reached=behind, extra=f'[alerts]\nnotify = ["{receiver.url}"]') as one:
            one.begin(100)
            live(one, range(100, 102), also=one.alerts)
            held = one.held[-1]
            proxy.refuse()
            for day in range(102, 109):
                for part in range(LOOKS):
                    one.look(day, part * 24 // LOOKS)
                    one.write(day, part)
                    assert one.keeper.record_usage().where == "spool"
                    one.alerts()
                    with pytest.raises(TierkeeperError) as raised:
                        one.keeper.quota_if_pressed()
                    assert raised.value.exit_code == NotNow.exit_code
            assert [title for title in receiver.titles if "main" in title.lower()] != []
            proxy.heal()
            live(one, range(109, 112), also=one.alerts)
            check(one)
            assert one.held[-1][1] > held[1], "what had waited has moved"
            since, until = one.calendar.instant - timedelta(days=10), one.calendar.instant - timedelta(days=3)
            looks = {s.at for s in one.keeper.history.series("core") if since <= s.at <= until}
            assert len(looks) >= 7 * LOOKS - 2, "the curve has no gap"
