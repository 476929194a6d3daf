"""What a page makes of the audit."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tierkeeper.security.runs import Action
from tierkeeper.security.shown import moves

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def action(**more: Any) -> Action:
    given: dict[str, Any] = {
        "note": 2, "at": NOW, "actor": "a", "verb": "move", "subject": "t", "source": "core", "destination": "main",
        "ended_at": NOW + timedelta(seconds=3), "rows": 5, "stopped_because": "complete", "failed": None, "waited": None,
    }  # fmt: skip
    return Action(**{**given, **more})


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
