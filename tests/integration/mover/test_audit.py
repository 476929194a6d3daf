"""I7: an action has a record before it and after it, or it does not run."""

from typing import Any

import pytest

from tierkeeper.kernel.errors import Failed, TierkeeperError
from tierkeeper.security.audit import PostgresAudit

RECORDS = "SELECT kind, verb, subject, detail FROM tierkeeper.audit ORDER BY id"


def test_the_intent_is_durable_before_the_action_and_the_outcome_after(pair: Any) -> None:
    with PostgresAudit(pair.tiers.main).action("move", "public.events", {"to": "main"}) as note:
        assert pair.main.execute(RECORDS).fetchall() == [("intent", "move", "public.events", {"to": "main"})]
        note(rows=7)
    assert pair.main.execute(RECORDS).fetchall()[1:] == [("outcome", "move", "public.events", {"rows": 7})]


def test_a_failure_is_an_outcome_too(pair: Any) -> None:
    with pytest.raises(Failed), PostgresAudit(pair.tiers.main).action("move", "t", {}) as note:
        note(rows=1)
        raise Failed("t", "it differs", "Look")
    assert pair.main.execute(RECORDS).fetchall()[1:] == [("outcome", "move", "t", {"rows": 1, "failed": "it differs"})]


def test_without_a_record_nothing_runs(pair: Any) -> None:
    pair.main.execute("ALTER TABLE tierkeeper.audit RENAME TO elsewhere")
    ran = False
    with pytest.raises(TierkeeperError), PostgresAudit(pair.tiers.main).action("move", "t", {}):
        ran = True
    assert not ran
