"""What one process saw of the tiers, as another reads it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tierkeeper.kernel.limits import TIER_SEEN_SECONDS
from tierkeeper.monitoring.seen import FILE, Seen, away, read, write

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OUT = Seen("out", "no answer", NOW - timedelta(hours=1), NOW - timedelta(seconds=1), away=True)


def test_only_a_fresh_word_of_a_tier_that_does_not_answer_counts() -> None:
    assert away({"main": OUT}, "main", NOW) == OUT
    assert away({"main": OUT}, "core", NOW) is None
    assert away({"main": replace(OUT, away=False)}, "main", NOW) is None, "a wrong password is told by the server, and better"
    old = replace(OUT, asked_at=NOW - timedelta(seconds=TIER_SEEN_SECONDS + 0.1))
    assert away({"main": old}, "main", NOW) is None
    ahead = replace(OUT, asked_at=NOW + timedelta(seconds=1))
    assert away({"main": ahead}, "main", NOW) is None, "the clock was set: nobody knows how old that is"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "new", {"main": OUT, "core": replace(OUT, state="in", away=False)})
    assert read(tmp_path / "new") == {"main": OUT, "core": replace(OUT, state="in", away=False)}
    assert (tmp_path / "new" / FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"main": 1}', '{"main": {"state": "out"}}', '{"main": {"state": "out", "why": "", "since": "now"}}',
     '{"main": {"state": "out", "why": "x", "since": "2026-01-02T03:04:05", "asked_at": "2026-01-02T03:04:05", "away": true}}'],
)  # fmt: skip
def test_a_damaged_word_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read(tmp_path) == {}
    assert read(tmp_path / "absent") == {}
