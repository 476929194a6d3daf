"""How often a server is asked for its certificates."""

from datetime import UTC, datetime, timedelta

import pytest

from tierkeeper.monitoring.shown import Shown, ShownForm, is_due
from tierkeeper.postgres.certificates import Ending

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SEEN = Shown(NOW, (Ending("CN=server", NOW + 90 * 24 * HOUR, is_servers=True),))


def test_daily_and_hourly_where_it_did_not_answer() -> None:
    assert is_due(None, NOW)
    assert not is_due(SEEN, NOW + 23 * HOUR)
    assert is_due(SEEN, NOW + 24 * HOUR)
    silent = Shown(NOW, SEEN.endings, "refused")
    assert not is_due(silent, NOW + 0.9 * HOUR)
    assert is_due(silent, NOW + HOUR)
    assert is_due(SEEN, NOW - HOUR), "what a wrong clock has noted"


def test_it_is_written_down_and_read_and_of_two_the_later_look_counts() -> None:
    form, later = ShownForm(), Shown(NOW + HOUR, SEEN.endings)
    assert form.parse(form.dump({"core": SEEN})) == {"core": SEEN}
    assert form.merge({"core": SEEN, "main": later}, {"core": later, "main": SEEN}) == {"core": later, "main": later}
    with pytest.raises(ValueError, match="known here"):
        form.parse({"version": 2, "tiers": {}})
